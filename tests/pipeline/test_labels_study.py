"""The labels' study at a reduced size: its recipe on the real engine from the quickstart's policy on, and its summary."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launching import agentprm

from openrlhf_agentprm.pipeline.folders import recipes_folder

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "train_tasks": 48, "samples": 2, "completions": 2, "epochs": 1, "few_epochs": 1,
    "first_test": 0, "test_tasks": 16, "test_samples": 16, "workers": 8,
}  # fmt: skip
ARMS = {"AgentPRM", "td_qv", "PVM", "ORM", "mc_visits", "mc_soft", "ensemble mean", "ensemble lcb", "implicit", "inverse", "shuffled"}
WARM_START = ("policy0", "demonstrations", "sft")
MORE_OF_THE_SAME = ("mc_states_2", "mc_labels_2", "mc_soft_2", "agentprm_half", "agentprm_quarter", "no_progress", "lambda_50", "lambda_80")


def smaller(quick_run, folder):
    """The recipe without its warm start, which is the quickstart's, and without arms that differ from others in a number only."""
    recipe = yaml.safe_load((recipes_folder() / "study-labels.yaml").read_text())
    recipe["run_dir"] = str(folder)
    recipe["vars"] |= SMALL
    for name in (*WARM_START, *MORE_OF_THE_SAME):
        del recipe["stages"][name]
    recipe["stages"]["inverse"]["flags"]["train.max_epochs"] = 1
    for stage in recipe["stages"].values():
        prms = stage["flags"].get("prm.model_name_or_path")
        if isinstance(prms, list):
            stage["flags"]["prm.model_name_or_path"] = [p for p in prms if not any(f"{{stages.{s}}}" in p for s in MORE_OF_THE_SAME)]
    text = yaml.safe_dump(recipe, sort_keys=False)
    for name in ("policy0", "sft"):
        text = text.replace(f"${{stages.{name}}}", str(quick_run / name))
    return text


@pytest.mark.host
def test_the_study_runs_stage_by_stage_and_is_summed_up(quick_run, tmp_path):
    run = tmp_path / "study" / "seed0"
    (tmp_path / "smaller.yaml").write_text(smaller(quick_run, run))
    agentprm("run", tmp_path / "smaller.yaml", timeout=1500)
    evaluation, searches = (json.loads((run / name).read_text()) for name in ("evaluation.json", "search.json"))
    assert evaluation["best_of_n"].keys() >= ARMS and "16" in evaluation["best_of_n"]["AgentPRM"]
    searched = {(e["prm"], e["beams"], e["actions"]) for e in searches}
    assert searched >= {(arm, n, m) for arm in (*ARMS, "random") for n, m in ((1, 4), (2, 2))}
    assert (run / "report.html").stat().st_size > 10_000
    line = [sys.executable, ROOT / "tests/benchmarks/labels_study.py", "summary", "--seeds", "0", "--folder", tmp_path / "study"]
    told = subprocess.run([str(x) for x in line], capture_output=True, text=True, check=True).stdout
    assert "| AgentPRM |" in told and "Does td_qv beat td_gae?" in told and "best of 16: AgentPRM over mc_soft |" in told
