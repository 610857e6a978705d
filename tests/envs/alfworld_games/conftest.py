"""Generated games, and a folder as the download fills it; made once for all."""

import json

import pytest

from openrlhf_agentprm.envs.base import make_env


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("alfworld"))


@pytest.fixture(scope="session")
def env(cache):
    return make_env("alfworld", source="generated", cache_dir=cache)


@pytest.fixture(scope="session")
def download(env, tmp_path_factory):
    """A folder as `alfworld-download` fills it: two games a split, without the mark of the generator."""
    root = tmp_path_factory.mktemp("download")
    for split, folder in (("train", "train"), ("validation", "valid_seen"), ("test", "valid_unseen")):
        for task in env.tasks(split)[:2]:
            env.reset(options={"task_id": task})
            source = env._library.find(task, env._engine).parent
            target = root / "json_2.1.1" / folder / source.parent.name / f"trial_T{source.name}"
            target.mkdir(parents=True)
            (target / "game.tw-pddl").write_text((source / "game.tw-pddl").read_text())
            described = json.loads((source / "traj_data.json").read_text())
            assert described.pop("generator") == "openrlhf_agentprm"
            (target / "traj_data.json").write_text(json.dumps(described))
    return root
