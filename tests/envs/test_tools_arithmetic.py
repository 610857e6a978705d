"""Purchases worked out by tools: the public checker, prices that have to be looked up, answers graded by rule, calls read as data."""

import json
from functools import partial

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.base import SPLITS, make_env
from openrlhf_agentprm.envs.checker import check_env
from openrlhf_agentprm.envs.tools_arithmetic import ToolsArithmeticEnv


@pytest.mark.parametrize("args", [{}, {"items": 1}, {"items": 6, "largest": 9}])
def test_it_passes_the_checker(args):
    found = check_env(partial(make_env, "tools_arithmetic", **args), episodes=50)
    assert [r for r in found if r.problem or r.skipped] == []


@pytest.fixture
def env():
    env = ToolsArithmeticEnv()
    observation, info = env.reset(seed=3, options={"task_id": "3 lamp + 2 brush"})
    assert observation == "What do 3 lamps and 2 brushes cost together?" and info["valid_action"]
    return env


def call(env, name, **arguments):
    return env.step(json.dumps({"name": name, "arguments": arguments}))


def test_a_question_is_worked_out_by_tools(env):
    lamp, brush = (int(call(env, "lookup", item=item)[0]) for item in ("lamp", "brush"))
    assert 2 <= min(lamp, brush) <= max(lamp, brush) <= 50
    assert [call(env, "multiply", a=3, b=lamp)[0], call(env, "multiply", a=brush, b=2.0)[0]] == [str(3 * lamp), str(2 * brush)]
    assert call(env, "add", a=2 * brush, b=3 * lamp)[0] == str(3 * lamp + 2 * brush)
    assert json.loads(env.expert_action()) == {"name": "submit_answer", "arguments": {"value": 3 * lamp + 2 * brush}}
    told, reward, terminated, _, info = call(env, "submit_answer", value=3 * lamp + 2 * brush)
    assert (told, reward, terminated, info) == ("Handed in.", 1.0, True, {"valid_action": True, "success": True})


def test_a_wrong_answer_ends_the_task(env):
    _, reward, terminated, _, info = call(env, "submit_answer", value=-1)
    assert (reward, terminated, info) == (0.0, True, {"valid_action": True, "success": False})
    with pytest.raises(RuntimeError, match="without a running episode"):
        call(env, "add", a=1, b=2)


def test_prices_are_of_the_task_and_the_seed():
    def price(task, seed):
        env = ToolsArithmeticEnv()
        env.reset(seed=seed, options={"task_id": task})
        return [call(env, "lookup", item=item)[0] for item in ("lamp", "pen", "cup")]

    assert price("2 lamp", 0) == price("2 lamp", 0)
    assert len({tuple(price(task, seed)) for task in ("2 lamp", "3 lamp") for seed in range(4)}) == 8


@pytest.mark.parametrize("action, told", [
    ("add 1 2", "No tool was called. Call one of lookup(item), add(a, b), multiply(a, b), submit_answer(value) as"),
    ('{"name": "add"}', "No tool was called."),
    ('{"name": "subtract", "arguments": {}}', "There is no tool 'subtract'. Call one of lookup(item)"),
    ('{"name": ["add"], "arguments": {}}', 'There is no tool ["add"].'),
    ('{"name": "add", "arguments": {"a": 1}}', "add takes a, b; it was given 'a'."),
    ('{"name": "add", "arguments": {}}', "add takes a, b; it was given nothing."),
    ('{"name": "add", "arguments": {"a": 1, "b": "2"}}', "add: b is '2'; wanted a whole number."),
    ('{"name": "add", "arguments": {"a": 1, "b": true}}', "add: b is true; wanted a whole number."),
    ('{"name": "add", "arguments": {"a": 1.5, "b": 1}}', "add: a is 1.5; wanted a whole number."),
    ('{"name": "add", "arguments": {"a": 1e400, "b": 1}}', "add: a is Infinity; wanted a whole number."),
    ('{"name": "add", "arguments": {"a": 10000000000000, "b": 1}}', "add: a is 10000000000000; wanted a whole number."),
    ('{"name": "lookup", "arguments": {"item": 3}}', "lookup: item is 3; wanted text."),
    ('{"name": "lookup", "arguments": {"item": "lamps\\ud800"}}', "There is no item 'lamps\\ud800'. The items are apple, "),
    ("[" * 100_000, "No tool was called."),
])  # fmt: skip
def test_what_is_no_call_is_answered_and_changes_nothing(env, action, told):
    before = env.snapshot()
    answer, reward, terminated, truncated, info = env.step(action)
    assert answer.startswith(told) and answer.encode() and len(answer) < 300
    assert (reward, terminated, truncated, info["valid_action"]) == (0.0, False, False, False) and env.snapshot() == before


def test_every_purchase_is_in_one_split_and_once():
    env = ToolsArithmeticEnv()
    splits = {split: list(env.tasks(split)) for split in SPLITS}
    every = [task for tasks in splits.values() for task in tasks]
    assert len(every) == len({frozenset(task.split(" + ")) for task in every}) == 66 * 64
    assert [len(tasks) for tasks in splits.values()] == [3379, 422, 423]
    assert len({task.split()[1] for task in splits["train"][:40]}) > 5, "neighbours are unlike"
    assert len(ToolsArithmeticEnv(items=6).tasks("train")) > 10**8


def test_the_expert_goes_on_behind_other_calls(env):
    """In another order, and with calls in between that lead nowhere."""
    call(env, "lookup", item="brush")
    call(env, "add", a=3, b=2)
    for _ in range(5):
        *_, info = env.step(env.expert_action())
    assert info["success"]


@pytest.mark.parametrize("task", ["3", "3 lamps", "3 lamp +", "3 lamp + 2 lamp", "lamp", "3 lamp, 2 pen", "1000 lamp", "3  lamp"])
def test_a_task_that_is_no_list_of_items(task):
    with pytest.raises(UserError, match="is no list of items such as"):
        ToolsArithmeticEnv().reset(options={"task_id": task})


def test_arguments_that_are_not_right():
    with pytest.raises(UserError) as caught:
        ToolsArithmeticEnv(items=7, largest="many")
    assert "items is 7" in str(caught.value) and "largest is 'many'" in str(caught.value)
