"""The steps behind the page: differences and their intervals, merged curves, chosen episodes and their scores."""

import math
from types import SimpleNamespace

import pytest
import torch
from report.run_folder import TOKENIZER, episode, sampled, write_prm, write_scalars

from openrlhf_agentprm.agents.tiny import make_model, save_policy
from openrlhf_agentprm.prm.evaluation import baseline_curves, choice_curves, free_scores, sample_grid, with_interval
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all
from openrlhf_agentprm.report.board import Board, Group, Row
from openrlhf_agentprm.report.build import decimal
from openrlhf_agentprm.report.compare import Estimate, gain, of_entry, of_tasks
from openrlhf_agentprm.report.curves import read_scalars, smooth
from openrlhf_agentprm.report.headlines import headlines, points
from openrlhf_agentprm.report.load import flags_of
from openrlhf_agentprm.report.plots import Chart, Series, svg
from openrlhf_agentprm.report.tables import duration, status_rows
from openrlhf_agentprm.report.trajectories import choose, turn_scores


def test_paired_differences_use_the_shared_tasks_only():
    before = {f"t{n}": float(n % 2) for n in range(40)}
    after = {f"t{n}": float(n % 2) + 0.1 for n in range(20, 60)}
    found = gain(of_tasks(after), of_tasks(before))
    assert found.paired and found.verdict == "better"
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))  # every shared task gains the same
    assert gain(of_tasks({"a": 1.0}), of_tasks({"b": 0.0})) is None


def test_differences_of_separate_intervals():
    found = gain(Estimate(0.6, 0.5, 0.7), Estimate(0.5, 0.47, 0.52))
    assert not found.paired and found.verdict == "unclear" and found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - math.hypot(0.1, 0.02)) and found.high == pytest.approx(0.1 + math.hypot(0.1, 0.03))
    assert gain(Estimate(0.6, 0.55, 0.65), Estimate(0.5, 0.47, 0.52)).verdict == "better"
    assert gain(Estimate(0.4, 0.35, 0.45), Estimate(0.5, 0.47, 0.52)).verdict == "worse"
    alone = gain(Estimate(0.4, None, None), Estimate(0.5, 0.4, 0.6))
    assert alone.verdict == "unknown" and points(alone) == "−10.0 points"
    assert of_entry({"mean": None, "low": None, "high": None}) is None


def test_the_steps_of_a_rollout_are_those_that_were_trained_not_those_of_evaluations():
    points = [(float(step), 3.0) for step in range(1, 101)]
    scalars = {"eval/monitor/success": points[:2], "train/kl": points, "train/status/success": points}
    ppo = SimpleNamespace(scalars=scalars, stage=SimpleNamespace(label="ppo", state="done"))
    (row,) = status_rows(SimpleNamespace(collected=[], ppo=[ppo]))
    assert (row.about, row.total) == ("training rollouts of 100 steps", 300)


def test_a_winning_baseline_is_said_first():
    wins = {f"t{n}": 2 for n in range(30)}  # failures are a turn longer: the fewest turns always choose right
    grid = sample_grid(sampled(wins, "p"))
    curves = choice_curves(grid, free_scores(grid) | {"PRM": [float(e.sample) for e in grid.episodes]}, [4])
    curves |= baseline_curves(grid, [4])
    rows = [
        Row("PRM", "prm", of_entry(with_interval(curves["PRM"][4]))),
        Row("fewest turns", "baseline", of_entry(with_interval(curves["fewest turns"][4]))),
    ]
    board = Board(
        "doors", groups=[Group("choice", "the policy", [*rows, Row("oracle", "oracle", of_entry(with_interval(curves["oracle"][4])))], 4)]
    )
    first, *others = headlines(board)
    assert first.text == ("Highest of all, the oracle apart: the best of 4 samples by fewest turns, which needs no PRM, with 100.0\xa0%.")
    assert [s.verdict for s in others] == ["worse"] and "Against the best choice without a PRM: PRM solves 0.0\xa0%" in others[0].text


def test_a_resumed_runs_files_are_merged_by_step(tmp_path):
    write_scalars(tmp_path / "a", {"train/x": [1.0, 2.0, 3.0, 4.0]})
    write_scalars(tmp_path / "b", {"train/x": [30.0, 40.0, 50.0], "train/y": [math.nan, 1.0]}, first=3)
    assert read_scalars(tmp_path) == {"train/x": [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)], "train/y": [(4, 1.0)]}
    assert read_scalars(tmp_path / "none") == {}
    assert smooth([(1, 0.0), (2, 3.0), (3, 6.0)], 3) == [(1, 1.5), (2, 3.0), (3, 4.5)]
    assert smooth([(1, 0.0), (2, 3.0)], 1) == [(1, 0.0), (2, 3.0)]


def test_episodes_of_tasks_with_both_outcomes_come_first():
    wins = {"all": 4, "half": 2, "none": 0, "one": 1, "three": 3}
    chosen = choose(reversed(sampled(wins, "p")))
    assert [task for task, _ in chosen] == ["half", "one", "three", "all"]
    assert [e.sample for e in chosen[0][1]] == [0, 2, 1] and [e.outcome for e in chosen[0][1]] == [1.0, 0.0, 1.0]
    assert [e.outcome for e in chosen[3][1]] == [1.0] * 3
    twins = [episode("t", 0, True), episode("t", 0, True, policy="other"), episode("t", 1, False)]
    assert [e.sample for e in choose(twins)[0][1]] == [0, 1]  # the same actions are shown once


def test_scores_are_the_prms_and_advantages_are_gae(tmp_path):
    save_policy(make_model(TOKENIZER, hidden_size=64, heads=2, layers=1, context=64), TOKENIZER, tmp_path / "policy")
    (tmp_path / "prm").mkdir()
    write_prm(tmp_path / "prm", tmp_path / "policy", method="td_gae")
    prm = ScalarPRM.load(str(tmp_path / "prm"))
    one = episode("t", 0, False)
    q_K, v_K = score_all(prm, [one.token_ids], [[(t.action_start, t.action_end) for t in one.turns]])[0]
    rows = turn_scores(q_K, v_K, 1.0, prm.record, lambd=0.5, gamma=1.0)
    q, v = q_K.tolist(), v_K.tolist()
    assert [r.promise for r in rows] == q and [r.value for r in rows] == v
    assert [r.progress for r in rows] == pytest.approx([a - b for a, b in zip(q, v, strict=True)])
    deltas = [v[1] - v[0], v[2] - v[1], 1.0 - v[2]]
    assert rows[0].advantage == pytest.approx(deltas[0] + 0.5 * deltas[1] + 0.25 * deltas[2], abs=1e-6)
    assert rows[2].advantage == pytest.approx(deltas[2], abs=1e-6)


@pytest.mark.parametrize(("values", "known"), [("previous_q", [False, True]), ("state", [False, False])])
def test_untrained_values_are_not_shown(values, known):
    rows = turn_scores(
        torch.tensor([0.2, 0.4]), torch.tensor([9.0, 0.2]), 1.0, Record(values=values, value_trained=False), lambd=1.0, gamma=1.0
    )
    assert [r.value is not None for r in rows] == known == [r.advantage is not None for r in rows]
    assert [r.promise for r in rows] == pytest.approx([0.2, 0.4])


def test_charts_carry_the_themes_colours_and_no_dates():
    chart = Chart("A <b>", "hint", 'said "so" <i>', [Series([1, 2], [0.1, 0.2], 1), Series([1, 2], [0.3, 0.1], 0, "--")], "$x_1$")
    picture = svg(chart, 3)
    assert picture == svg(chart, 3) and "metadata" not in picture and "#0" not in picture
    assert "var(--series-1)" in picture and "var(--muted)" in picture and ">$x_1$<" in picture
    assert 'aria-label="said &#34;so&#34; &lt;i&gt;"' in picture and picture.startswith("<svg") and "url(#chart3-" in picture


def test_small_formats():
    assert [duration(s) for s in (None, 7.4, 65, 7260)] == ["–", "7 s", "1 min 05 s", "2 h 01 min"]
    assert [decimal(-0.001), decimal(0.5, 2, True), decimal(-0.25), decimal(None)] == ["0.00", "+0.50", "−0.25", "–"]
    assert flags_of(["python", "-m", "x", "--a.b", "1", "--c", "--d", "2", "-3"]) == {"a.b": ["1"], "c": [], "d": ["2", "-3"]}
