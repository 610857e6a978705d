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


def test_calibration_and_intervals():
    scores = torch.tensor([0.05, 0.05, 0.95, 0.95])
    error, rows = metrics.calibration(scores, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    assert error == pytest.approx(0.5 * 0.05 + 0.5 * 0.45) and [r[2] for r in rows] == [2, 2]
    low, high = metrics.bootstrap_interval(torch.tensor([0.0, 1.0] * 200))
    assert low < 0.5 < high and high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.2)
    assert metrics.pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])) == pytest.approx(1.0)
