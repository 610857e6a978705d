"""TextWorld: games made once from level and seed, the same everywhere; how they are won, lost and refused; games from files."""

import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading

import psutil
import pytest

pytest.importorskip("textworld", reason="pip install 'openrlhf-agentprm[textworld]' (the Makefile's line for ALFWorld brings it)")

from openrlhf_agentprm.core.cache import cache_folder
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.core.registry import ENVS
from openrlhf_agentprm.envs.appearing import appearing_at_once
from openrlhf_agentprm.envs.checker import check_env
from openrlhf_agentprm.envs.textworld.env import TextWorldEnv
from openrlhf_agentprm.envs.textworld.levels import Level
from openrlhf_agentprm.envs.textworld.library import FilesOfGames

LEVELS = ["custom:rooms=2,objects=3,length=2", "coin_collector:level=2", "treasure_hunter:level=2", "cooking:cut=1"]
CUSTOM, COIN, TREASURE, COOKING = (f"{level}/{seed}" for seed, level in enumerate(LEVELS))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("textworld")


@pytest.fixture(scope="module")
def env(cache):
    env = TextWorldEnv(levels=LEVELS, cache_dir=str(cache), graded=True)
    yield env
    env.close()


def begin(env, task):
    return env.reset(options={"task_id": task})


def games(cache):
    return sorted(cache.rglob("game.z8"))


@pytest.mark.parametrize(
    "task, objective", [(CUSTOM, ""), (COIN, "coin"), (TREASURE, ""), (COOKING, "Check the cookbook in the kitchen for the recipe.")]
)
def test_the_expert_wins_every_kind_of_game(env, task, objective):
    assert task in env.tasks("train")[:4]
    observation, info = begin(env, task)
    assert info["instruction"] and objective in info["instruction"] and info["instruction"] not in observation
    assert observation.startswith("-= "), "neither the banner nor the objective"
    total, over, texts = 0.0, False, [observation]
    while not over:
        action = env.expert_action()
        assert action in env.admissible_actions()
        text, reward, over, truncated, info = env.step(action)
        texts.append(text)
        total += reward
        assert info["valid_action"] and not truncated
    assert info == {"valid_action": True, "success": True, "outcome": 1.0} and total == pytest.approx(1)
    assert "*** The End ***" in texts[-1]
    assert not [t for t in texts if "$$" in t or "RESTART" in t or "\n>" in t or t != t.strip()]
    with pytest.raises(RuntimeError, match="without a running episode"):
        env.step("look")


def test_a_lost_game_is_a_failure(env):
    begin(env, COOKING)
    earned = env.step(env.expert_action())[1]
    ingredient = json.loads(games_json(env, COOKING))["metadata"]["ingredients"][0][0]
    begin(env, COOKING)
    if f"take {ingredient}" in " ".join(env.admissible_actions()):
        env.step(next(a for a in env.admissible_actions() if a.startswith(f"take {ingredient}")))
    text, _, terminated, truncated, info = env.step(f"eat {ingredient}")
    assert "*** You lost! ***" in text and (terminated, truncated, info["success"], info["valid_action"]) == (True, False, False, True)
    assert earned > 0 and info["outcome"] < 1


def games_json(env, task):
    return env._library.find(task).with_suffix(".json").read_text()


def test_by_success_alone_the_reward_is_1_at_the_end(cache):
    env = TextWorldEnv(levels=LEVELS[1], cache_dir=str(cache))
    begin(env, COIN)
    results = [env.step(env.expert_action())[1:] for _ in range(2)]
    assert [(reward, over) for reward, over, *_ in results] == [(0.0, False), (1.0, True)]
    assert results[-1][-1] == {"valid_action": True, "success": True}
    env.close()


def test_what_does_nothing_is_not_valid_and_the_game_is_not_left(env):
    begin(env, COIN)
    before, plan = env.admissible_actions(), env.expert_action()
    (way,) = (a for a in before if a.startswith("go "))
    wrong = next(f"go {d}" for d in ("north", "south", "east", "west") if f"go {d}" not in before)
    for action in (
        "",
        "xyzzy",
        wrong,
        "take coin",
        "quit",
        "q",
        "Restart",
        "undo",
        "save",
        "tw-print player",
        "ünïcödé ✓",
        f"{way}. take coin",
        f"{way}{' ' * 3}{'x' * 200}",
    ):
        text, reward, over, _, info = env.step(action)
        assert text and (reward, over, info["valid_action"]) == (0.0, False, False), action
    assert (env.admissible_actions(), env.expert_action()) == (before, plan)
    told = [(env.step(action)[0], action) for action in ("look", "i", f"{way.upper()}.")]
    assert told[0][0].startswith("-= ") and told[1][0] == "You are carrying nothing." and told[2][0].startswith("-= ")
    assert env.expert_action() == "take coin"


def test_one_game_after_another_and_again(env):
    first = begin(env, CUSTOM)
    env.step(env.expert_action())
    begin(env, COIN)
    assert begin(env, CUSTOM) == first


def test_games_that_were_played_leave_no_memory_behind(env):
    def resident():
        gc.collect()
        return psutil.Process().memory_info().rss >> 20

    sizes = []
    for _ in range(2):
        for n in range(60):
            begin(env, (CUSTOM, COIN)[n % 2])
        sizes.append(resident())
    assert sizes[1] - sizes[0] < 10, f"{sizes} MiB"


MAKE = """
import sys
from openrlhf_agentprm.envs.textworld.env import TextWorldEnv
env = TextWorldEnv(levels="cooking:cut=1", cache_dir=sys.argv[1])
print(env.reset(options={"task_id": env.tasks("validation")[0]}))
"""


def test_a_seed_makes_the_same_game_whatever_the_hash_seed(tmp_path):
    """TextWorld's own generator does not: its recipes come out of sets."""
    said, digests = [], []
    for n in (1, 2):
        line = [sys.executable, "-c", MAKE, str(tmp_path / str(n))]
        said.append(subprocess.run(line, env={**os.environ, "PYTHONHASHSEED": str(n)}, check=True, capture_output=True).stdout)
        (game,) = games(tmp_path / str(n))
        digests.append([hashlib.sha256(game.with_suffix(end).read_bytes()).hexdigest() for end in (".z8", ".json")])
        assert sorted(p.name for p in game.parent.iterdir()) == ["game.json", "game.z8"]
    assert said[0] == said[1] and digests[0] == digests[1]
    assert json.loads(game.with_suffix(".json").read_text())["metadata"]["uuid"].startswith("tw-cooking-valid-"), "food of its own split"


def test_a_game_is_made_once_whoever_asks(tmp_path):
    env = TextWorldEnv(levels=LEVELS[1], cache_dir=str(tmp_path))
    task = env.tasks("test")[0]
    assert task == "coin_collector:level=2/200000000"
    found = []
    threads = [threading.Thread(target=lambda: found.append(env._library.find(task))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 2 * games(tmp_path) and not list(tmp_path.rglob(".*"))
    made = found[0].stat().st_mtime_ns
    begin(env, task)
    assert found[0].stat().st_mtime_ns == made
    with appearing_at_once(found[0].parent, "game.z8") as draft:
        (draft / "game.z8").write_text("another")
    assert found[0].stat().st_mtime_ns == made and not list(tmp_path.rglob(".*"))


@pytest.fixture(scope="module")
def folder(env, tmp_path_factory):
    """Games as a user has them."""
    folder = tmp_path_factory.mktemp("games")
    for name, task in (("a", CUSTOM), ("b", COIN), ("c", COOKING)):
        begin(env, task)
        for end in (".z8", ".json"):
            shutil.copy(env._library.find(task).with_suffix(end), folder / f"{name}{end}")
    return folder


def test_games_from_files(folder):
    env = TextWorldEnv(games={split: f"{folder}/{name}.z8" for split, name in (("train", "[a]*"), ("validation", "b"), ("test", "c"))})
    assert [env.tasks(split) for split in ("train", "validation", "test")] == [["a"], ["b"], ["c"]]
    assert env.task_source == "TextWorld games from files"
    begin(env, "b")
    assert not env.step(env.expert_action())[2] and env.step("take coin")[4]["success"]
    with pytest.raises(UserError, match="no TextWorld game 'd'"):
        begin(env, "d")
    env.close()


def test_files_are_divided_by_their_names(tmp_path):
    for n in range(60):
        for end in (".z8", ".json"):
            (tmp_path / f"game{n}{end}").touch()
    few = FilesOfGames(f"{tmp_path}/game[0-4]?.z8")
    many = FilesOfGames(f"{tmp_path}/*.z8")
    for split in ("train", "validation", "test"):
        assert set(few.tasks(split)) < set(many.tasks(split)), "more files move none to another split"
    assert sum(len(many.tasks(split)) for split in ("train", "validation", "test")) == 60
    with pytest.raises(UserError, match="is in the split '(train|validation)'; give a pattern for each"):
        [FilesOfGames(f"{tmp_path}/{many.tasks('test')[0]}.z8").tasks(split) for split in ("train", "validation")]


def test_files_that_are_no_games_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="no file matches games="):
        FilesOfGames(f"{tmp_path}/*.z8")
    (tmp_path / "zork.z8").touch()
    with pytest.raises(UserError, match="NAME.z8 with NAME.json beside it"):
        FilesOfGames(f"{tmp_path}/*.z8")
    (tmp_path / "zork.json").write_text("{}")
    with pytest.raises(UserError, match="TextWorld could not load the game"):
        begin(TextWorldEnv(games=f"{tmp_path}/*.z8"), "zork")
    shutil.copy(folder / "a.z8", tmp_path / "a.z8")
    shutil.copy(folder / "a.json", tmp_path / "a.json")
    with pytest.raises(UserError, match="two TextWorld games have the name 'a'"):
        FilesOfGames({"train": f"{folder}/a.z8", "test": f"{tmp_path}/a.z8"})
    with pytest.raises(UserError, match="unknown split 'valid'"):
        FilesOfGames({"valid": f"{folder}/a.z8"})


def test_what_is_wrong_is_told_at_once(cache, folder):
    levels = ["cookin", "coin_collector:level=200", "custom:room=3,length=99", "cooking:recipe=1,take=2"]
    with pytest.raises(UserError) as told:
        TextWorldEnv(levels=levels, tasks_per_split=0)
    assert [p.split("(")[0].strip() for p in told.value.problems] == [
        "unknown kind of TextWorld game in level 'cookin'; did you mean 'cooking'?",
        "level 'coin_collector:level=200': level is '200'",
        "level 'custom:room=3,length=99': custom has no setting 'room'; did you mean 'rooms'?",
        "level 'custom:room=3,length=99': length is '99'",
        "level 'cooking:recipe=1,take=2': take may not be more than recipe, the number of ingredients",
        "tasks_per_split is 0; allowed: 1 to 100000000",
    ]
    with pytest.raises(UserError, match="would be left unread"):
        TextWorldEnv(levels=LEVELS, games=f"{folder}/*.z8")
    for task in ("coin_collector:level=2", "coin_collector:level=2/x", "coin_collector:level=2/300000000", "nothing/3"):
        with pytest.raises(UserError):
            begin(TextWorldEnv(cache_dir=str(cache)), task)
    assert str(Level.parse("cooking:cut=1,recipe=2,")) == "cooking:recipe=2,cut=1", "one name for a level, however it is written"


def test_it_passes_the_checker(cache, env, monkeypatch):
    begin(env, COIN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "home"))
    shutil.copytree(next(cache.glob("1-*")), cache_folder("textworld") / next(cache.glob("1-*")).name)
    options = {"time_limit": 120.0, "tasks_tried": 1, "episodes": 60, "steps": 5}
    assert [r for r in check_env(make, **options) if r.problem] == []


def make():
    return ENVS.load("textworld")(levels=LEVELS)
