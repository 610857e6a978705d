"""The demonstrator that searches: it finds what it needs, takes only what it has seen, and errs as often as asked."""

import pytest

pytest.importorskip("alfworld", reason="needs pip install 'openrlhf-agentprm[alfworld]'")

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.alfworld.household import TASK_TYPES
from openrlhf_agentprm.envs.alfworld.oracle import Goal


def play(env, task, *, noise=0.0, seed=0, limit=200):
    """(action, observation after it) of each turn, and the last info."""
    env.reset(options={"task_id": task})
    act = env.unwrapped.demonstrator("searching", noise=noise, seed=seed)
    steps, over, info = [], False, {}
    while not over and len(steps) < limit:
        action = act()
        observation, _, over, _, info = env.step(action)
        assert info["valid_action"], action
        steps.append((action, observation))
    return steps, info


@pytest.mark.parametrize("index", range(6))
def test_it_finishes_every_type_and_takes_only_what_it_has_seen(env, index):
    task = env.tasks("train")[index]
    assert task.startswith(TASK_TYPES[index])
    steps, info = play(env, task)
    assert info["success"]
    seen: set[str] = set()  # receptacle and object in one sentence
    for action, observation in steps:
        if action.startswith("take "):
            thing, _, receptacle = action.removeprefix("take ").partition(" from ")
            assert any(thing in text and receptacle in text for text in seen)
        seen.add(observation)


def test_two_objects_come_to_one_place_of_several(env):
    several = 0
    for task in env.tasks("train")[5:90:6]:
        assert task.startswith("pick_two_obj_and_place")
        env.reset(options={"task_id": task})
        target = Goal.read(env.unwrapped._engine.problem).receptacle.removesuffix("type")
        several += sum(command.startswith(f"go to {target} ") for command in env.unwrapped.admissible_actions()) > 1
        assert play(env, task)[1]["success"], task
    assert several > 3, "or these tasks show nothing"


def test_the_seed_draws_the_way_and_repeats_it(env):
    task = env.tasks("train")[0]
    ways = [[action for action, _ in play(env, task, seed=seed)[0]] for seed in (0, 0, 1, 2)]
    assert ways[0] == ways[1] and len({tuple(way) for way in ways}) > 1


def test_it_recovers_from_random_acts(env):
    """With a third of random acts it picks up wrong things and closes what it needs, and still arrives."""
    for task in env.tasks("train")[:6]:
        _, info = play(env, task, noise=0.3, limit=400)
        assert info["success"], task


def test_all_of_the_acts_may_be_random(env):
    steps, _ = play(env, env.tasks("train")[1], noise=1.0, limit=40)
    assert {action for action, _ in steps} & {"help", "inventory", "look"}  # which it never needs


def test_another_demonstrator_is_refused_with_those_that_there_are(env):
    env.reset(options={"task_id": env.tasks("train")[0]})
    with pytest.raises(UserError, match="no demonstrator 'sleepy'.*searching"):
        env.unwrapped.demonstrator("sleepy", noise=0.0, seed=0)
