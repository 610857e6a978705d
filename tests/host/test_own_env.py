"""The environment that docs/environments.md adds, as it stands there: installed by pip, checked, and trained on by the recipe below it."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import agentprm, changes
from test_ppo import steps

from openrlhf_agentprm.data.store import EpisodeStore

pytestmark = pytest.mark.host
PAGE = (Path(__file__).parent.parent.parent / "docs/environments.md").read_text()
SMALLER = {"demonstrations.env.num_tasks": 300, "sft.train.max_epochs": 3, "ppo.env.num_tasks": 48}


def block(kind):
    return re.search(rf"## Add one\n.*?```{kind}\n(.*?)```", PAGE, re.S).group(1)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the project, and an environment for processes that find what pip made of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "guess.py").write_text(block("python"))
    (folder / "pyproject.toml").write_text(block("toml"))
    (folder / "guess.yaml").write_text(block("yaml"))
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps", "--target", folder / "site", folder]
    done = subprocess.run([str(x) for x in pip], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, os.environ | {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{os.environ['PYTHONPATH']}"}


def test_it_is_short():
    assert len(block("python").splitlines()) < 25


def test_it_passes_the_checker(installed):
    _, environment = installed
    assert "guess: 19 of 19 checks passed" in agentprm("env", "check", "guess", env=environment).stdout


def test_it_is_trained_on(installed):
    folder, environment = installed
    agentprm("run", folder / "guess.yaml", *changes({"run_dir": folder / "run", **SMALLER}), env=environment)
    played = list(EpisodeStore(folder / "run/demonstrations").episodes())
    assert len(played) == 300 and {turn.action for episode in played for turn in episode.turns} == set("123456789")
    found = steps((folder / "run/logs/ppo.log").read_text())
    assert sorted(found) == [1, 2, 3]
    for status in found.values():
        assert math.isfinite(status["policy_loss"]) and status["rollout/num_samples"] == 128
        assert status["valid_actions"] > 0.5, "it has learnt what an action is"
