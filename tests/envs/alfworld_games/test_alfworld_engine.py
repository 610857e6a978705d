"""ALFWorld's engine, made faster: the same texts, nothing kept, no code run from a game's file."""

import pytest

pytest.importorskip("alfworld", reason="needs pip install 'openrlhf-agentprm[alfworld]'")

from playing import python

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.alfworld.engine import Engine, read_game
from openrlhf_agentprm.envs.base import make_env

# --- the engine ---

WALK = """if True:
    import json, random, sys
    {engine}
    for file in {files!r}:
        load(file)
        rng, seen = random.Random(file), [reset()]
        for _ in range(12):
            seen.append(step(rng.choice(seen[-1][1])))
        print(json.dumps(seen), end=" ")
"""
STOCK = """
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv
    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
    load = env.load
    told = lambda s: (s.feedback, s["admissible_commands"], s["won"])
    reset = lambda: told(env.reset())
    step = lambda command: told(env.step(command)[0])
"""
OURS = """
    from pathlib import Path
    from openrlhf_agentprm.envs.alfworld.engine import Engine
    env = Engine()
    load = lambda file: env.load(Path(file))
    reset = lambda: (env.reset(), env.commands, env.won)
    step = lambda command: (env.step(command), env.commands, env.won)
"""


def test_the_speed_ups_change_no_text(download):
    files = [str(f) for f in sorted(download.rglob("game.tw-pddl"))[:3]]
    stock, ours = (python(WALK.format(engine=engine.strip(), files=files)) for engine in (STOCK, OURS))
    assert len(ours) > 5000 and ours == stock


def test_one_planner_library_serves_closed_environments_again(env, monkeypatch):
    import fast_downward

    loaded = []
    stock = fast_downward.load_lib
    monkeypatch.setattr(fast_downward, "load_lib", lambda: loaded.append(1) or stock())
    for _ in range(4):
        one = make_env("alfworld", source="generated", cache_dir=str(env._library.folder.parents[1]))
        one.reset(options={"task_id": env.tasks("train")[0]})
        one.close()
        one.close()
    assert len(loaded) <= 1


def test_propositions_of_past_games_are_forgotten(env, monkeypatch):
    import mementos.core

    monkeypatch.setattr("openrlhf_agentprm.envs.textworld_memory._PROPOSITIONS_KEPT", 10)
    sizes = []
    for k in (4, 0, 1, 2, 3, 0):
        env.reset(options={"task_id": env.tasks("train")[k]})
        sizes.append(len(mementos.core._memento_cache))
    assert sizes[5] < 1.2 * sizes[1] < sum(sizes[1:5]) / 2


@pytest.mark.parametrize(
    "place, expression",
    [
        ("You open the {r.name}.", "{__import__('os').mkdir('MADE')}"),
        ("go to [{r.name |", "go to [{open('MADE', 'w').name |"),
        ("You close the {r.name}.", "{r.__class__}"),
        ("Your task is to: ", "{().__class__}"),
    ],
)
def test_a_game_file_cannot_run_code(download, tmp_path, monkeypatch, place, expression):
    monkeypatch.chdir(tmp_path)
    game = read_game(sorted(download.rglob("game.tw-pddl"))[0])
    assert place in game["grammar"]
    with pytest.raises(UserError, match="expression .* which is refused"):
        Engine().load({**game, "grammar": game["grammar"].replace(place, expression)})
    assert list(tmp_path.iterdir()) == []


def test_broken_games_are_user_errors(download, tmp_path):
    game = read_game(sorted(download.rglob("game.tw-pddl"))[0])
    engine, path = Engine(), tmp_path / "game.tw-pddl"
    for content, message in [("{", "not a readable ALFWorld game"), ("[]", "missing: pddl_domain, grammar, pddl_problem")]:
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            engine.load(path)
    for key in ("pddl_problem", "pddl_domain", "grammar"):
        with pytest.raises(UserError, match="could not be loaded"):
            engine.load({**game, key: game[key][: len(game[key]) // 2]})
    engine.load(game)
    assert "Your task is to" in engine.reset()
