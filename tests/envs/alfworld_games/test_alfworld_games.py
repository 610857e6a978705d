"""Where ALFWorld's games come from: the generator and the download's layout."""

from pathlib import Path

import pytest

pytest.importorskip("alfworld", reason="needs pip install 'openrlhf-agentprm[alfworld]'")

from playing import play_expert, python

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.alfworld import library
from openrlhf_agentprm.envs.alfworld.engine import Engine
from openrlhf_agentprm.envs.alfworld.generator import Task, make_game
from openrlhf_agentprm.envs.alfworld.household import SEEN_SCENES, UNSEEN_SCENES
from openrlhf_agentprm.envs.base import SPLITS, make_env

# --- generated games ---


def test_splits_share_neither_tasks_nor_test_scenes(env):
    tasks = {split: list(env.tasks(split)[:120]) for split in SPLITS}
    scenes = {split: {Task.parse(task).scene for task in listed} for split, listed in tasks.items()}
    seeds = {split: {Task.parse(task).seed for task in listed} for split, listed in tasks.items()}
    assert len(set().union(*tasks.values())) == 360
    assert scenes["test"] == set(UNSEEN_SCENES) and scenes["train"] | scenes["validation"] <= set(SEEN_SCENES)
    assert not seeds["train"] & seeds["validation"] and not seeds["train"] & seeds["test"]
    assert len(env.tasks("train")) == 3000 and env.tasks("train")[-1] == env.tasks("train")[2999]
    other = make_env("alfworld", source="generated", seed=1, games={"train": 5}, task_types="look_at_obj_in_light")
    assert len(other.tasks("train")) == 5 and not {Task.parse(t).seed for t in other.tasks("train")} & seeds["train"]
    assert all(t.startswith("look_at_obj_in_light") for t in other.tasks("train"))


def test_two_processes_make_the_same_bytes_and_tell_the_same(tmp_path):
    code = """if True:
        from openrlhf_agentprm.envs.base import make_env
        env, seen = make_env("alfworld", source="generated", cache_dir={cache!r}), []
        for task in ("pick_two_obj_and_place-scene12/7", "look_at_obj_in_light-scene308/5"):
            seen.append(env.reset(options={{"task_id": task}}))
            over = False
            while not over:
                seen.append((env.admissible_actions(), env.step(env.expert_action())))
                over = seen[-1][1][2]
        print(seen)
    """
    folders = [tmp_path / "a", tmp_path / "b"]
    said = [python(code.format(cache=str(f)), PYTHONHASHSEED=str(k)) for k, f in enumerate(folders)]
    files = [{p.relative_to(f): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()} for f in folders]
    assert said[0] == said[1] and files[0] == files[1] and len(files[0]) == 4
    assert not list(tmp_path.rglob(".*"))


def test_a_game_is_kept_and_the_second_writer_changes_nothing(tmp_path):
    env = make_env("alfworld", source="generated", cache_dir=str(tmp_path))
    task = "pick_and_place_simple-scene7/3"
    env.reset(options={"task_id": task})
    (game,) = tmp_path.rglob("game.tw-pddl")
    assert game.parent.parent.name == "pick_and_place_simple-scene7" and game.parents[2].name == "train"
    before = game.stat().st_mtime_ns
    library._write_folder(game.parent, make_game(Task.parse(task), Engine()))
    env.reset(options={"task_id": task})
    assert game.stat().st_mtime_ns == before and len(list(tmp_path.rglob("*"))) == 7


# --- the download ---


def test_the_downloads_layout_is_read(download):
    env = make_env("alfworld", data_dir=str(download))
    assert env.source == "download" and {split: len(env.tasks(split)) for split in SPLITS} == dict.fromkeys(SPLITS, 2)
    for split in SPLITS:
        assert env.reset(options={"task_id": env.tasks(split)[0]})[1]["source"] == "download"
        assert play_expert(env, env.tasks(split)[1])[1][4]["success"]
    inner = make_env("alfworld", data_dir=str(download / "json_2.1.1"), task_types=["look_at_obj_in_light"])
    assert [t.split("-")[0] for t in inner.tasks("test")] == ["look_at_obj_in_light"]


def test_alfworlds_own_loader_finds_the_same_games(download, capsys):
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    paths = {"data_path": str(download / "json_2.1.1" / "train"), "num_train_games": -1}
    config = {"dataset": paths, "env": {"task_types": [1, 2, 3, 4, 5, 6], "goal_desc_human_anns_prob": 0}}
    ours = make_env("alfworld", data_dir=str(download)).tasks("train")
    found = AlfredTWEnv(config, train_eval="train").game_files
    assert sorted("/".join(Path(f).parts[-3:-1]) for f in found) == ours


def test_the_older_grammar_of_the_download_is_played(download, tmp_path):
    (source,) = list(download.glob("json_2.1.1/train/pick_and_place_simple*/*"))
    target = tmp_path / "json_2.1.1" / "train" / "pick_and_place_simple-x" / "trial_1"
    target.mkdir(parents=True)
    older = (source / "game.tw-pddl").read_text().replace("move {o} to {r}", "put {o} in/on {r}")
    (target / "game.tw-pddl").write_text(older)
    (target / "traj_data.json").write_text((source / "traj_data.json").read_text())
    actions, (*_, info) = play_expert(make_env("alfworld", data_dir=str(tmp_path)), "pick_and_place_simple-x/trial_1")
    assert actions[-1].startswith("put ") and info["success"]


def test_where_games_come_from(download, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "ALFWORLD_DATA", str(download))
    assert make_env("alfworld").source == "download"
    assert make_env("alfworld", source="generated", cache_dir=cache).source == "generated"
    monkeypatch.setattr(library, "ALFWORLD_DATA", str(tmp_path))
    assert make_env("alfworld", cache_dir=cache).source == "generated"
    with pytest.raises(UserError, match="no ALFWorld game in .*run alfworld-download"):
        make_env("alfworld", source="download")
    # A folder of generated games is not taken for a download.
    (generated,) = Path(cache).glob("generated-*")
    assert make_env("alfworld", data_dir=str(generated)).source == "generated"
