"""TextCraft: depths, plans and rules by hand on six recipes; then the real ones, fetched as a user would."""

import json
import shutil
import subprocess
from collections import Counter

import pytest
from launching import agentprm, here

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.checker import check_env
from openrlhf_agentprm.envs.textcraft.env import TextCraftEnv, _parts
from openrlhf_agentprm.envs.textcraft.recipes import Book, Recipe, load_book

NAMES = ["", "oak_log", "oak_planks", "stick", "iron_ingot", "iron_nugget", "iron_block", "iron_pickaxe", "chest"]
SHAPES = [  # output, how many, cells
    (2, 4, [[1]]), (3, 4, [[2], [2]]), (8, 1, [[2, 2, 2], [2, None, 2], [2, 2, 2]]), (7, 1, [[4, 4, 4], [None, 3, None], [None, 3, None]]),
    (5, 9, [[4]]), (4, 1, [[5] * 3] * 3), (4, 9, [[6]]), (6, 1, [[4] * 3] * 3),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textcraft")
    made = {}
    for output, count, cells in SHAPES:
        made.setdefault(str(output), []).append({"inShape": cells, "result": {"id": output, "count": count}})
    made["3"].append({"ingredients": [1, 1], "result": {"id": 3, "count": 2}})
    (folder / "recipes.json").write_text(json.dumps(made))
    (folder / "items.json").write_text(json.dumps([{"id": n, "name": name} for n, name in enumerate(NAMES) if name]))
    return folder


@pytest.fixture
def env(folder):
    return TextCraftEnv(data_dir=str(folder))


def do(env, *actions):
    return [env.step(action) for action in actions]


def test_depths_with_a_cycle_cut_at_its_most_used_item(folder):
    """Ingot, nugget and block make one another; most recipes of the three use the ingot."""
    book = load_book(folder)
    assert book.depth == {
        "oak log": 0,
        "iron ingot": 0,
        "oak planks": 1,
        "stick": 1,
        "iron nugget": 1,
        "iron block": 1,
        "chest": 2,
        "iron pickaxe": 2,
    }
    assert book.best("stick").ingredients == (("oak log", 2),), "of depth 1, where planks would make it 2"
    assert book.craftable == ["chest", "iron block", "iron nugget", "iron pickaxe", "oak planks", "stick"]


def test_a_plan_fetches_then_crafts_from_the_bottom_up(folder):
    book = load_book(folder)
    assert book.plan("chest") == ["get 2 oak log", "craft 8 oak planks using 2 oak log", "craft 1 chest using 8 oak planks"]
    assert book.plan("iron pickaxe") == [
        "get 3 iron ingot", "get 2 oak log", "craft 2 stick using 2 oak log", "craft 1 iron pickaxe using 3 iron ingot, 2 stick"
    ]  # fmt: skip
    assert book.plan("iron pickaxe", {"stick": 5, "iron ingot": 1}) == [
        "get 2 iron ingot",
        "craft 1 iron pickaxe using 3 iron ingot, 2 stick",
    ]


def test_shared_parts_are_made_once_and_no_more_than_is_lacking():
    book = Book([Recipe("b", 2, (("a", 3),)), Recipe("c", 1, (("b", 3),)), Recipe("d", 1, (("b", 1), ("c", 2)))])
    assert book.plan("d") == ["get 12 a", "craft 8 b using 12 a", "craft 2 c using 6 b", "craft 1 d using 1 b, 2 c"]
    assert book.plan("d", {"b": 4, "c": 1}) == ["craft 1 c using 3 b", "craft 1 d using 1 b, 2 c"]


def test_an_episode_by_its_rules(env):
    observation, info = env.reset(options={"task_id": "chest/3"})
    assert observation.startswith("Crafting commands:\n") and observation.endswith("\n\nGoal: craft chest.")
    assert "craft 1 chest using 8 oak planks\n" in observation and "craft 4 oak planks using 1 oak log\n" in observation
    assert "get 2 oak log" in info["instruction"]
    wrong = do(
        env,
        "get 1 stick",
        "get 0 oak log",
        "craft 4 oak planks using 1 oak log",
        "craft 3 oak planks using 1 oak log",
        "dance",
        "get 1 chest",
    )
    assert [(told, valid["valid_action"]) for told, *_, valid in wrong] == [
        ("Could not find stick", False), ("Could not find oak log", False),
        ("Could not find enough items to craft oak planks: oak log", False),
        ("Could not find a recipe for 3 oak planks using 1 oak log", False), ("Could not understand dance", False), ("Could not find chest", False),
    ]  # fmt: skip
    right = do(env, "Get 3  Oak Log.", "craft 8 oak planks using 2 oak log", "inventory", "craft 1 chest using 8 oak planks")
    assert [told for told, *_ in right] == [
        "Got 3 oak log",
        "Crafted 8 oak planks",
        "Inventory: 1 oak log, 8 oak planks",
        "Crafted 1 chest",
    ]
    assert [(reward, ended, info.get("success")) for _, reward, ended, _, info in right] == [(0.0, False, False)] * 3 + [(1.0, True, True)]
    with pytest.raises(RuntimeError):
        env.step("inventory")


def test_what_is_used_is_read_as_a_list():
    assert _parts("2 oak planks, 1 stick") == {"oak planks": 2, "stick": 1} and _parts("1 stick, 1 stick") == {"stick": 2}
    assert [_parts(text) for text in ("stick", "x stick", "2 ", "", "9999999 stick")] == [None] * 5


def test_variants_list_other_commands_and_goals_stay_in_their_split(env):
    first, other = (env.reset(options={"task_id": f"iron nugget/{n}"})[0] for n in (0, 1))
    assert sorted(first.splitlines()) == sorted(other.splitlines()), "all there are"
    assert first == env.reset(options={"task_id": "iron nugget/0"})[0] != other
    goals = {split: {task.partition("/")[0] for task in env.tasks(split)} for split in ("train", "validation", "test")}
    assert set.union(*goals.values()) == set(env.book.craftable) and sum(map(len, goals.values())) == 6


def test_what_is_wrong_is_told_at_once(folder, tmp_path):
    with pytest.raises(UserError) as told:
        TextCraftEnv(depths=(), version="9", variants=0)
    assert len(told.value.problems) == 3
    with pytest.raises(UserError, match="agentprm env fetch textcraft"):
        TextCraftEnv(data_dir=str(tmp_path))
    (tmp_path / "items.json").write_text("[{}]")
    (tmp_path / "recipes.json").write_text("{}")
    with pytest.raises(UserError, match="does not hold recipes"):
        TextCraftEnv(data_dir=str(tmp_path))
    with pytest.raises(UserError, match="is no 'ITEM/NUMBER'"):
        TextCraftEnv(data_dir=str(folder)).reset(options={"task_id": "oak log/1"})


def test_another_archive_is_refused_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "other.tgz").write_bytes(b"not it")
    done = here("env", "fetch", "textcraft", "--fetch.archive", tmp_path / "other.tgz")
    assert done.returncode == 2 and "the archive is not minecraft-data 3.117.0" in done.stderr and not (tmp_path / "cache").exists()
    assert "cannot be read" in here("env", "fetch", "textcraft", "--fetch.archive", tmp_path / "none").stderr
    assert "needs no data" in here("env", "fetch", "arithmetic").stderr


def npm_reaches_its_registry():
    if shutil.which("npm") is None:
        return False
    try:
        return subprocess.run(["npm", "view", "minecraft-data@3.117.0", "version"], capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def test_the_real_recipes_are_fetched_planned_with_and_pass_the_checker(tmp_path, monkeypatch):
    if not npm_reaches_its_registry():
        pytest.skip("the recipes come from npm, which is not there or reaches no registry")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "recipes of 1.16.2, 1.21.1 are in" in agentprm("env", "fetch", "textcraft").stdout
    env = TextCraftEnv()
    assert Counter(d for d in env.book.depth.values() if d) == {1: 143, 2: 281, 3: 116, 4: 11} and len(env.book.base) == 114
    for goal in env.book.craftable:
        env.reset(options={"task_id": f"{goal}/0"})
        ended, turns = False, 0
        while not ended:
            _, reward, ended, _, info = env.step(env.expert_action())
            turns += 1
            assert info["valid_action"], goal
        assert reward == 1 and turns <= 11
    assert [r for r in check_env(TextCraftEnv, episodes=50) if r.problem] == []
