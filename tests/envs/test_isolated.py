"""The checker in a process of its own outlives what the environment does to its process."""

import multiprocessing

import pytest
from envs.broken_envs import FATAL, UNBUILDABLE, BadExpert, Counter

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs import isolated
from openrlhf_agentprm.envs.checker import CHECKS, check_env, name_of
from openrlhf_agentprm.envs.isolated import check_env_isolated


def test_its_results_are_the_checkers_own():
    assert list(check_env_isolated(Counter)) == check_env(Counter)
    assert list(check_env_isolated(BadExpert, steps=4)) == check_env(BadExpert, steps=4)


@pytest.mark.parametrize("broken, check, message", FATAL, ids=lambda x: getattr(x, "__name__", None))
def test_the_check_in_which_the_process_ended_is_named(broken, check, message, monkeypatch):
    monkeypatch.setattr(isolated, "_GRACE", 0.5)
    results = list(check_env_isolated(broken, 0.5))
    assert [r.name for r in results] == [name_of(c) for c in CHECKS], "the other checks are run all the same"
    problems = {r.name: r.problem for r in results}
    assert message in problems[check] and not problems["splits are disjoint"]


@pytest.mark.parametrize("broken, message", UNBUILDABLE, ids=lambda x: getattr(x, "__name__", None))
def test_an_environment_that_cannot_be_built_is_told_before_any_check(broken, message):
    with pytest.raises(UserError) as caught:
        next(check_env_isolated(broken, 1))
    assert message in str(caught.value)


def test_each_result_comes_when_its_check_ends_and_leaving_early_leaves_no_process():
    results = check_env_isolated(Counter)
    assert next(results).name == "reset returns text and instruction"
    results.close()
    assert multiprocessing.active_children() == []
