"""Evaluation on episodes whose truth is planted: figures by hand, and verdicts on scorers that know length, something, or nothing."""

import json
import math
from dataclasses import replace

import pytest
import torch

from openrlhf_agentprm.annotate.visits import mc_visits
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.sidecar import read_labels
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.prm import evaluation as ev
from openrlhf_agentprm.prm.evaluation.comparison import beside_truth, compare
from openrlhf_agentprm.prm.evaluation.ground_truth import GroundTruth, against_truth, label_problems
from openrlhf_agentprm.prm.evaluation.quality import prm_quality
from openrlhf_agentprm.prm.evaluation.verdict import alive_auc, best_aggregate, verdict

PLAIN = {"temperature": 1.0}


def episode(task, sample, actions, success, *, length=2):
    """Actions are numbers, each of `length` tokens behind an observation of one; the last action's text is its number."""
    ids, turns = [1], []
    for action in actions:
        turns.append(Turn("o", f"act {action}", len(ids), len(ids) + length))
        ids += [5 + action] * length + [2]
    status = Status.SUCCESS if success else Status.FAILURE
    return Episode(
        "e", task, "test", 0, sample, "p", "d", PLAIN, status, float(success), True, False, ids[:-1], turns, [-0.1] * (len(ids) - 1)
    )


def small_grid():
    """Task a: a success of 2 turns, a failure of 3; task b: a success and a failure of 2 turns each."""
    return ev.sample_grid(
        [episode("a", 0, [0, 1], True), episode("a", 1, [0, 2, 2], False), episode("b", 0, [1, 1], True), episode("b", 1, [2, 1], False)]
    )


SMALL = [[0.8, 0.9], [0.3, 0.95, 0.2], [0.4, 0.7], [0.4, 0.6]]


def tensors(rows):
    return [torch.tensor(row) for row in rows]


def test_quality_by_turn_and_by_turns_left_by_hand():
    found = prm_quality(small_grid(), tensors(SMALL))
    first, second = found["by_turn"]
    assert (first["turn"], first["alive"], first["tasks"]) == (1, 4, 2)
    assert first["auc_within_task"] == pytest.approx((1 + 0.5) / 2)  # 0.8 over 0.3; 0.4 and 0.4
    assert first["auc"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert first["brier"] == pytest.approx((0.2**2 + 0.3**2 + 0.6**2 + 0.4**2) / 4)
    assert (second["alive"], second["tasks"], second["mean_score"]) == (1, 0, pytest.approx(0.95)) and math.isnan(second["auc_within_task"])
    none, one, two = found["by_turns_left"]
    assert (none["turns_left"], none["episodes"], none["auc_within_task"]) == (0, 4, 1.0)
    assert none["auc_within_task_equal_length"] == 1.0 and none["tasks_equal_length"] == 1  # those of task a are of unlike length
    assert one["auc_within_task"] == pytest.approx((0 + 0.5) / 2)  # 0.8 under 0.95: the failure is a turn further there
    assert two["episodes"] == 1 and found["last"]["auc"] == 1.0


def test_calibration_is_against_the_outcome_that_was_graded():
    graded = [replace(e, outcome=value) for e, value in zip(small_grid().episodes, (0.6, 0.4, 0.7, 0.2), strict=True)]
    found = prm_quality(ev.sample_grid(graded), tensors([[0.5, 0.6], [0.1, 0.2, 0.4], [0.5, 0.7], [0.1, 0.2]]))
    assert found["last"]["brier"] == pytest.approx(0, abs=1e-12) and found["last"]["ece"] == pytest.approx(0, abs=1e-6)
    assert found["last"]["auc"] == 1.0  # right or wrong: above a half or not


def test_scores_that_are_no_probabilities_have_no_calibration():
    found, plain = (prm_quality(small_grid(), tensors(SMALL), probability=p) for p in (False, True))
    rows = [*found["by_turn"], *found["by_turns_left"], found["last"]]
    assert all(math.isnan(row["brier"]) and math.isnan(row["ece"]) for row in rows) and found["last"]["calibration"] == []
    assert found["last"]["auc"] == plain["last"]["auc"] and plain["last"]["ece"] > 0


def test_votes_of_episodes_in_steps_are_those_of_whole_responses():
    whole = small_grid()
    steps = [replace(e, turns=[*e.turns, replace(e.turns[-1], action="")]) for e in whole.episodes]  # a last step that says nothing
    scores = {"majority": torch.ones_like(whole.outcomes_GN)}
    wanted = ev.majority_curves(whole, scores, [2], "last_action")["majority"][2]
    divided = ev.majority_curves(replace(whole, episodes=steps, played=whole.episodes), scores, [2], "last_action")["majority"][2]
    assert torch.equal(divided, wanted)


def test_the_pooled_auc_still_alive_by_hand():
    grid = small_grid()
    q_BK, _ = ev.pad_turns(tensors(SMALL))
    found = alive_auc(grid, q_BK)
    assert found["mean"] == pytest.approx(1.5 / 2) and (found["pairs"], found["tasks"]) == (2, 2)
    assert (found["low"], found["high"]) == (0.5, 1.0)  # either task alone
    short = ev.sample_grid([episode(t, s, [s], s == 0) for t in "ab" for s in range(2)])
    assert math.isnan(alive_auc(short, torch.rand(4, 1))["mean"])


def planted(seed, tasks=100, samples=8):
    """Episodes whose failures are longer, and at each turn whether the episode is still on a way to success."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=g))  # noqa: E731
    episodes, truth = [], {}
    for task in range(tasks):
        base = float(torch.rand(1, generator=g))
        for sample in range(samples):
            success = float(torch.rand(1, generator=g)) < base
            turns = draw(3, 8) if success else draw(4, 10)
            fatal = turns if success else draw(0, turns)
            one = episode(f"t{task}", sample, [draw(0, 3) for _ in range(turns)], success)
            episodes.append(one)
            truth[one.episode_id] = [float(k < fatal) for k in range(turns)]
    return ev.sample_grid(episodes), truth, g


def test_verdicts_tell_the_informed_from_length_and_from_noise():
    grid, truth, g = planted(0)
    scores = {
        "informed": [torch.tensor(truth[e.episode_id]) + 0.4 * torch.randn(len(e.turns), generator=g) for e in grid.episodes],
        "length": [1 - 0.05 * torch.arange(len(e.turns)) for e in grid.episodes],
        "noise": [torch.rand(len(e.turns), generator=g) for e in grid.episodes],
        "wrong": [-torch.tensor(truth[e.episode_id]) + 0.4 * torch.randn(len(e.turns), generator=g) for e in grid.episodes],
    }
    result = compare(grid, scores)
    verdicts = result["verdicts"]
    assert {name: v["finding"] for name, v in verdicts.items()} == {
        "informed": "beyond_length",
        "length": "nothing",
        "noise": "nothing",
        "wrong": "reversed",
    }
    assert verdicts["informed"]["sentence"].startswith("knows more than length, by +") and verdicts["informed"]["alive_auc"]["low"] > 0.55
    assert verdicts["length"]["sentence"].startswith("knows nothing beyond length here")
    assert verdicts["length"]["alive_auc"]["mean"] == 0.5 and verdicts["length"]["gain"]["mean"] <= 0
    # length alone looks well everywhere else: AUC in a task, AUC over all, best of 8
    assert result["prm_quality"]["length"]["last"]["auc_within_task"] > 0.6 and result["length_leak"]["auc_within_task"] > 0.6
    assert result["best_of_n"]["length"][8]["low"] > result["best_of_n"]["random"][8]["high"]
    # noise read by its minimum knows the length, and the verdict on that aggregate still says so
    by_min = result["aggregates"]["noise"]["by"]["min"]
    assert by_min["best_of_n"][8]["low"] > result["best_of_n"]["random"][8]["mean"] and by_min["finding"] == "nothing"
    json.dumps(ev.clean(result), allow_nan=False)


def test_noise_is_hardly_ever_found_to_know_something():
    grid, _, g = planted(1, tasks=60)
    free = ev.choice_curves(grid, ev.free_scores(grid), [8])
    findings = []
    for _ in range(30):
        q_BK, mask_BK = ev.pad_turns([torch.rand(len(e.turns), generator=g) for e in grid.episodes])
        table = q_BK.gather(1, (mask_BK.sum(1) - 1)[:, None])[:, 0]
        findings.append(verdict(grid, q_BK, ev.choice_curves(grid, {"it": table}, [8])["it"], free)["finding"])
    assert (
        findings.count("nothing") >= 29 and "beyond_length" not in findings and "end_only" not in findings
    )  # 99 % intervals, on two sides


def test_what_shows_only_at_the_end_is_said_so():
    grid, _, g = planted(9)
    known = [torch.cat([torch.rand(len(e.turns) - 1, generator=g), torch.tensor([e.outcome])]) for e in grid.episodes]
    found = compare(grid, {"ORM": known})["verdicts"]["ORM"]
    assert found["finding"] == "end_only" and "nothing before it" in found["sentence"]


def test_the_length_regression_never_sees_its_own_half():
    grid, _, _ = planted(3, tasks=20)
    before = ev.length_regression(grid)
    other = ev.SampleGrid(grid.tasks, grid.episodes, grid.outcomes_GN.clone())
    half = grid.second_half_G
    other.outcomes_GN[half] = 1 - other.outcomes_GN[half]
    after = ev.length_regression(other)
    assert int(half.sum()) == 10 and torch.equal(before[half], after[half]) and not torch.equal(before[~half], after[~half])
    shortest = ev.free_scores(grid)["fewest turns"]
    assert ev.free_quality(grid, {"a": before, "b": shortest})["a"]["auc_within_task"] > 0.6  # failures are longer here
    assert ev.SampleGrid(grid.tasks[:4], [], grid.outcomes_GN[:4]).second_half_G.sum() == 2


def test_the_best_aggregate_is_judged_where_it_was_not_chosen():
    grid, _, _ = planted(4, tasks=4)
    half = grid.second_half_G.double()
    curves = {"last": {8: half}, "min": {8: 1 - half}, "mean": {8: torch.full((4,), 0.6, dtype=torch.float64)}}
    found = best_aggregate(grid, curves)
    # each half is won outright by an aggregate that is worth nothing on the other
    assert found["here"] == "mean" and sorted(found["by_half"]) == ["last", "min"] and found["cross_fitted"]["mean"] == 0.0


def test_votes_are_by_what_the_key_says():
    grid = ev.sample_grid(
        [episode("a", 0, [0, 1], True), episode("a", 1, [2, 1], True), episode("a", 2, [3, 4], False), episode("a", 3, [3, 4], False)]
        + [episode("b", s, [s, 1], s > 1) for s in range(4)]
    )
    scores = {"it": grid.table([0.9, 0.2, 0.5, 0.5] * 2)}
    assert ev.majority_curves(grid, scores, [4], "last_action")["it"][4].tolist() == [1.0, 0.5]  # 1.1 against 1.0; all of b say the same
    assert ev.majority_curves(grid, scores, [4], "actions")["it"][4].tolist() == [0.0, 0.0]  # 0.9, 0.2 and 1.0; then 0.9 alone
    result = compare(grid, {}, greedy={"a": episode("a", 9, [1], True, length=4)})
    assert result["tokens_per_task"] == {1: 4.0, 2: 8.0, 4: 16.0} and result["greedy"]["tokens_per_task"] == 4.0
    assert result["greedy"]["mean"] == 1.0 and result["greedy"]["tasks"] == 1


def truth_by_hand():
    """One state with three actions, and an episode that none can say about."""
    episodes = [
        episode("a", 0, [0, 0], True),
        episode("a", 1, [1, 0, 0], False),
        episode("a", 2, [2, 0], False),
        episode("b", 0, [0, 0], True),
        episode("b", 1, [1, 0], False),
        episode("b", 2, [1, 1], False),
    ]
    values = [[0.5, 1.0], [0.25, 0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.0], [math.nan, 0.0]]
    grid = ev.sample_grid(episodes)
    return grid, GroundTruth.of(grid, {e.episode_id: (v, [1.0] * len(v)) for e, v in zip(episodes, values, strict=True)})


def test_figures_against_monte_carlo_values_by_hand():
    grid, truth = truth_by_hand()
    assert truth.fatal_B.tolist() == [-1, 1, 0, -2, 1, -2]  # a success from a state of no success, and a label that is missing
    scores = tensors([[0.9, 0.9], [0.5, 0.1, 0.1], [0.6, 0.3], [0.2, 0.9], [0.7, 0.1], [0.9, 0.1]])
    found = against_truth(truth, scores, margin=0.0)
    # task a: 0.5 > 0.25 right, 0.5 > 0.0 right, 0.25 > 0.0 wrong; task b at turn 1: 0.5 > 0.0 right. The state behind b's action 1 has
    # the actions 0 and 1, both worth 0.
    assert found["siblings"]["mean"] == pytest.approx(3 / 4) and (found["siblings"]["pairs"], found["siblings"]["states"]) == (4, 2)
    assert against_truth(truth, scores, margin=0.3)["siblings"]["pairs"] == 2
    # task a at turn 1: values 0.5 0.25 0 against 0.9 0.5 0.6 is 0.5, turn 2: 1 0 0 against 0.9 0.1 0.3; task b at turn 2 alone has three
    by_turn = {row["turn"]: row for row in found["spearman"]["by_turn"]}
    assert by_turn[1]["tasks"] == 1 and by_turn[1]["spearman"] == pytest.approx(0.5)
    assert by_turn[2]["tasks"] == 2 and by_turn[2]["spearman"] == pytest.approx((math.sqrt(3) / 2 + 1) / 2)
    assert found["spearman"]["turns"] == 12 and found["first_fatal"]["left_out"] > 1


def test_first_fatal_turns_by_thresholds_of_the_other_half():
    grid, truth, g = planted(5)
    labels = {key: (values, [1.0] * len(values)) for key, values in truth.items()}
    found = GroundTruth.of(grid, labels)
    exact = [torch.tensor(truth[e.episode_id]) for e in grid.episodes]
    result = beside_truth(found, {"exact": exact}, {"method": "mc_soft"}, "labels", 0.5)["of"]
    assert result["exact"]["first_fatal"]["f1"] == 1.0 and result["exact"]["first_fatal"]["left_out"] == 0
    assert result["exact"]["spearman"]["within_task_and_turn"]["mean"] == pytest.approx(1.0)
    assert result["turn number"]["first_fatal"]["f1"] < 0.5 and result["turn number"]["siblings"]["mean"] == 0.5
    assert result["turn number"]["spearman"]["within_task_and_turn"]["mean"] == 0.0
    low, high = result["turn number"]["first_fatal"]["low"], result["turn number"]["first_fatal"]["high"]
    assert low <= result["turn number"]["first_fatal"]["f1"] <= high


def test_a_sidecar_of_visits_is_a_truth_and_one_of_another_store_is_not(tmp_path):
    grid, _, _ = planted(6, tasks=10)
    for name, episodes in (("own", grid.episodes), ("other", planted(7, tasks=12)[0].episodes[8:])):
        with EpisodeWriter(tmp_path / name) as writer:
            for one in episodes:
                writer.add(one)
        sidecar = mc_visits.annotate(EpisodeStore(tmp_path / name))
        sidecar.save(tmp_path / f"labels-{name}", {"method": "mc_visits", "dataset": name})
    labels = read_labels(tmp_path / "labels-own")
    assert label_problems(grid, labels, {"method": "mc_visits"}, "x") == []
    (unlike,) = label_problems(grid, labels, {"method": "mc_visits", "step_delimiter": [[7]]}, "x")
    assert "x labels steps that end with 7, but the episodes are read in whole responses" in unlike
    assert label_problems(grid, labels, {"method": "mc_visits", "step_delimiter": [[7]]}, "x", ((7,),)) == []
    same = [torch.tensor(labels[e.episode_id][0]) for e in grid.episodes]
    found = against_truth(GroundTruth.of(grid, labels), same, margin=0.0)
    assert found["siblings"]["mean"] == 1.0 and found["spearman"]["overall"] == pytest.approx(1.0)
    problems = label_problems(grid, read_labels(tmp_path / "labels-other"), {"method": "td_gae", "dataset": "other"}, "x")
    assert "which are no Monte-Carlo estimates" in problems[0] and "it was made of 'other'" in problems[1]


def test_what_cannot_be_told_is_said():
    grid, _, g = planted(8, tasks=3)
    scores = [torch.rand(len(e.turns), generator=g) for e in grid.episodes]
    assert ev.score_problems("it", grid, scores) == [] == ev.grid_problems(grid, "store", None)
    scores[2][1] = math.nan
    scores[5] = torch.full_like(scores[5], math.inf)
    problem = ev.score_problems("it", grid, scores, told=2)[0]
    first = grid.episodes[2]
    assert f"episode {first.episode_id} (task {first.task_id}), turn 2: nan" in problem and f"and {len(scores[5]) - 1} more" in problem
    alone = ev.sample_grid([episode("a", 0, [1], True)])
    assert len(ev.grid_problems(alone, "store", None)) == 2
    solved = ev.sample_grid([episode(t, s, [1], t == "a") for t in "ab" for s in range(3)])
    assert "(1 of 2 are always solved, the rest never)" in ev.grid_problems(solved, "store", None)[0]
    assert "no task with 9 episodes" in ev.grid_problems(ev.sample_grid(grid.episodes, 9), "store", 9)[0]


def test_an_unknown_sidecar_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no finished labels"):
        read_labels(tmp_path)
