"""BabyAI in text: grammar, planning, memory, the declared end, experts and the demonstrator that errs."""

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.babyai.levels import AGENTGYM_LEVELS, RELIABLE_LEVELS
from openrlhf_agentprm.envs.base import make_env
from openrlhf_agentprm.envs.checker import check_env


@pytest.mark.parametrize(
    "options",
    [
        dict(declare=True, memory=True),
        dict(declare=True, observation="full"),
        dict(declare=True, memory=True, slip=0.3),
        dict(levels="GoToRedBall,PickupLoc,Unlock", action_level="low"),
        dict(levels="GoToObjDoor,PutNextLocalS6N4", action_level="high", observation="full"),
    ],
)
def test_passes_the_checker(options):
    assert [r for r in check_env(lambda: make_env("babyai", **options)) if r.problem] == []


def test_agentgyms_actions():
    env = make_env("babyai", levels="UnlockLocal", declare=True, memory=True)
    observation, info = env.reset(options={"task_id": "UnlockLocal/3"})
    assert info["instruction"] == "goal: open the door"
    for action in ("turn left", "pickup grey key 1", "turn left"):
        observation, *_, info = env.step(action)
        assert info["valid_action"]
    assert observation == "see locked grey door 1. carrying grey key"
    observation, *_ = env.step("toggle and go through grey door 1")
    *_, info = env.step("check available actions")
    assert info["valid_action"]
    _, reward, terminated, truncated, info = env.step("done")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_invalid_actions_say_why():
    env = make_env("babyai", levels="UnlockLocal", declare=True, memory=True)
    env.reset(options={"task_id": "UnlockLocal/3"})
    for action, why in [
        ("dance", "the action is not recognized"),
        ("go to red ball 1", "there is no red ball 1 in sight"),
        ("drop", "nothing is carried"),
        ("toggle", "there is nothing to toggle in front"),
    ]:
        observation, reward, terminated, _, info = env.step(action)
        assert observation.startswith(f"failed, {why}.") and not info["valid_action"] and not terminated and reward == 0


def test_memory_names_what_is_out_of_sight():
    for memory in (True, False):
        env = make_env("babyai", levels="UnlockLocal", declare=True, memory=memory)
        env.reset(options={"task_id": "UnlockLocal/3"})
        env.step("turn left")
        assert "grey key 1" in env.step("turn right")[0] or env.step("go to grey key 1")[4]["valid_action"] is memory


@pytest.mark.parametrize("task", ["PutNextLocalS6N4/3", "UnlockLocal/3", "GoToLocalS8N7/5"])
def test_a_restored_memory_knows_the_objects_by_their_old_numbers(task):
    env = make_env("babyai", levels=task.partition("/")[0], declare=True, memory=True)
    env.reset(options={"task_id": task})
    seen, known = [env.step("turn left")[0]], [env.admissible_actions()]
    state = env.snapshot()
    for action in ("turn left", "turn left", "turn left", "turn left"):
        seen.append(env.step(action)[0])
        known.append(env.admissible_actions())
    assert any(" 1" in text for text in seen), "something has to be in sight"
    for _ in range(2):
        env.restore(state)
        for k in range(1, 5):
            assert env.step("turn left")[0] == seen[k]
            assert env.admissible_actions() == known[k]
            names = [s.name for s in env.unwrapped.view.known]
            assert len(names) == len(set(names)) == len({id(s.thing) for s in env.unwrapped.view.known})


def test_declaring_too_early_fails_and_success_alone_ends_nothing():
    env = make_env("babyai", levels="GoToLocalS6N3", declare=True, memory=True)
    env.reset(options={"task_id": "GoToLocalS6N3/0"})
    _, _, terminated, _, info = env.step("go to blue key 1")
    assert not terminated and not info["success"]
    env.reset(options={"task_id": "GoToLocalS6N3/0"})
    _, reward, terminated, _, info = env.step("done")
    assert terminated and not info["success"] and reward == 0.0


def test_a_slip_carries_out_another_action_and_falls_alike_for_the_same_actions():
    """Each step's luck is made of the seed, the task and what was done so far; `done` never slips."""
    slippery, never = (make_env("babyai", declare=True, memory=True, slip=slip) for slip in (0.3, 0.0))
    slips = steps = 0
    for task in never.tasks("train")[:40]:
        for seed in range(2):
            seen = [env.reset(seed=seed, options={"task_id": task})[0] for env in (slippery, never)]
            assert seen[0] == seen[1]
            first, twin = slippery.step("turn left")[0], never.step("turn left")[0]
            slippery.reset(seed=seed, options={"task_id": task})
            assert slippery.step("turn left")[0] == first
            steps, slips = steps + 1, slips + (first != twin)
    assert 0.1 < slips / steps < 0.4  # some of the others show the same
    task = next(t for t in never.tasks("train") if not expert_goes_wrong(slippery, t, 0))
    luck = {expert_goes_wrong(slippery, task, seed) for seed in range(30)}
    assert luck == {False, True}, "one task, other seeds: other luck"
    with pytest.raises(UserError, match="slip is 1; allowed: a chance from 0 to less than 1"):
        make_env("babyai", slip=1)


def expert_goes_wrong(env, task, seed):
    """Whether what is seen ever differs from what the expert, who plans without slips, should see."""
    env.reset(seed=seed, options={"task_id": task})
    plain = make_env("babyai", declare=True, memory=True)
    plain.reset(seed=seed, options={"task_id": task})
    for _ in range(30):
        action = plain.expert_action()
        if plain.step(action)[0] != env.step(action)[0]:
            return True
        if action == "done":
            return False
    raise AssertionError("the expert did not finish")


def test_without_declare_success_ends_the_episode_and_the_reward_tells_the_length():
    env = make_env("babyai", levels="GoToLocalS6N3", memory=True)
    env.reset(options={"task_id": "GoToLocalS6N3/0"})
    _, quick, terminated, _, info = env.step("go to blue key 1")
    assert terminated and info["success"] and 0.5 < quick < 1
    env.reset(options={"task_id": "GoToLocalS6N3/0"})
    env.step("turn left"), env.step("turn right")
    assert env.step("go to blue key 1")[1] < quick


def test_the_expert_solves_the_declared_levels_and_the_short_sighted_one_often_does_not():
    env = make_env("babyai", declare=True, memory=True)

    def success(policy, tasks=200):
        wins = 0
        for index, task in enumerate(env.tasks("train")[:tasks]):
            env.reset(options={"task_id": task})
            act = policy(index)
            for _ in range(12):
                _, _, terminated, _, info = env.step(act())
                if terminated:
                    wins += info["success"]
                    break
        return wins / tasks

    assert success(lambda _: env.expert_action) >= 0.95
    assert 0.45 <= success(lambda i: env.demonstrator("short_sighted", noise=0.6, seed=i)) <= 0.8


@pytest.mark.parametrize("level", ["GoToRedBall", "PickupLoc", "BlockedUnlockPickup", "SynthSeq"])
@pytest.mark.parametrize("action_level", ["low", "high"])
def test_the_bot_plays_levels_of_several_rooms(level, action_level):
    env = make_env("babyai", levels=level, action_level=action_level, observation="full")
    wins = 0
    for seed in range(3):
        env.reset(options={"task_id": f"{level}/{seed}"})
        for _ in range(300):
            _, _, terminated, _, info = env.step(env.expert_action())
            if terminated:
                wins += info["success"]
                break
    assert wins == 3


def test_splits_and_levels():
    env = make_env("babyai", levels="declare", tasks_per_split=50)
    tasks = {split: set(env.tasks(split)) for split in ("train", "validation", "test")}
    assert all(len(t) == 50 for t in tasks.values())
    assert not tasks["train"] & tasks["validation"] and not tasks["train"] & tasks["test"] and not tasks["validation"] & tasks["test"]
    assert len(AGENTGYM_LEVELS) == 40 and set(RELIABLE_LEVELS) < set(AGENTGYM_LEVELS)
    with pytest.raises(UserError, match="unknown BabyAI level 'GoToLocal6N3'; did you mean 'GoToLocalS6N3'"):
        make_env("babyai", levels="GoToLocal6N3")
    with pytest.raises(UserError, match="which `declare` cannot check"):
        make_env("babyai", levels="SynthSeq", declare=True).reset(options={"task_id": "SynthSeq/0"})
    with pytest.raises(UserError, match="does not take these arguments: got an unexpected keyword argument 'sped'"):
        make_env("babyai", sped=2)
