"""Several environments in one: whose task it is, what each part is given and told, and what is refused."""

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs import base
from openrlhf_agentprm.envs.checker import check_env
from openrlhf_agentprm.envs.mixture import MixedTasks, MixtureEnv

PARTS = [
    {"env": "thirdparty_count", "weight": 3, "prompt": "A counting game."},
    {"env": "babyai", "name": "rooms", "args": {"levels": ["GoToLocalS6N3"]}, "max_turns": 2, "after": "Action:"},
]


@pytest.fixture
def mixture():
    env = MixtureEnv(PARTS)
    yield env
    env.close()


def test_tasks_come_by_weight_in_every_split(mixture):
    for split in base.SPLITS:
        parts = [task.partition(":")[0] for task in mixture.tasks(split)[:8]]
        assert parts.count("thirdparty_count") == 6 and parts[:4].count("rooms") == parts[4:].count("rooms") == 1
    listed = mixture.tasks("train")
    assert len(listed) == 500 // 3 * 4 and len(set(listed[:])) == len(listed), "until the counting game has no more tasks, each once"


@pytest.mark.parametrize(("weights", "counts"), [([1, 1], [7, 5]), ([2, 3], [9, 30]), ([5, 1, 1], [23, 4, 9])])
def test_shares_are_exact_and_evenly_spread(weights, counts):
    names = [chr(ord("a") + k) for k in range(len(weights))]
    tasks = list(MixedTasks(names, weights, [[str(i) for i in range(count)] for count in counts]))
    rounds = min(count // weight for count, weight in zip(counts, weights, strict=True))
    for name, weight in zip(names, weights, strict=True):
        own = [task for task in tasks if task.startswith(name)]
        assert own == [f"{name}:{i}" for i in range(rounds * weight)], "each part's in their order"
        for start in range(0, len(tasks), sum(weights)):
            assert sum(task.startswith(name) for task in tasks[start : start + sum(weights)]) == weight


def test_a_part_has_its_prompt_its_limit_and_its_way_of_reading(mixture):
    _, info = mixture.reset(options={"task_id": "thirdparty_count:train-2"})
    assert info["instruction"].startswith("A counting game.\ncount to ")
    rooms = next(task for task in mixture.tasks("train")[:4] if task.startswith("rooms"))
    _, info = mixture.reset(seed=0, options={"task_id": rooms})
    assert "counting" not in info["instruction"]
    *_, info = mixture.step("turn left")
    assert not info["valid_action"], "no mark, no action"
    _, _, terminated, truncated, info = mixture.step("Thought: I look around.\nAction: turn left\nand so on")
    assert info["valid_action"] and truncated and not terminated and info["success"] is False and info["outcome"] == 0.0
    with pytest.raises(RuntimeError, match="reset"):
        mixture.step("Action: turn left")


def test_the_outcome_is_that_of_the_part():
    """Success of one that does not grade, whatever it rewards; the number of one that does."""
    env = MixtureEnv([{"env": "thirdparty_count"}, {"env": "thirdparty_odd", "name": "odd"}])
    for task, success in (("thirdparty_count:train-0", True), ("thirdparty_count:train-0", False)):
        env.reset(options={"task_id": task})
        goal = env._env("thirdparty_count").unwrapped.goal
        for _ in range(goal if success else goal + 1):
            env.step("up")
        _, reward, terminated, _, info = env.step("stop")
        assert (reward, terminated, info["outcome"]) == (1.0, True, float(success))
    env.reset(options={"task_id": "odd:train-0"})
    *_, info = env.step("up")
    assert info["outcome"] == env._outcome(env._env("odd"), {}) == 0.0
    _, reward, *_, info = env.step("stop")
    assert info["outcome"] == reward == 1.0, "the sum of its rewards"


def test_the_checker_passes_and_finds_the_abilities_of_all_parts():
    parts = [{"env": "thirdparty_saved"}, {"env": "babyai", "args": {"levels": ["GoToLocalS6N3"]}, "after": "Action:"}]
    results = check_env(lambda: MixtureEnv(parts))
    assert not [(r.name, r.problem) for r in results if r.problem]
    skipped = {r.name for r in results if r.skipped}
    assert not {name for name in skipped if "expert" in name or "snapshot" in name or "admissible" in name}, skipped
    without = MixtureEnv([{"env": "thirdparty_count"}, {"env": "babyai"}])
    assert base.ability(without, base.HasExpert) and not base.ability(without, base.HasSnapshots)


def test_everything_that_is_wrong_is_told_at_once():
    wrong = [
        {"env": "babyal"},
        {"env": "babyai", "weigth": 2, "weight": 0},
        {"name": "a:b"},
        {"env": "mixture"},
        {"env": "babyai"},
        {"env": "babyai", "max_turns": None},
        "babyai",
        {"env": 3, "args": [1], "max_turns": True},
    ]
    with pytest.raises(UserError) as told:
        MixtureEnv(wrong)
    text = str(told.value)
    for part in (
        "part 0 of the mixture: env 'babyal' is no environment that can be a part; did you mean 'babyai'?",
        "part 1 of the mixture: unknown key 'weigth'; did you mean 'weight'?",
        "part 1 of the mixture: weight is 0; wanted a whole number of 1 or more",
        "part 2 of the mixture: env, the name of an environment, is missing",
        "part 2 of the mixture: name 'a:b' has a colon",
        "part 3 of the mixture: env 'mixture' is no environment that can be a part",
        "2 parts of the mixture are called 'babyai'",
        "part 6 of the mixture: 'babyai' is no object",
        "part 7 of the mixture: env is 3; wanted text",
        "part 7 of the mixture: args is [1]; wanted an object",
        "part 7 of the mixture: max_turns is True",
    ):
        assert part in text, (part, text)
    with pytest.raises(UserError, match="a mixture needs parts"):
        MixtureEnv([])
    with pytest.raises(UserError, match="is no 'PART:TASK' of the parts thirdparty_count, rooms; did you mean 'rooms'"):
        MixtureEnv(PARTS).reset(options={"task_id": "room:0"})
