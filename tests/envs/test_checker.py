"""The public checker passes good environments and names what is broken in bad ones."""

import pytest
from envs.broken_envs import BROKEN, Counter

from openrlhf_agentprm.envs.checker import check_env


def test_a_correct_environment_passes():
    assert [r for r in check_env(Counter) if r.problem] == []


@pytest.mark.parametrize("broken, check, message", BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_each_fault_is_found_and_named(broken, check, message):
    problems = {r.name: r.problem for r in check_env(broken, time_limit=0.3) if r.problem}
    assert message in problems[check]
