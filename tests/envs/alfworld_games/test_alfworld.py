"""ALFWorld as an environment: the contract, the exact oracle, and what a user can get wrong."""

import json
import random
import re
import sys

import pytest

pytest.importorskip("alfworld", reason="needs pip install 'openrlhf-agentprm[alfworld]'")

from playing import play_expert, python

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.core.registry import ENVS
from openrlhf_agentprm.envs.alfworld.engine import Engine, read_game
from openrlhf_agentprm.envs.alfworld.household import TASK_TYPES
from openrlhf_agentprm.envs.alfworld.oracle import Goal, shortest_plan
from openrlhf_agentprm.envs.base import make_env
from openrlhf_agentprm.envs.checker import check_env


def test_passes_the_checker(cache):
    assert [r for r in check_env(lambda: make_env("alfworld", source="generated", cache_dir=cache)) if r.problem] == []


def test_an_episode(env, capfd):
    arguments = list(sys.argv)
    observation, info = env.reset(options={"task_id": env.tasks("train")[0]})
    assert observation.startswith("You are in the middle of a room.") and "task" not in observation
    assert info["instruction"].startswith("Your task is to: put ") and info["source"] == env.source == "generated"
    assert env.unwrapped.task_source == "generated ALFWorld-engine tasks"
    assert env.step("inventory")[0] == "You are not carrying anything."
    observation, reward, terminated, _, info = env.step("fly to the moon")
    assert (observation, reward, terminated, info) == ("Nothing happens.", 0.0, False, {"valid_action": False, "success": False})
    _, (_, reward, terminated, truncated, info) = play_expert(env, env.tasks("train")[0])
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("look")
    assert capfd.readouterr().out == "" and sys.argv == arguments


def test_case_spacing_and_older_spellings_are_understood(env):
    task = next(t for t in env.tasks("train") if t.startswith("pick_and_place_simple"))
    actions, _ = play_expert(env, task)
    verb, thing, number, _, *receptacle = actions[-1].split()
    assert verb == "move"
    older = f"Put  {thing} {number} in/on {' '.join(receptacle)}."
    env.reset(options={"task_id": task})
    for action in [*actions[:-1], older]:
        *_, info = env.step(action.upper() if action != older else action)
        assert info["valid_action"]
    assert info["success"]


def test_a_number_that_a_tokenizer_splits_is_understood(env):
    for task in env.tasks("train"):
        env.reset(options={"task_id": task})
        far = [command for command in env.admissible_actions() if re.search(r" \d\d$", command)]
        if far:
            observation, *_, info = env.step(f"{far[0][:-1]} {far[0][-1]}")
            assert info["valid_action"] and far[0].removeprefix("go to ") in observation
            return
    pytest.fail("no task has ten receptacles of a kind")


# --- oracle ---


def test_the_oracle_solves_every_type(env):
    for index, task in enumerate([*env.tasks("train")[:18], *env.tasks("test")[:6]]):
        actions, (_, reward, _, _, info) = play_expert(env, task)
        assert info["success"] and reward == 1.0 and 2 <= len(actions) <= 20
        assert task.startswith(TASK_TYPES[index % 6])
        game = read_game(env._library.find(task, env._engine))
        assert game["solvable"] is True and game["walkthrough"] == actions


def test_a_plan_worked_by_hand():
    facts = [
        ("atlocation", ("agent1", "door")),
        *[("receptacletype", pair) for pair in (("desk 1", "desktype"), ("drawer 1", "drawertype"), ("shelf 1", "shelftype"))],
        *[("receptacleatlocation", pair) for pair in (("desk 1", "a"), ("drawer 1", "b"), ("shelf 1", "c"))],
        *[("objecttype", pair) for pair in (("mug 1", "mugtype"), ("mug 2", "mugtype"))],
        *[("pickupable", (mug,)) for mug in ("mug 1", "mug 2")],
        ("cancontain", ("desktype", "mugtype")),
        ("openable", ("drawer 1",)),
        ("inreceptacle", ("mug 1", "drawer 1")),
        ("inreceptacle", ("mug 2", "shelf 1")),
    ]
    shelf_first = ["go to shelf 1", "take mug 2 from shelf 1", "go to desk 1", "move mug 2 to desk 1"]
    assert shortest_plan(facts, Goal("mugtype", "desktype")) == shelf_first
    assert len(shortest_plan(facts, Goal("mugtype", "desktype", count=2))) == 9
    # As in some published games: a mug that stands in two receptacles at once, one of them the target.
    both = [*facts, ("inreceptacle", ("mug 2", "desk 1"))]
    assert shortest_plan(both, Goal("mugtype", "desktype")) == []
    assert len(shortest_plan(both, Goal("mugtype", "desktype", count=2))) == 5
    assert shortest_plan(facts, Goal("mugtype", "sofatype")) is None


def test_goals_are_read_from_the_problem():
    from alfworld.gen.goal_library import gdict

    def read(name):
        return Goal.read(gdict[name]["pddl"].format(obj="Mug", recep="Desk", toggle="DeskLamp", mrecep="Bowl").replace("#", "-"))

    assert [read(name) for name in TASK_TYPES] == [
        Goal("mugtype", "desktype"),
        Goal("mugtype", lamp="desklamptype"),
        Goal("mugtype", "desktype", "isclean"),
        Goal("mugtype", "desktype", "ishot"),
        Goal("mugtype", "desktype", "iscool"),
        Goal("mugtype", "desktype", count=2),
    ]
    assert read("pick_and_place_with_movable_recep") is None and read("pick_clean_then_place_in_recep_slice") is None


def test_the_oracles_distance_is_exact(env):
    """At states off the shortest path, the best neighbour among all admissible commands is one step nearer, none nearer still."""

    def distance():
        return 0 if engine.won else len(shortest_plan(engine.facts(), goal))

    def go(commands):
        engine.reset()
        for command in commands:
            engine.step(command)

    rng, engine = random.Random(3), Engine()
    for task in (env.tasks("train")[k] for k in (1, 4, 5)):
        engine.load(env._library.find(task, engine))
        goal = Goal.read(engine.problem)
        for length in (4, 12):
            path = []
            go([])
            while len(path) < length:
                handy = [c for c in engine.commands if not c.startswith(("go", "look", "help", "inventory", "examine"))]
                random_one = rng.choice(engine.commands if not handy or rng.random() < 0.4 else handy)
                path.append(shortest_plan(engine.facts(), goal)[0] if rng.random() < 0.3 else random_one)
                engine.step(path[-1])
                if engine.won:
                    go(path := path[:-1])
                    break
            here, neighbours = distance(), []
            for command in engine.commands:
                go([*path, command])
                neighbours.append(distance())
            assert min(neighbours) == here - 1, (task, path)


def test_the_engines_planner_stands_in_for_the_oracle(env, monkeypatch):
    monkeypatch.setattr("openrlhf_agentprm.envs.alfworld.env.shortest_plan", lambda facts, goal: None)
    _, (*_, info) = play_expert(env, env.tasks("train")[1])
    assert info["success"]


# --- what a user can get wrong ---


@pytest.mark.parametrize(
    "task, message",
    [
        ("../../etc/passwd", "unknown ALFWorld task"),
        ("pick_heat_then_place_in_recep-scene12", "TYPE-sceneN/SEED"),
        ("pick_heat_then_place_in_recap-scene12/0", "did you mean 'pick_heat_then_place_in_recep'"),
        ("pick_heat_then_place_in_recep-scene99/0", r"no scene 99 \(known: 1-30, 201-230"),
        ("pick_heat_then_place_in_recep-scene401/0", "scene 401 is a Bathroom; .* needs one of Kitchen"),
    ],
)
def test_unknown_generated_tasks(env, task, message):
    with pytest.raises(UserError, match=message):
        env.reset(options={"task_id": task})


def test_a_task_that_no_draw_makes_solvable_is_a_fault_of_its_own(env):
    with pytest.raises(RuntimeError, match="no solvable ALFWorld task .*look_at_obj_in_light.* in scene 201") as fault:
        env.reset(options={"task_id": "look_at_obj_in_light-scene201/0"})
    assert not isinstance(fault.value, UserError), "which would end the run of every other task"


def test_unknown_downloaded_tasks(download):
    env = make_env("alfworld", data_dir=str(download))
    known = env.tasks("train")[0]
    with pytest.raises(UserError, match=f"did you mean '{known}'"):
        env.reset(options={"task_id": known.replace("trial_T", "trial_")})
    with pytest.raises(UserError, match="no ALFWorld game '../x/y'"):
        env.reset(options={"task_id": "../x/y"})
    with pytest.raises(UserError, match="no playable ALFWorld game of types pick_two"):
        make_env("alfworld", data_dir=str(download), task_types="pick_two_obj_and_place").tasks("train")
    with pytest.raises(UserError, match="unknown split 'tests'; did you mean 'test'"):
        env.tasks("tests")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(task_types="pick_and_place_simpel"), "did you mean 'pick_and_place_simple'"),
        (dict(task_types=[]), "no ALFWorld task type given"),
        (dict(source="downlaod"), "did you mean 'download'"),
        (dict(source="generated", data_dir="x"), "data_dir='x' would be left unread"),
        (dict(data_dir="/nowhere"), "no ALFWorld game in '/nowhere'"),
        (dict(source="generated", games={"tests": 3}), "unknown split 'tests' in games"),
        (dict(source="generated", games={"test": 0}), r"games\['test'\] is 0"),
        (dict(source="generated", seed=-1), "seed is -1; allowed: 0 to 99"),
        (dict(sed=1), "unexpected keyword argument 'sed'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        make_env("alfworld", **options)


def test_without_alfworld_the_message_says_what_to_install():
    code = "import sys; sys.modules['fast_downward'] = None\n"
    code += "from openrlhf_agentprm.core.registry import ENVS\ntry: ENVS.load('alfworld')\nexcept ValueError as e: print(str(e))"
    assert "pip install 'openrlhf-agentprm[alfworld]'" in python(code) and "GPL" in python(code)
    assert ENVS.load("alfworld").__name__ == "AlfworldEnv"


def test_agentgyms_rules(cache, download):
    """An action counts in the very letters that are listed, the 50th without success is the last, and the engine's own place names are not told."""
    env = make_env("alfworld", source="generated", cache_dir=cache, rules="agentgym")
    task = env.tasks("train")[0]
    env.reset(options={"task_id": task})
    for action in ("Look", "look.", "go  to"):
        assert env.step(action)[0] == "Nothing happens." and env.step(action)[4] == {"valid_action": False, "success": False}
    assert env.step(" inventory ")[0] == "You are not carrying anything."
    for _ in range(42):
        assert env.step("look")[2:4] == (False, False)
    assert env.step("look")[1:4] == (0.0, False, True)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("look")
    actions, (_, reward, terminated, truncated, _) = play_expert(env, task)
    assert (reward, terminated, truncated) == (1.0, True, False)
    game = next(download.glob("json_2.1.1/train/*/*/game.tw-pddl"))
    content = json.loads(game.read_text())
    assert (older := content["grammar"].replace("You arrive at {r.name}.", "You arrive at {lend.name}.")) != content["grammar"]
    try:
        game.write_text(json.dumps({**content, "grammar": older}))
        for rules, told in (("own", r"You arrive at loc \d+\. "), ("agentgym", "")):
            env = make_env("alfworld", data_dir=str(download), rules=rules)
            env.reset(options={"task_id": game.parent.relative_to(game.parents[2]).as_posix()})
            go = next(command for command in env.admissible_actions() if command.startswith("go to "))
            assert re.fullmatch(rf"{told}(On|The) the? ?.*", env.step(go)[0]), rules
    finally:
        game.write_text(json.dumps(content))
    with pytest.raises(UserError, match="rules is 'gym'; allowed: 'own', 'agentgym'"):
        make_env("alfworld", source="generated", cache_dir=cache, rules="gym")
