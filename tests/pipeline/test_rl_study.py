"""The study of estimators: what its recipe holds equal, and how its curves are read."""

import sys
from pathlib import Path

import pytest
import yaml

from openrlhf_agentprm.pipeline.folders import recipes_folder

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import rl_study  # noqa: E402


def test_a_curve_is_smoothed_and_asked_when_it_got_there():
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert rl_study.smooth(values) == pytest.approx([0.2, 0.3, 0.4])
    assert rl_study.reached(values, 0.25) == 6 and rl_study.reached(values, 0.2 - 1e-9) == 5
    assert rl_study.reached(values, 0.5) is None and rl_study.smooth(values[:4]) == []


def test_every_arm_starts_from_the_same_policy_and_is_judged_on_the_same_tasks():
    stages = yaml.safe_load((recipes_folder() / "study-rl.yaml").read_text())["stages"]
    trained = {name: stage["flags"] for name, stage in stages.items() if stage["command"] == "train_ppo_ray"}
    assert trained.keys() == rl_study.ARMS.keys() == {name.removeprefix("test_") for name in stages if name.startswith("test_")} - {"start"}
    own = ("algo.", "prm.", "critic.")
    shared = [{k: v for k, v in flags.items() if not k.startswith(own)} for flags in trained.values()]
    assert all(flags == shared[0] for flags in shared) and all(flags["algo.kl.init_coef"] == 0.01 for flags in trained.values())
    judged = [{**stages[f"test_{arm}"]["flags"], "policy.model_name_or_path": None} for arm in trained]
    assert all(flags == judged[0] for flags in judged)
