"""The labels' study at a reduced size: every stage of its recipe on the real engine, and its summary."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launching import agentprm, changes

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "vars.demonstrations": 400,
    "vars.train_tasks": 48,
    "vars.samples": 2,
    "vars.half": 64,
    "vars.quarter": 48,
    "vars.completions": 2,
    "vars.few_epochs": 1,
    "vars.epochs": 1,
    "vars.test_tasks": 12,
    "vars.test_samples": 16,
    "vars.workers": 8,
    "sft.train.max_epochs": 1,
    "inverse.train.max_epochs": 1,
}
ARMS = {"AgentPRM", "td_qv", "PVM", "ORM", "mc_visits", "mc_soft", "ensemble mean", "ensemble lcb", "implicit", "inverse", "shuffled"}


@pytest.mark.host
def test_every_stage_of_the_labels_study_runs_and_is_summed_up(tmp_path):
    run = tmp_path / "study" / "seed0"
    agentprm("run", "study-labels", *changes({"run_dir": run, **SMALL}), timeout=1500)
    evaluation, searches = (json.loads((run / name).read_text()) for name in ("evaluation.json", "search.json"))
    assert evaluation["best_of_n"].keys() >= ARMS and {"16"} <= evaluation["best_of_n"]["AgentPRM"].keys()
    assert {(e["prm"], e["beams"], e["actions"]) for e in searches} >= {
        (arm, n, m) for arm in (*ARMS, "random") for n, m in ((1, 4), (2, 2))
    }
    assert (run / "report.html").stat().st_size > 10_000
    line = [sys.executable, ROOT / "tests/benchmarks/labels_study.py", "summary", "--seeds", "0", "--folder", tmp_path / "study"]
    told = subprocess.run([str(x) for x in line], capture_output=True, text=True, check=True).stdout
    assert "| AgentPRM |" in told and "Does td_qv beat td_gae?" in told and "best of 16: AgentPRM over mc_soft |" in told
