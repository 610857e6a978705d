"""Chains of sums: the public checker, answers graded by rule, questions that no two splits share, slips that are carried on."""

import re

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.arithmetic import ArithmeticEnv, last_number
from openrlhf_agentprm.envs.base import SPLITS, make_env
from openrlhf_agentprm.envs.checker import check_env


@pytest.mark.parametrize("args", [{}, {"terms": 2}, {"terms": 12, "largest": 99}])
def test_it_passes_the_checker(args):
    found = check_env(lambda: make_env("arithmetic", **args))
    assert [r for r in found if r.problem] == [] and sum(not r.skipped for r in found) >= 10


def answer(task, text, **args):
    env = ArithmeticEnv(**args)
    env.reset(options={"task_id": task})
    _, reward, terminated, _, info = env.step(text)
    assert terminated and info["success"] == bool(reward)
    return reward, info["valid_action"]


def test_the_last_number_is_the_answer():
    env = ArithmeticEnv()
    observation, info = env.reset(options={"task_id": "3+4-2"})
    assert observation == "3 + 4 - 2 = ?" and "semicolon" in info["instruction"]
    assert env.expert_action() == "3 + 4 = 7;\n7 - 2 = 5"
    for right in ("3 + 4 = 7;\n7 - 2 = 5", "5", "The answer is 5.", "3 + 4 = 9; 9 - 2 = 5;", "It is\n5\n"):
        assert answer("3+4-2", right) == (1.0, True)
    for wrong in ("3 + 4 = 7;\n7 - 2 = 6", "5, or rather 6", "3 + 4 = 7", "-5"):
        assert answer("3+4-2", wrong) == (0.0, True)
    assert answer("3+4-2", "five") == (0.0, False) and answer("3+4-2", "") == (0.0, False)
    assert answer("9+3", "9 + 3 = 1 2")[0] == 1.0, "a word-level tokenizer writes digits apart"
    assert answer("3-5", "3 - 5 = - 2")[0] == 1.0 and last_number("7 - 2") == 2


def test_every_question_is_in_one_split_and_once():
    env = ArithmeticEnv(terms=4)
    splits = {split: list(env.tasks(split)) for split in SPLITS}
    every = [task for tasks in splits.values() for task in tasks]
    assert len(every) == len(set(every)) == 10 * 9**3
    assert [len(tasks) for tasks in splits.values()] == [5832, 729, 729]
    for task in every:
        terms = [int(t) for t in re.findall(r"[+-]?\d", task)]
        assert len(terms) == 4 and all(0 <= sum(terms[: k + 1]) <= 9 for k in range(4)) and 0 not in terms[1:]
    assert len({task[0] for task in splits["train"][:60]}) == 10, "neighbours are unlike"
    assert ArithmeticEnv(terms=40).tasks("train")[5] == ArithmeticEnv(terms=40).tasks("train")[5]


def test_slips_go_on_from_the_wrong_result():
    env = ArithmeticEnv()
    env.reset(options={"task_id": "1+1+1+1+1"})
    right = wrong = 0
    for seed in range(200):
        lines = env.demonstrator("slips", noise=0.25, seed=seed)().split(";\n")
        before = 1
        for line in lines:
            left, came = line.split(" = ")
            a, _, b = left.split()
            assert int(a) == before and b == "1"
            right, wrong, before = right + (int(came) == before + 1), wrong + (int(came) != before + 1), int(came)
    assert right + wrong == 800 and abs(wrong / 800 - 0.25) < 0.065  # four standard deviations
    assert env.demonstrator("slips", noise=0.0, seed=0)() == env.expert_action()


@pytest.mark.parametrize("task", ["3", "3*4", "3+", "+3", "3 + 4", "x+1"])
def test_a_task_that_is_no_chain(task):
    with pytest.raises(UserError, match="is no chain of sums"):
        ArithmeticEnv().reset(options={"task_id": task})


def test_arguments_and_demonstrators_that_are_not_there():
    with pytest.raises(UserError) as caught:
        ArithmeticEnv(terms=1, largest="many")
    assert "terms is 1" in str(caught.value) and "largest is 'many'" in str(caught.value)
    with pytest.raises(UserError, match="known: expert, slips"):
        ArithmeticEnv().demonstrator("sloppy", noise=0.1, seed=0)
    with pytest.raises(UserError, match="unknown split 'all'"):
        ArithmeticEnv().tasks("all")
