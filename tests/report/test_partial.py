"""Runs that are not done, or not there, or broken in places."""

import json

import pytest
from report.reading import Page

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.report.build import build_report


def read(run):
    return Page(build_report(run).read_text(encoding="utf-8")).text.replace("\xa0", " ")


def undo(run, *stages, begun=False):
    for stage in stages:
        (run / "state" / f"{stage}.json").unlink()
        if not begun:
            (run / "state" / f"{stage}.begun").unlink()


ALL = (
    "policy0",
    "demos",
    "sft",
    "samples",
    "greedy",
    "agentprm",
    "orm",
    "evaluation",
    "search",
    "ppo_prm",
    "test_ppo_prm",
    "ppo_plain",
    "test_ppo_plain",
)


def test_nothing_to_report(run, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        build_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a run folder: it has no recipe.yaml"):
        build_report(tmp_path / "empty")
    undo(run, *ALL[1:])
    undo(run, "policy0", begun=True)
    with pytest.raises(UserError, match=r"no stage .* has finished.*begun: policy0"):
        build_report(run)
    (run / "recipe.yaml").write_text("stages: 3")
    with pytest.raises(UserError, match="names no stages"):
        build_report(run)


def test_only_the_first_stages(run):
    undo(run, *ALL[3:])
    text = read(run)
    assert "3 of 13 finished" in text and "Not begun: fresh" in text and "SFT loss: warm start" in text
    assert "No best-of-N and PRM quality: no evaluate stage has finished or was readable." in text
    assert "Results on" not in text and "Episodes, turn by turn" not in text


def test_before_the_evaluation(run):
    undo(run, *ALL[5:])
    text = read(run)
    assert "Results on doors, test split" in text and "greedy decoding" in text
    assert "No process reward model of this run is finished, so the episodes stand without scores." in text
    assert "open the door of task-" in text and "Promise Q" not in text.split("Episodes, turn by turn")[1].split("Learning curves")[0]


def test_whose_tasks_they_are_is_in_the_title(run):
    """So that generated games never read as a published split."""
    undo(run, *ALL[5:])
    for summary in run.glob("*/.collect.json"):
        summary.write_text(json.dumps({"task_source": "generated doors"}))
    assert "Results on doors (generated doors), test split" in read(run)


def test_an_unfinished_collection_takes_no_part_in_the_comparison(run):
    undo(run, "test_ppo_prm", begun=True)
    text = read(run)
    assert "after ppo_prm (collect) was begun and is not finished." in text
    assert "after ppo_prm unfinished" in text  # but its statuses are shown
    assert "After PPO run ppo_prm" not in text and "After PPO run ppo_plain" in text


def test_a_stage_begun_anew_is_not_done(run):
    (run / "state" / "evaluation.begun").write_text("another mark")
    text = read(run)
    assert "best of N (evaluate) was begun and is not finished." in text and "AUC by turn" not in text


def test_running_ppo_shows_its_curves(run):
    undo(run, "ppo_plain", "test_ppo_plain", begun=True)
    text = read(run)
    assert "PPO run ppo_plain (train_ppo_ray) was begun and is not finished." in text
    legend = build_report(run).read_text(encoding="utf-8").split("<h3>PPO</h3>")[1].split("</ul>")[0]
    assert "PPO run ppo_plain" in legend


def test_unreadable_parts_are_named_and_the_rest_is_shown(run):
    (run / "evaluation.json").write_text('{"best_of_n": ')
    (run / "search.json").write_text("{}")
    (run / "agentprm" / "config.json").unlink()
    shard = next((run / "test_ppo_plain").glob("*.parquet"))
    shard.write_bytes(b"torn")
    text = read(run)
    assert "best of N: what it wrote cannot be read" in text and "search: what it wrote cannot be read" in text
    assert "after ppo_plain: what it wrote cannot be read" in text and "cannot be read as Parquet" in text
    assert "train agentprm could not score these episodes" in text and "After PPO run ppo_prm" in text


def test_an_evaluation_of_another_runs_episodes_stands_alone(run):
    undo(run, "samples", "greedy", "test_ppo_prm", "test_ppo_plain")
    text = read(run)
    assert "Results on the episodes in samples" in text and "Best of 4 samples of samples, chosen by" in text
    assert "greedy decoding" in text and "oracle" in text


def test_one_task_has_no_interval(run):
    entries = json.loads((run / "search.json").read_text())
    entries[0]["outcomes"] = {"task-0": 1.0}
    (run / "search.json").write_text(json.dumps(entries))
    text = read(run)
    assert "Search by Agent, 1×4 solves 100.0 % of the tasks, one sample 50.0 %: +0.0 points. too few tasks for an interval" in text


def test_searches_of_every_kind_are_named(run):
    entries = json.loads((run / "search.json").read_text())
    kinds = [("bon:8", None, None, {}), ("mcts:4", None, 3, {"rollout_weight": 0.5}), ("lookahead:2x4x1", 2, 4, {"policy_margin": 0.1})]
    entries += [{**entries[0], "method": m, "beams": b, "actions": a, **more} for m, b, a, more in kinds]
    (run / "search.json").write_text(json.dumps(entries))
    text = read(run)
    assert "Agent, bon:8" in text and "best of 8 episodes by the last score" in text
    assert "4 simulations each turn, 3 actions at a new state; rollouts' outcomes weigh 0.5" in text
    assert "Agent, lookahead:2×4×1" in text and "2 paths kept, 4 actions at each, judged 1 turn ahead" in text
