"""Reasoning Gym's own data sets."""

import functools

import pytest

pytest.importorskip("reasoning_gym", reason="needs pip install 'openrlhf-agentprm[reasoning-gym]'")

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.adapters.reasoning_gym import ReasoningGymEnv
from openrlhf_agentprm.envs.base import HasExpert, ability, make_env
from openrlhf_agentprm.envs.checker import check_env


def start(dataset="countdown", number=0, **kwargs):
    env = ReasoningGymEnv(dataset, **kwargs)
    return env, *env.reset(options={"task_id": f"{dataset}/{number}"})


def test_a_question_is_answered_once():
    env, asked, info = start()
    assert asked.startswith("Calculate ") and info["instruction"] == "Put your answer between <answer> and </answer>."
    assert env.step(env.expert_action()) == ("", 1.0, True, False, {"valid_action": True, "success": True})
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("<answer>1</answer>")
    env.reset()
    shown, reward, ended, truncated, info = env.step("<answer>1 + 1</answer>")
    assert 0 < reward < 1 and ended and info == {"valid_action": True, "success": False}, "the data set pays a little for the form"


def test_several_tries_with_feedback():
    env, _, _ = start(tries=3)
    assert env.step("<answer>1</answer>") == (
        "That is not right. Tries left: 2.",
        0.0,
        False,
        False,
        {"valid_action": True, "success": False},
    )
    shown, *_, info = env.step("perhaps 1")
    assert shown == "No answer was found. Put your answer between <answer> and </answer>. Tries left: 1." and not info["valid_action"]
    assert env.step(env.expert_action())[1:3] == (1.0, True)
    env.reset()
    assert [env.step("no idea")[1:3] for _ in range(3)] == [(0.0, False), (0.0, False), (0.0, True)]


def test_the_answer_is_read_where_it_is_said_to_stand():
    for form in ("marked", "tags", "boxed", "whole"):
        env, _, _ = start("basic_arithmetic", answer=form)
        own = env._entry["answer"]
        assert env.step(env.expert_action())[4]["success"]
        for text, forms in ((f"<answer>{own}</answer>", ("marked", "tags")), (f"\\boxed{{{own}}}", ("marked", "boxed")), (own, ("whole",))):
            env.reset(options={"task_id": "basic_arithmetic/0"})
            assert env.step(text)[4]["success"] == (form in forms), (form, text)


def test_options_reach_the_data_set_and_a_task_is_a_question():
    env, asked, _ = start(options={"min_numbers": 3, "max_numbers": 3})
    assert len(env._entry["metadata"]["numbers"]) == 3
    tasks = [task for split in ("train", "validation", "test") for task in env.tasks(split)[:20]]
    assert len({env.reset(options={"task_id": task})[0] for task in tasks}) == 60
    assert env.reset(seed=9, options={"task_id": "countdown/0"})[0] == asked


def test_a_data_set_without_answers_has_no_expert():
    assert ability(start("propositional_logic")[0], HasExpert) is None and ability(start()[0], HasExpert) is not None


def test_an_answer_that_the_data_set_stumbles_over_is_none():
    env, _, _ = start("prime_factorization")
    assert env.step("<answer>x</answer>") == ("", 0.0, True, False, {"valid_action": False, "success": False})


@pytest.mark.parametrize(
    "arguments", [{"dataset": "basic_arithmetic"}, {"dataset": "chain_sum", "tries": 2, "graded": True, "answer": "boxed"}]
)
def test_the_checker_passes(arguments):
    make = functools.partial(make_env, "reasoning_gym", **arguments)
    assert [r for r in check_env(make, episodes=50) if r.problem] == []
    assert make().reward_is_graded == ("graded" in arguments)


def test_what_is_wrong_is_told():
    with pytest.raises(UserError, match="no data set 'countdwn'; did you mean 'countdown'"):
        ReasoningGymEnv("countdwn")
    with pytest.raises(UserError, match="a question of countdown with the options .* failed: TypeError"):
        ReasoningGymEnv("countdown", options={"numbers": 3})
    with pytest.raises(UserError) as told:
        ReasoningGymEnv("countdown", options={"seed": 1}, answer="box", tries=0)
    assert len(told.value.problems) == 3 and "did you mean 'boxed'" in str(told.value)
