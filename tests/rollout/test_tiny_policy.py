"""The tiny policy's words come from the tasks that can be played."""

import pytest
from launching import module

from openrlhf_agentprm.cli import tiny_policy
from openrlhf_agentprm.core.errors import UserError

FAULTY = ["--env.name", "thirdparty_faulty", "--env.reset_timeout", "3"]


def test_tasks_that_break_are_left_out_and_counted(tmp_path):
    done = module("tiny_policy", *FAULTY, "--env.num_tasks", 12, "--tiny.output", tmp_path / "policy", "--tiny.layers", 2)
    assert "2 of 12 tasks broke and were left out, the first ('train-0') with:" in done.stdout and "broken on purpose" in done.stdout
    assert "parameters" in done.stdout and (tmp_path / "policy/tokenizer.json").exists()


def test_nothing_is_made_where_every_task_breaks(tmp_path):
    arguments = [*FAULTY, "--env.num_tasks", "1", "--tiny.output", str(tmp_path / "policy")]
    with pytest.raises(UserError, match="there is no text to make a tokenizer of: 1 of 1 tasks broke.*broken on purpose"):
        tiny_policy.main(arguments)
    assert not (tmp_path / "policy").exists()
