"""Rank correlation, first fatal turns and sibling actions, by hand and against loops that read like their definitions."""

import itertools
import math

import pytest
import torch

from openrlhf_agentprm.core import process_metrics as pm
from openrlhf_agentprm.core.logistic import fit_logistic, with_one

NAN = math.nan


def loop_spearman(x, y):
    def ranks(values):
        return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]

    a, b = ranks(x), ranks(y)
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    top = sum((p - ma) * (q - mb) for p, q in zip(a, b, strict=True))
    return top / math.sqrt(sum((p - ma) ** 2 for p in a) * sum((q - mb) ** 2 for q in b))


def test_spearman_by_hand():
    # ranks 1 2 3 4 against 1 2 4 3: 1 − 6·2 / (4·15) = 0.8, whatever the values are
    assert pm.spearman(torch.tensor([0.1, 0.2, 5.0, 9.0]), torch.tensor([0.0, 0.3, 0.9, 0.8])) == pytest.approx(0.8)
    assert pm.average_ranks(torch.tensor([3.0, 1.0, 3.0, 3.0])).tolist() == [3.0, 1.0, 3.0, 3.0]
    assert math.isnan(pm.spearman(torch.ones(3), torch.tensor([0.0, 1.0, 2.0]))) and math.isnan(pm.spearman(torch.ones(1), torch.ones(1)))


def test_spearman_with_ties_is_the_loops():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 7, (40,), generator=g).double(), torch.randint(0, 4, (40,), generator=g).double()
    assert pm.spearman(x, y) == pytest.approx(loop_spearman(x.tolist(), y.tolist()))


def test_rows_leave_out_what_is_masked_and_what_cannot_vary():
    g = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 5, (6, 9), generator=g).double(), torch.randint(0, 3, (6, 9), generator=g).double()
    mask = torch.rand(6, 9, generator=g) < 0.7
    x[~mask], y[~mask] = NAN, NAN
    x[4][mask[4]] = 0.5  # knows nothing
    y[5][mask[5]] = 0.0  # nothing to know
    found = pm.spearman_rows(x, y, mask)
    for row in range(4):
        assert float(found[row]) == pytest.approx(loop_spearman(x[row][mask[row]].tolist(), y[row][mask[row]].tolist()))
    assert float(found[4]) == 0.0 and math.isnan(float(found[5]))
    two = torch.tensor([[True, True, False]])
    assert pm.spearman_rows(torch.rand(1, 3), torch.rand(1, 3), two).isnan().all()
    assert not pm.spearman_rows(torch.rand(1, 3), torch.rand(1, 3), two, least=2).isnan().any()


def test_sibling_pairs_are_counted_as_in_a_loop():
    g = torch.Generator().manual_seed(2)
    q, v = torch.randint(0, 5, (7, 5), generator=g).double(), torch.randint(0, 5, (7, 5), generator=g).double() / 4
    mask = torch.rand(7, 5, generator=g) < 0.8
    q[~mask], v[~mask] = NAN, NAN
    for margin in (0.0, 0.25, 0.6):
        wins, pairs = pm.sibling_wins(q, v, mask, margin=margin)
        for row in range(7):
            there = mask[row].nonzero().flatten().tolist()
            better = [(a, b) for a, b in itertools.permutations(there, 2) if v[row, a] - v[row, b] > margin]
            assert float(pairs[row]) == len(better)
            assert float(wins[row]) == sum((q[row, a] > q[row, b]) + 0.5 * (q[row, a] == q[row, b]) for a, b in better)


def test_first_fatal_turn_by_hand():
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.8, 0.7, 0.3], [0.9, 0.8, 0.9], [0.6, 0.9, NAN]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True] * 3, [True, True, False]])
    fatal = torch.tensor([1, 1, -1, -1])
    assert pm.first_fatal(scores, mask, 0.5).tolist() == [1, 2, -1, -1]
    right, counts = pm.first_fatal_correct(scores, mask, fatal, 0.5)
    assert right.tolist() == [True, False, True, True]
    assert counts == pm.FirstFatal(failed=2, failed_right=1, sound=2, sound_right=2) and counts.f1 == pytest.approx(2 / 3)  # of 1/2 and 1
    # 0.7 < τ ≤ 0.8 finds both fatal turns but takes the fourth episode's 0.6 for one: again 2/3, and no τ does better
    assert pm.first_fatal_correct(scores, mask, fatal, 0.75)[1].f1 == pytest.approx(2 / 3)
    # one threshold an episode
    assert pm.first_fatal(scores, mask, torch.tensor([0.15, 0.75, 1.0, 0.5])).tolist() == [2, 1, 0, -1]
    assert math.isnan(pm.FirstFatal(0, 0, 3, 3).f1) and pm.FirstFatal(2, 0, 3, 0).f1 == 0.0


def test_the_best_threshold_is_best_of_all():
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        scores = torch.randint(0, 9, (30, 6), generator=g).double() / 8
        mask = torch.arange(6) < torch.randint(1, 7, (30, 1), generator=g)
        scores[~mask] = NAN
        fatal = torch.where(torch.rand(30, generator=g) < 0.5, (torch.rand(30, generator=g) * mask.sum(1)).long(), -1)
        found = pm.first_fatal_correct(scores, mask, fatal, pm.best_threshold(scores, mask, fatal))[1].f1
        tried = [pm.first_fatal_correct(scores, mask, fatal, t / 16)[1].f1 for t in range(-1, 19)]  # between all scores, and at them
        assert found == pytest.approx(max(tried))
    assert math.isnan(pm.best_threshold(scores, mask, torch.full((30,), -1)))


def test_logistic_regression_meets_its_condition():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(400, 2, generator=g, dtype=torch.float64)
    y = (torch.rand(400, generator=g) < (1.5 * x[:, 0] - 0.7).sigmoid()).double()
    w = fit_logistic(x, y, ridge=0.01)
    residual = (with_one(x) @ w).sigmoid() - y
    assert (with_one(x).T @ residual + 0.01 * w).abs().max() < 1e-8  # the slope is zero there
    assert w.tolist() == pytest.approx([1.5, 0.0, -0.7], abs=0.3)
    alike = fit_logistic(x, torch.ones(400, dtype=torch.float64))
    assert alike.isfinite().all() and float(alike[2]) > 3 and alike[:2].abs().max() < 0.1
