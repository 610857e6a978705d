"""The study of estimators at a reduced size: one of its arms on the real engine from the quickstart's policy on, and its summary."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launching import agentprm

from openrlhf_agentprm.pipeline.folders import recipes_folder

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import rl_plot  # noqa: E402
import rl_study  # noqa: E402

SMALL = {"ppo_tasks": 10, "test_tasks": 12, "test_samples": 2, "workers": 8, "first_test": 0}
STEP = {
    "rollout.batch_size": 2,
    "rollout.n_samples_per_prompt": 4,
    "rollout.micro_batch_size": 8,
    "train.batch_size": 8,
    "train.micro_batch_size": 8,
    "ckpt.save_steps": -1,
}
MADE = ("policy0", "sft", "episodes", "agentprm")


def test_a_curve_is_smoothed_and_asked_when_it_got_there():
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert rl_study.smooth(values) == pytest.approx([0.2, 0.3, 0.4])
    assert rl_study.reached(values, 0.25) == 6 and rl_study.reached(values, 0.2 - 1e-9) == 5
    assert rl_study.reached(values, 0.5) is None and rl_study.smooth(values[:4]) == []


def test_success_within_a_budget_is_that_of_the_last_window_it_allows():
    one = {"success": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], "environment steps": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]}
    assert rl_study.within(one, "environment steps", 49) is None
    assert rl_study.within(one, "environment steps", 50) == pytest.approx(0.2)
    assert rl_study.within(one, "environment steps", 99) == pytest.approx(0.3)


def test_seeds_are_averaged_at_equal_spending():
    spent, success = rl_plot.mean_curve([([10.0, 20.0, 40.0], [0.0, 1.0, 1.0]), ([20.0, 30.0], [0.0, 1.0])])
    assert spent[0] == 20 and spent[-1] == 30 and success[0] == pytest.approx(0.5) and success[-1] == pytest.approx(1.0)


def test_every_arm_starts_from_the_same_policy_and_is_judged_on_the_same_tasks():
    stages = yaml.safe_load((recipes_folder() / "study-rl.yaml").read_text())["stages"]
    trained = {name: stage["flags"] for name, stage in stages.items() if stage["command"] == "train_ppo_ray"}
    assert (
        {*trained, "rft", "step_sft"}
        == rl_study.ARMS.keys()
        == {n.removeprefix("test_") for n in stages if n.startswith("test_")} - {"start"}
    )
    own = ("algo.", "prm.", "critic.")
    shared = [{k: v for k, v in flags.items() if not k.startswith(own)} for flags in trained.values()]
    assert all(flags == shared[0] for flags in shared) and all(flags["algo.kl.init_coef"] == 0.01 for flags in trained.values())
    judged = [{**stages[f"test_{arm}"]["flags"], "policy.model_name_or_path": None} for arm in rl_study.ARMS]
    assert all(flags == judged[0] for flags in judged)
    ppo, fresh = trained["outcome"], stages["fresh"]["flags"]
    assert all(ppo[name] == fresh[name] for name in ("env.first_task", "env.num_tasks")), "the supervised arms learn from the same tasks"
    assert ppo["rollout.n_samples_per_prompt"] == fresh["collect.n_samples_per_task"]


@pytest.mark.host
def test_arms_run_and_are_summed_up(quick_run, tmp_path):
    recipe = yaml.safe_load((recipes_folder() / "study-rl.yaml").read_text())
    run = tmp_path / "study" / "seed0"
    recipe["run_dir"] = str(run)
    recipe["vars"] |= SMALL
    quick = yaml.safe_load((recipes_folder() / "quickstart.yaml").read_text())["shared"]["env"]
    kept = {name: recipe["stages"][name] for name in ("test_start", "pav", "test_pav", "report")}
    for stage in kept.values():
        if "env.name" in stage["flags"]:
            stage["flags"] |= quick
        if stage["command"] == "train_ppo_ray":
            stage["flags"] |= STEP
    recipe["stages"] = kept
    text = yaml.safe_dump(recipe, sort_keys=False)
    for name in MADE:
        text = text.replace(f"${{stages.{name}}}", str(quick_run / name))
    (tmp_path / "smaller.yaml").write_text(text)
    agentprm("run", tmp_path / "smaller.yaml")
    assert rl_study.curve(run, "outcome") is None
    curve = rl_study.curve(run, "pav")
    assert len(curve["success"]) == 5 and curve["environment steps"][-1] == pytest.approx(8 * sum(curve["turns"]))
    line = [sys.executable, BENCHMARKS / "rl_study.py", "summary", "--seeds", 0, "--folder", tmp_path / "study"]
    told = subprocess.run([str(x) for x in line], capture_output=True, text=True, check=True).stdout
    assert "| PAV over before PPO |" in told and "to step 5" in told
    rl_plot.plot({0: {"pav": curve}}, rl_study.ARMS, rl_study.smooth, rl_study.WINDOW, tmp_path / "curves.svg")
    assert "PAV" in (tmp_path / "curves.svg").read_text()
