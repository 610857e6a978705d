"""Environments of verifiers as the Environments Hub has them, and the library's own: played turn by turn, against its own loop too."""

import asyncio
import functools
import importlib.util
import os
import random
import subprocess
import sys

import pytest

from openrlhf_agentprm.envs.adapters.verifiers.env import INSTALL, VerifiersEnv

pytest.importorskip("verifiers", reason=f"needs {INSTALL}")

import hub_worlds
import verifiers as vf
from hub_worlds import start

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.adapters.verifiers.tasks import RowTasks
from openrlhf_agentprm.envs.base import HasTools, ability, make_env
from openrlhf_agentprm.envs.checker import check_env

ADD = '{"name": "add", "arguments": {"a": 2, "b": 4}}'
SAY = '{"name": "final_answer", "arguments": {"text": "It is 6."}}'
PASSED = {"valid_action": True, "success": False}
FAILED = {"valid_action": False, "success": False}


def test_tools_are_called_and_the_answer_is_said():
    env, asked, info = start("sums")
    assert (asked, info["instruction"]) == ("What is 2 + 4?", "Work with the tools.")
    functions = [tool["function"] for tool in env.tools()]
    assert [f["name"] for f in functions] == ["add", "divide", "final_answer"]
    assert functions[0]["description"] == "The sum of two numbers." and functions[0]["parameters"]["required"] == ["a", "b"]
    assert env.step(ADD) == ("6", 0.0, False, False, PASSED)
    assert env.step('{"name": "divide", "arguments": {"a": 2, "b": 0}}') == ("division by zero", 0.0, False, False, FAILED)
    shown, *_, info = env.step('{"name": "add", "arguments": {"a": 2}}')
    assert "missing 1 required positional argument: 'b'" in shown and info == FAILED
    told = "Call one of add, divide, final_answer"
    for action, problem in (
        ("6", f'No tool was called. {told} as {{"name": …, "arguments": {{…}}}}.'),
        ('{"name": "sub", "arguments": {}}', f"There is no tool sub. {told}."),
        ('{"name": "final_answer", "arguments": {"answer": 6}}', "final_answer takes text; it was given {'answer': 6}."),
        ('{"name": "final_answer", "arguments": {"text": "\\ud83d"}}', f'No tool was called. {told} as {{"name": …, "arguments": {{…}}}}.'),
    ):
        assert env.step(action) == (problem, 0.0, False, False, FAILED)
    assert env.step(SAY) == ("", 1.0, True, False, {"valid_action": True, "success": True, "outcome": 1.0})
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(ADD)


def test_without_a_tool_for_it_a_text_is_the_answer():
    env, _, _ = start("sums", answer_tool="")
    assert len(env.tools()) == 2 and env.step(ADD)[0] == "6"
    assert env.step("It is 7.")[1:] == (0.0, True, False, {"valid_action": True, "success": False, "outcome": 0.0})
    with pytest.raises(UserError, match="answer_tool is 'add', which is a tool of hub_worlds; give another name"):
        start("sums", answer_tool="add")
    assert ability(start("guessing")[0], HasTools) is None


def test_a_limit_on_turns_truncates_and_what_ends_by_itself_does_not():
    env, _, _ = start("guessing", 6)
    came = [env.step("<guess>8</guess>") for _ in range(5)]
    assert [step[0] for step in came] == ["lower"] * 4 + [""]
    assert came[-1][1:] == (0.25, False, True, {"valid_action": True, "success": False, "outcome": 0.25})
    env, _, _ = start("sums", args={"max_turns": 2})
    env.step(ADD)
    assert env.step(SAY)[1:4] == (1.0, True, False), "both the limit and the answer end it"
    env, _, _ = start("question", success=0.5)
    assert env.step("0")[1:] == (0.5, True, False, {"valid_action": True, "success": True, "outcome": 0.5}), "the one turn is no limit"


def test_a_game_of_several_turns():
    env, asked, info = start("guessing", 6, invalid="^Invalid", graded=True)
    assert (asked, info["instruction"], env.reward_is_graded) == ("Guess my number from 1 to 20.", "", True)
    assert env.step("<guess>10</guess>") == ("lower", 0.0, False, False, PASSED)
    assert env.step("7") == ("Invalid guess.", 0.0, False, False, FAILED)
    assert env.step("<guess>x</guess>") == ("Invalid guess.", 0.0, False, False, FAILED)
    assert env.step("<guess>7</guess>") == ("That is it.", 1.0, True, False, {"valid_action": True, "success": True, "outcome": 1.0})


def test_the_prompt_is_the_instruction_and_the_first_observation():
    _, asked, info = start("question")
    assert info["instruction"] == "Answer in a word."
    assert asked == "User: What is 1 + 1?\n\nAssistant: 2\n\nUser: What is 0 + 1?"
    _, asked, info = start("question", args={"few_shot": False}, instruction="Be brief.")
    assert (asked, info["instruction"]) == ("What is 0 + 1?", "Be brief.")
    _, asked, _ = start("question", args={"called": True})
    assert asked.split("\n\n")[1] == 'Assistant: {"name": "add", "arguments": {"a": 1, "b": 1}}'


def test_hidden_arguments_and_generators():
    count = '{"name": "count", "arguments": {"by": 2}}'
    random.seed(5)
    env, _, _ = start("counter", 2)
    assert list(env.tools()[0]["function"]["parameters"]["properties"]) == ["by"]
    first = env.step(count)[0]
    assert env.step(SAY)[1] == 1.0 and first.startswith("2 (")
    assert random.random() == random.Random(5).random()
    assert start("counter", 2)[0].step(count)[0] == first and start("counter", 2, seed=1)[0].step(count)[0] != first


class Scripted(vf.Client):
    """A model that says what it is told to."""

    def __init__(self, messages):
        super().__init__(None)
        self.messages = list(messages)

    async def get_response(self, prompt, model, sampling_args, tools=None, **_):
        content, calls = self.messages.pop(0)
        message = vf.types.ResponseMessage(content=content, tool_calls=calls, finish_reason="stop", is_truncated=False)
        return vf.types.Response(id="", created=0, model=model, message=message)

    setup_client = to_native_tool = to_native_prompt = get_native_response = None
    raise_from_native_response = from_native_response = close = None


Scripted.__abstractmethods__ = frozenset()


@pytest.mark.parametrize(
    "world, number, actions, said",
    [
        ("sums", 0, [ADD, SAY], [(None, [vf.types.ToolCall(id="c", name="add", arguments='{"a": 2, "b": 4}')]), ("It is 6.", None)]),
        ("guessing", 3, ["<guess>3</guess>", "?", "<guess>4</guess>"], None),
        ("guessing", 3, ["<guess>5</guess>"] * 5, None),
        ("question", 1, ["1"], None),
    ],
)
def test_it_comes_out_as_in_the_library_s_own_loop(world, number, actions, said):
    env, asked, info = start(world, number)
    came = [env.step(action) for action in actions]
    theirs = hub_worlds.load_environment(world)
    model = Scripted(said or [(action, None) for action in actions])
    state = asyncio.run(theirs._run_rollout_state(dict(theirs.build_dataset()[number]), model, "m", {}))
    assert came[-1][1] == state["reward"] and not model.messages and (came[-1][2] or came[-1][3])
    answers = [message.content for message in state["completion"] if message.role != "assistant"]
    assert [shown for shown, *_ in came if shown] == answers
    assert all(message.content in asked + info["instruction"] for message in state["prompt"])


def test_rows_are_split():
    env, _, _ = start("sums")
    assert list(env.tasks("train")[8:11]) == [f"hub_worlds/train/{n}" for n in (8, 10, 11)] and len(env.tasks("train")) == 36
    assert list(env.tasks("validation")) == [f"hub_worlds/train/{n}" for n in (9, 19, 29, 39)]
    assert list(env.tasks("test")) == [f"hub_worlds/eval/{n}" for n in range(10)]
    assert env.reset(options={"task_id": "hub_worlds/eval/3"})[0] == "What is 103 + 10609?"
    for rows in (3, 5, 10, 19, 20, 23, 40):
        parts = [list(RowTasks("x", rows, share)) for share in ("most but two", "last", "last but one")]
        assert sorted(sum(parts, [])) == sorted(f"x/{n}" for n in range(rows)) and all(parts)
        assert sorted([*RowTasks("x", rows, "most"), *parts[1]]) == sorted(RowTasks("x", rows, "all"))
    with pytest.raises(UserError, match=r"too few rows for a task in each split \(rows: {'train': 2}; nothing for train\)"):
        start("sums", args={"rows": 2, "evals": 0})
    with pytest.raises(UserError, match="task 'hub_worlds/eval/10' is no row of hub_worlds, such as 'hub_worlds/train/0'"):
        env.reset(options={"task_id": "hub_worlds/eval/10"})
    with pytest.raises(UserError, match="unknown split 'dev'"):
        env.tasks("dev")


def test_what_goes_wrong_is_an_error_not_a_reward():
    for going_on, kind, told in (
        ("error", RuntimeError, "a turn of hub_worlds failed: InfraError: the dice are lost"),
        ("nan", RuntimeError, "the rubric of hub_worlds gave the reward nan; wanted a finite number"),
        ("raises", RuntimeError, "the reward of hub_worlds failed: reward: KeyError: 'no such number'"),
        ("forgets", UserError, "hub_worlds rewrites what was said before"),
    ):
        env, _, _ = start("guessing", 3, args={"going_on": going_on})
        with pytest.raises(kind, match=told):
            for guess in ("3", "4"):
                env.step(f"<guess>{guess}</guess>")
        with pytest.raises(RuntimeError, match="call reset"):
            env.step("<guess>4</guess>")
        assert env.reset()[0].startswith("Guess")


@pytest.mark.parametrize("network", [False, True])
def test_a_model_that_is_asked_for_is_told_whatever_the_library_makes_of_the_refusal(network):
    told = "hub_worlds asks a model for a text of its own; no model is lent to it"
    for world, number, args, action in (
        ("guessing", 3, {"going_on": "asks"}, "<guess>3</guess>"),
        ("guessing", 3, {"going_on": "judged"}, "<guess>4</guess>"),
        ("counter", 0, {}, '{"name": "advise", "arguments": {}}'),
    ):
        env, _, _ = start(world, number, args=args, network=network)
        with pytest.raises(UserError, match=told):
            env.step(action)
        env.reset()


def test_what_is_not_played_is_told():
    with pytest.raises(UserError, match="hub_worlds is a group of environments .one, two.; name one of them"):
        start("group")
    with pytest.raises(UserError, match="hub_worlds gives no reward: its score_rollouts is false"):
        start("sums", args={"score_rollouts": False})
    with pytest.raises(UserError, match=r"gives no reward: all that its rubric has are metrics, of weight 0 \(right, num_turns\)"):
        start("question", args={"metrics": True})
    with pytest.raises(UserError, match="the environment 'no_such_world' .* failed: ValueError: Could not import 'no_such_world'"):
        VerifiersEnv("no_such_world")
    with pytest.raises(UserError, match="the environment 'hub_worlds' with the arguments {'world': 'moon'} failed: .*'moon'"):
        start("moon")
    with pytest.raises(UserError) as told:
        VerifiersEnv("a b", invalid="(", success=float("nan"))
    assert len(told.value.problems) == 3
    wrong = {"args": [1], "answer_tool": None, "network": "false", "graded": 1, "invalid": 3, "instruction": ["x"], "success": "1"}
    with pytest.raises(UserError) as told:
        VerifiersEnv("hub_worlds", **wrong)
    assert {problem.partition(" is ")[0] for problem in told.value.problems} == set(wrong) and len(told.value.problems) == len(wrong)
    with pytest.raises(UserError, match="args is {1: 2}; wanted names and values"):
        VerifiersEnv("hub_worlds", args={1: 2})


def test_a_group_of_one_is_scored():
    env, _, _ = start("question", args={"group": True}, success=3)
    assert env.step("four")[1:3] == (4.0, True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"env": "hub_worlds"},
        {"env": "hub_worlds", "args": {"world": "guessing"}},
        pytest.param(
            {"env": "ReasoningGymEnv", "args": {"gym": "chain_sum", "num_train_examples": 20, "num_eval_examples": 4}},
            marks=pytest.mark.skipif(
                importlib.util.find_spec("reasoning_gym") is None, reason="needs pip install 'openrlhf-agentprm[reasoning-gym]'"
            ),
        ),
    ],
)
def test_the_checker_passes(arguments):
    assert [r for r in check_env(functools.partial(make_env, "verifiers", **arguments), episodes=50, time_limit=300) if r.problem] == []


def test_a_version_without_the_api_is_told(tmp_path):
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "__init__.py").write_text('__version__ = "0.4.0"\n')
    code = "from openrlhf_agentprm.envs.base import make_env\ntry:\n    make_env('verifiers', env='x')\nexcept ValueError as error:\n    print(error)"
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=True)
    assert done.stdout.startswith("verifiers 0.4.0 has its v1 API alone") and INSTALL in done.stdout
