"""The report's section on monitored PPO runs."""

import json

from report.reading import Page

from openrlhf_agentprm.report.build import build_report
from openrlhf_agentprm.report.load import load_run
from openrlhf_agentprm.report.monitors import alarm_lines, monitor_charts
from openrlhf_agentprm.report.watched import read_monitor


def row(step, kind="training", **more):
    values = {"success": 0.6 - 0.01 * step, "prm_reward": 0.5 * step, "gap": 0.7 * step, "promise_drift": 0.1, "repeated_actions": 0.2}
    return {"kind": kind, "step": step} | values | more


ALARM = {"kind": "alarm", "series": "training", "step": 5, "action": "best", "reward_rise": 2.5, "success_rise": -0.04, "evidence": 4.0}


def write(run, rows):
    (run / "ppo_prm/monitor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def watched(run):
    folder = load_run(run)
    return read_monitor(folder, next(stage for stage in folder.stages if stage.name == "ppo_prm"))


def test_a_gamed_prm_is_told_and_drawn(run):
    again = [row(4, success=0.9), ALARM | {"step": 4}, row(4), row(5)]  # killed behind step 4, and resumed from a checkpoint before it
    write(run, [row(step) for step in (1, 2, 3)] + [row(0, "held_out"), row(4, "held_out"), *again, ALARM])
    found = watched(run)
    assert sorted(found.training) == [1, 2, 3, 4, 5] and sorted(found.held_out) == [0, 4] and found.training[4]["success"] < 0.6
    assert [alarm["step"] for alarm in found.alarms] == [4, 5]
    charts, keys = monitor_charts([found])
    titles = [chart.title for chart in charts]
    assert titles[:4] == ["Success against the PRM's reward", "True success", "The PRM's reward", "Gap"] and "Repeated actions" in titles
    assert "Entropy" not in titles, "it was not logged"
    assert all(chart.marks == (4.0, 5.0) for chart in charts[1:]) and "Alarm at step 4, 5." in charts[1].description
    against, success = charts[0].series, charts[1].series
    assert [list(s.x) for s in against] == [[0.5, 1.0, 1.5, 2.0, 2.5], [0.0, 2.0]] and list(success[1].x) == [0, 4]
    text = build_report(run).read_text()
    page = Page(text)
    assert not page.unbalanced and 'href="#monitors"' in text
    assert "PPO run ppo_prm: the alarm rang at step 5 (training batches)" in text and "success by -4.0 points" in text
    assert "training ended with the best held-out checkpoint" in text


def test_a_quiet_run_says_so_and_an_unwatched_one_has_no_section(run):
    assert watched(run) is None and 'id="monitors"' not in build_report(run).read_text()
    write(run, [row(1), row(2)])
    assert alarm_lines([watched(run)]) == ["PPO run ppo_prm: no alarm in 2 steps."]
    assert 'id="monitors"' in build_report(run).read_text()


def test_a_row_that_was_cut_short_hides_none_of_the_others(run):
    write(run, [row(1), row(2), ALARM])
    with (run / "ppo_prm/monitor.jsonl").open("a") as file:
        file.write('{"kind": "training", "step": 3, "succ')
    assert sorted(watched(run).training) == [1, 2] and len(watched(run).alarms) == 1


def test_a_torn_file_is_named(run):
    (run / "ppo_prm/monitor.jsonl").write_text('{"kind": "training", "st')
    assert "PPO run ppo_prm: what it wrote cannot be read" in build_report(run).read_text()
