"""Figures of merit against direct counting."""

import itertools
import math

import pytest
import torch

from openrlhf_agentprm.core import metrics


def test_auc_counts_pairs():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randint(0, 6, (60,), generator=g).float(), torch.rand(60, generator=g) < 0.4
    pairs = [(p, n) for p in scores[labels].tolist() for n in scores[~labels].tolist()]
    assert metrics.auc(scores, labels) == pytest.approx(sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs))
    assert math.isnan(metrics.auc(scores[labels], labels[labels]))


def test_auc_within_groups_ignores_what_tasks_differ_by():
    scores = torch.tensor([0.9, 0.8, 0.2, 0.1])
    labels = torch.tensor([True, False, True, False])
    assert metrics.auc(scores, labels) == 0.75
    assert metrics.auc_within(scores, labels, ["easy", "easy", "hard", "hard"]) == (1.0, 2)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.25, 2.0])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_subsets_with_ties_shared(n, margin):
    scores = torch.tensor([[0.3, 0.3, 0.9, 0.1, 0.3], [0.5, 0.45, 0.9, 0.85, 0.41]])
    outcomes = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0]])
    found = metrics.best_of_n(scores, outcomes, n, margin=margin)
    for row in range(2):
        total = []
        for subset in itertools.combinations(range(5), n):
            top = max(float(scores[row, i]) for i in subset)
            best = [float(outcomes[row, i]) for i in subset if float(scores[row, i]) >= top - margin]
            total.append(sum(best) / len(best))
        assert float(found[row]) == pytest.approx(sum(total) / len(total), abs=1e-9)
    if n == 1 or margin == 2.0:
        assert found.tolist() == pytest.approx([0.6, 0.6])


def test_best_of_n_without_ties_is_exact():
    scores, outcomes = torch.tensor([[0.3, 0.5, 0.9, 0.1]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    for n in (1, 2, 3, 4):
        direct = [float(outcomes[0, max(s, key=lambda i: float(scores[0, i]))]) for s in itertools.combinations(range(4), n)]
        assert float(metrics.best_of_n(scores, outcomes, n)) == pytest.approx(sum(direct) / len(direct))
        at_least_one = [float(outcomes[0, list(s)].max()) for s in itertools.combinations(range(4), n)]
        assert float(metrics.pass_at_n(outcomes, n)) == pytest.approx(sum(at_least_one) / len(at_least_one))


def test_best_of_n_of_a_hundred_samples():
    """C(99, 31) is beyond 64 bits. Without ties the j-th best is chosen in C(99 − j, 31) of C(100, 32) draws."""
    g = torch.Generator().manual_seed(4)
    scores, outcomes = torch.randperm(100, generator=g)[None].float(), torch.rand(1, 100, generator=g)
    log_choose = lambda a, b: math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)  # noqa: E731
    best_first = outcomes[0, scores[0].argsort(descending=True)].tolist()
    wanted = sum(y * math.exp(log_choose(99 - j, 31) - log_choose(100, 32)) for j, y in enumerate(best_first[:69]))
    assert float(metrics.best_of_n(scores, outcomes, 32)) == pytest.approx(wanted, rel=1e-9)
    assert float(metrics.best_of_n(torch.zeros(1, 100), outcomes, 32)) == pytest.approx(float(outcomes.mean()), rel=1e-6)


def test_the_oracle_of_graded_outcomes_takes_the_highest():
    found = metrics.pass_at_n(torch.tensor([[0.5, 0.25, 1.0]]), 2)  # of two: 0.5, 1, 1
    assert found.tolist() == pytest.approx([2.5 / 3])


def test_calibration_and_intervals():
    scores = torch.tensor([0.05, 0.05, 0.95, 0.95])
    error, rows = metrics.calibration(scores, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    assert error == pytest.approx(0.5 * 0.05 + 0.5 * 0.45) and [r[2] for r in rows] == [2, 2]
    low, high = metrics.bootstrap_interval(torch.tensor([0.0, 1.0] * 200))
    assert low < 0.5 < high and high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.2)
    assert metrics.pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])) == pytest.approx(1.0)


def test_aggregates_by_hand():
    nan = math.nan
    q = torch.tensor([[0.5, 0.8, 0.4], [nan, 0.9, -0.5], [nan, nan, nan]])
    mask = torch.tensor([[True, True, True], [False, True, True], [False] * 3])
    wanted = {
        "last": ([0.5, 0.8, 0.4], [0.9, -0.5]),
        "min": ([0.5, 0.5, 0.4], [0.9, -0.5]),
        "mean": ([0.5, 0.65, 1.7 / 3], [0.9, 0.2]),
        "product": ([0.5, 0.4, 0.16], [0.9, 0.0]),  # a score below 0 is no probability
        "sum": ([0.5, 1.3, 1.7], [0.9, 0.4]),
    }
    assert tuple(wanted) == metrics.AGGREGATES
    for how, (first, second) in wanted.items():
        running = metrics.running_aggregate(q, mask, how)
        assert running[0].tolist() == pytest.approx(first) and running[1, 1:].tolist() == pytest.approx(second)
        assert math.isnan(running[1, 0]) and running[2].isnan().all()
        assert metrics.aggregate_turns(q, mask, how)[:2].tolist() == pytest.approx([first[-1], second[-1]])
    hole = torch.tensor([[True, False, True, False]])
    assert metrics.running_aggregate(torch.tensor([[0.3, nan, 0.7, nan]]), hole, "last").tolist()[0] == pytest.approx([0.3, 0.3, 0.7, 0.7])
    with pytest.raises(ValueError, match="wanted one of last, min"):
        metrics.aggregate_turns(q, mask, "median")


def test_pair_wins_are_the_auc_of_each_group():
    g = torch.Generator().manual_seed(4)
    scores, labels = torch.randint(0, 4, (6, 8), generator=g).float(), torch.rand(6, 8, generator=g) < 0.5
    mask = torch.rand(6, 8, generator=g) < 0.8
    scores[~mask] = math.nan
    wins, pairs = metrics.pair_wins(scores, labels, mask)
    for row in range(6):
        assert float(wins[row] / pairs[row]) == pytest.approx(metrics.auc(scores[row][mask[row]], labels[row][mask[row]]), nan_ok=True)
    lengths = torch.randint(1, 4, (6, 8), generator=g)
    wins, pairs = metrics.pair_wins(scores, labels, mask, lengths)
    for row in range(6):
        alike = [
            (i, j)
            for i, j in itertools.permutations(mask[row].nonzero().flatten().tolist(), 2)
            if labels[row, i] and not labels[row, j] and lengths[row, i] == lengths[row, j]
        ]
        assert float(pairs[row]) == len(alike)
        assert float(wins[row]) == sum(
            float((scores[row, i] > scores[row, j]) + 0.5 * (scores[row, i] == scores[row, j])) for i, j in alike
        )


def test_weighted_majority_by_hand():
    scores = torch.tensor([[0.9, 0.5, 0.6, 0.0]])
    keys, outcomes = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    # of all four: key 1 has 1.1 votes against 0.9 and is worth 1/2
    assert metrics.weighted_majority(scores, keys, outcomes, 4).tolist() == [0.5]
    # of two: {0,1} 0, {0,2} 0, {0,3} 0, {1,2} 1/2, {1,3} 1, {2,3} 0
    assert metrics.weighted_majority(scores, keys, outcomes, 2).tolist() == [0.25]
    # without weights keys 0 and 1 tie in {0,1} and {0,2}, and so on: (1/2 + 0 + 1/2 + 1/2 + 1 + 1/2) / 6
    assert metrics.weighted_majority(torch.ones(1, 4), keys, outcomes, 2).tolist() == [0.5]
    # few votes are votes: 3 to 1
    assert metrics.weighted_majority(torch.tensor([[3e-12, 1e-12]]), torch.tensor([[0, 1]]), torch.tensor([[0.0, 1.0]]), 2).tolist() == [
        0.0
    ]
    # no votes at all: every key that was given shares
    assert metrics.weighted_majority(-torch.ones(1, 4), keys, outcomes, 4).tolist() == pytest.approx([(0 + 0.5 + 1) / 3])


def test_weighted_majority_over_subsets_is_the_loops():
    g = torch.Generator().manual_seed(5)
    scores, keys = torch.rand(3, 7, generator=g), torch.randint(0, 3, (3, 7), generator=g)
    outcomes = (torch.rand(3, 7, generator=g) < 0.5).float()
    for n in (1, 3, 7):
        found = metrics.weighted_majority(scores, keys, outcomes, n)
        for row in range(3):
            worth = []
            for subset in itertools.combinations(range(7), n):
                votes = {int(k): sum(float(scores[row, i]) for i in subset if keys[row, i] == k) for k in keys[row, list(subset)]}
                winner = max(votes, key=votes.get)
                answers = [float(outcomes[row, i]) for i in subset if keys[row, i] == winner]
                worth.append(sum(answers) / len(answers))
            assert float(found[row]) == pytest.approx(sum(worth) / len(worth))
    exact, drawn = (metrics.weighted_majority(scores, keys, outcomes, 3, subsets=s) for s in (35, 34))
    assert (exact - drawn).abs().max() < 0.15 and not torch.equal(exact, drawn)
    assert torch.equal(drawn, metrics.weighted_majority(scores, keys, outcomes, 3, subsets=34))
    assert torch.equal(metrics.weighted_majority(scores, keys, outcomes, 1), metrics.best_of_n(scores, outcomes, 1))


def test_intervals_of_ratios_leave_out_empty_resamples():
    counts = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    found = metrics.bootstrap_interval(counts, statistic=lambda sums: sums[:, 0] / sums[:, 1])
    assert found == (1.0, 1.0)
    empty = metrics.bootstrap_interval(torch.zeros(2, 2), statistic=lambda sums: sums[:, 0] / sums[:, 1])
    assert all(map(math.isnan, empty))


def test_the_bootstrap_resamples_groups():
    values = torch.tensor([0.0, 0.2, 0.9, 0.4, 0.7])
    g = torch.Generator().manual_seed(3)
    means = sorted(sum(float(values[i]) for i in row) / 5 for row in torch.randint(5, (400, 5), generator=g).tolist())
    low, high = metrics.bootstrap_interval(values, resamples=400, seed=3)
    assert means[9] - 1e-6 <= low <= means[10] + 1e-6 and means[389] - 1e-6 <= high <= means[390] + 1e-6
