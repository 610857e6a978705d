"""The quickstart's recipe at a reduced size, from nothing to the report."""

import json

import pytest
from launching import QUICK, agentprm, changes

from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.prm.record import Record

pytestmark = pytest.mark.host


def test_every_stage_left_what_the_next_one_reads(quick_run):
    states = {p.stem for p in (quick_run / "state").glob("*.json")}
    played = "policy0 demonstrations sft episodes agentprm test_samples test_greedy evaluation search ppo test_ppo report"
    assert states == set(played.split())
    assert len(EpisodeStore(quick_run / "episodes")) == QUICK["vars.train_tasks"] * 8
    demonstrated = json.loads((quick_run / "demonstrations/.collect.json").read_text())["statuses"]
    assert 0.45 < demonstrated["success"] / QUICK["vars.demonstrations"] < 0.8, "failed demonstrations are kept"
    assert Record.load(quick_run / "agentprm").method == "td_gae"


def test_the_policy_learned_and_splits_do_not_meet(quick_run):
    test = list(EpisodeStore(quick_run / "test_samples").episodes())
    train = {e.task_id for e in EpisodeStore(quick_run / "episodes").episodes()}
    assert sum(e.outcome for e in test) / len(test) > 0.1, "a random policy never declares success"
    assert not train & {e.task_id for e in test}


def test_search_beside_its_control_at_equal_budgets(quick_run):
    rows = {(r["prm"], r["beams"], r["actions"]): r for r in json.loads((quick_run / "search.json").read_text())}
    assert set(rows) == {(who, *m) for who in ("AgentPRM", "random") for m in ((1, 4), (2, 2))}
    for method in ((1, 4), (2, 2)):
        ours, control = rows[("AgentPRM", *method)], rows[("random", *method)]
        assert ours["tasks"] == control["tasks"] == QUICK["vars.test_tasks"]
        assert 0.5 < ours["sampled_actions_per_task"] / control["sampled_actions_per_task"] < 2
        assert ours["outcomes"].keys() == control["outcomes"].keys()


def test_the_report_stands_alone(quick_run):
    page = (quick_run / "report.html").read_text()
    assert "AgentPRM" in page and "PPO with AgentPRM" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="http' not in page


def test_the_same_command_again_runs_nothing(quick_run):
    before = {p: p.stat().st_mtime_ns for p in quick_run.glob("state/*.json")}
    again = agentprm("run", "quickstart", *changes({"run_dir": quick_run, **QUICK}))
    assert again.stdout.count("done before") == 12
    assert before == {p: p.stat().st_mtime_ns for p in quick_run.glob("state/*.json")}
