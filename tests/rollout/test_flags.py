"""Numbers of the --env.* flags that no run could use are refused, with what is allowed."""

import pytest

from openrlhf_agentprm.core.arguments import Parser, parse_nested
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.rollout.config import EnvConfig
from openrlhf_agentprm.rollout.flags import add_env_flags, add_placement_flags


def parse(*arguments):
    parser = Parser()
    add_env_flags(parser)
    add_placement_flags(parser)
    return EnvConfig.from_namespace(parse_nested(parser, ["--env.name", "e", *arguments]).env)


@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("max_turns", ["0", "-1", "2.5", "many"], "1 or more is allowed"),
        ("max_tokens_per_turn", ["0", "-1"], "1 or more is allowed"),
        ("num_workers", ["0", "-4"], "1 or more is allowed"),
        ("num_tasks", ["0", "-1"], "1 or more is allowed"),
        ("max_retries", ["-1"], "0 or more is allowed"),
        ("first_task", ["-1"], "0 or more is allowed"),
        ("num_spares", ["-1", "few"], "0 or more is allowed"),
        ("max_memory", ["0", "-1", "nan", "1e6"], "more than 0 is allowed, and at most 100000"),
        ("num_cpus", ["0", "-1", "inf"], "more than 0 is allowed, and at most 10000"),
        ("num_pools", ["0"], "1 or more is allowed"),
        ("reset_timeout", ["0", "-1", "nan", "inf", "soon"], "more than 0 is allowed, and at most 1000000"),
        ("step_timeout", ["0", "-1", "nan", "inf", "1e9"], "more than 0 is allowed, and at most 1000000"),
    ],
)
def test_a_number_that_no_run_could_use(name, values, allowed):
    for value in values:
        with pytest.raises(UserError) as caught:
            parse(f"--env.{name}", value)
        assert f"--env.{name} is '{value}'" in str(caught.value)
        assert allowed in str(caught.value) or value in ("2.5", "many", "soon", "few")


def test_the_least_numbers_that_are_allowed():
    config = parse("--env.max_retries", "0", "--env.first_task", "0", "--env.num_workers", "1", "--env.step_timeout", "0.5")
    assert (config.max_retries, config.first_task, config.num_workers, config.step_timeout) == (0, 0, 1, 0.5)
    assert config.max_tokens_per_turn is None and config.num_tasks is None
