"""Losses that order scores, and contributions that sum: numbers by hand, the equation in a loop, NaN at masked places, counts over parts."""

import math

import pytest
import torch

from openrlhf_agentprm.core.ensembles import combined
from openrlhf_agentprm.core.labels import progress_targets
from openrlhf_agentprm.core.losses import contribution_loss
from openrlhf_agentprm.core.ranking import pqm_loss, preference_loss

NAN = math.nan


def pqm_by_the_equation(q, right, mask, zeta):
    """arXiv 2410.11287, Eq 10, one episode after the other; None: no term."""
    means = []
    for q_K, right_K, mask_K in zip(q.tolist(), right.tolist(), mask.tolist(), strict=True):
        turns = [(x, good) for x, good, there in zip(q_K, right_K, mask_K, strict=True) if there]
        chain, wrong = [0.0] + [x for x, good in turns if good], [x for x, good in turns if not good]
        terms = []
        for t, x in enumerate(chain):
            below = sum(math.exp(y) for y in chain[: t + 1]) + sum(math.exp(w + zeta) for w in wrong)
            if t or wrong:
                terms.append(-math.log(math.exp(x) / below))
        if terms:
            means.append(sum(terms) / len(terms))
    return sum(means) / len(means)


def test_pqm_golden_numbers():
    """One right turn at log 3 and a wrong one at −log 2, ζ = log 4: the wrong one weighs ½ · 4 = 2. Start: 1 / (1 + 2); right turn:
    3 / (1 + 3 + 2). Without the wrong one: 3 / 4 alone, and the start is no term."""
    q = torch.tensor([[math.log(3.0), -math.log(2.0)]])
    both, right = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    expected = -(math.log(1 / 3) + math.log(1 / 2)) / 2
    assert float(pqm_loss(q, right, both, zeta=math.log(4.0))) == pytest.approx(expected)
    assert float(pqm_loss(q, right, torch.tensor([[True, False]]), zeta=math.log(4.0))) == pytest.approx(-math.log(3 / 4))
    only_wrong = torch.tensor([[False, True]])
    assert float(pqm_loss(q, right, only_wrong, zeta=math.log(4.0))) == pytest.approx(-math.log(1 / 3)), "the start above the wrong turn"


@pytest.mark.parametrize("zeta", [0.0, 4.0])
def test_pqm_equals_its_equation_and_reads_no_masked_place(zeta):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(7, 6, generator=g, dtype=torch.float64)
    right, mask = torch.rand(7, 6, generator=g) < 0.5, torch.rand(7, 6, generator=g) < 0.7
    mask[0], right[1], right[2] = False, True, False
    garbage = torch.where(mask, q, NAN).requires_grad_()
    loss = pqm_loss(garbage, right, mask, zeta=zeta)
    assert float(loss.detach()) == pytest.approx(pqm_by_the_equation(q, right, mask, zeta))
    loss.backward()
    assert garbage.grad.isfinite().all() and not garbage.grad[~mask].any()
    step = 1e-6
    for at in [(1, int(mask[1].nonzero()[0])), (2, int(mask[2].nonzero()[0]))]:
        moved = q.clone()
        moved[at] += step
        slope = (pqm_by_the_equation(moved, right, mask, zeta) - float(loss.detach())) / step
        assert float(garbage.grad[at]) == pytest.approx(slope, abs=1e-5)


def test_pqm_puts_right_turns_in_order_and_wrong_ones_below():
    """Following the gradient from equal scores: the right turns ascend, the wrong ones end at least ζ below the start's 0."""
    q = torch.zeros(1, 4, requires_grad=True)
    right = torch.tensor([[True, True, False, False]])
    for _ in range(4000):
        (grad,) = torch.autograd.grad(pqm_loss(q, right, torch.ones(1, 4, dtype=torch.bool), zeta=2.0), q)
        q = (q - 0.5 * grad).detach().requires_grad_()
    first, second, *wrong = q[0].tolist()
    assert second > first > 0 and max(wrong) < -2


def test_pqm_counts_over_parts_and_bad_arguments():
    g = torch.Generator().manual_seed(1)
    q, right = torch.randn(6, 5, generator=g), torch.rand(6, 5, generator=g) < 0.5
    mask = torch.arange(5) < torch.tensor([[5], [0], [3], [2], [5], [4]])
    parts = sum(pqm_loss(q[i : i + 2], right[i : i + 2], mask[i : i + 2], num_episodes=torch.tensor(5.0)) for i in (0, 2, 4))
    torch.testing.assert_close(parts, pqm_loss(q, right, mask))
    assert float(pqm_loss(q, right, torch.zeros_like(mask))) == 0.0
    with pytest.raises(ValueError, match="right_BK is torch.float32; wanted torch.bool"):
        pqm_loss(q, right.float(), mask)
    with pytest.raises(ValueError, match=r"right_BK has shape \(6, 4\)"):
        pqm_loss(q, right[:, :4], mask)


def test_preference_golden_numbers_weights_and_margins():
    """σ(log 3) = 3/4, σ(0) = 1/2. A margin of log 3 in the first pair's unit takes its distance away: 1/2."""
    chosen, rejected = torch.tensor([math.log(3.0), 1.0, NAN]), torch.tensor([0.0, 1.0, NAN])
    weights = torch.tensor([3.0, 1.0, 0.0])
    loss = preference_loss(chosen, rejected, weights_P=weights)
    assert float(loss) == pytest.approx((3 * -math.log(3 / 4) + math.log(2)) / 4)
    margins = torch.tensor([math.log(3.0) / 2, 0.0, 1.0])
    assert float(preference_loss(chosen, rejected, weights_P=weights, margins_P=margins, margin_coef=2.0)) == pytest.approx(math.log(2))
    leaf = chosen.clone().requires_grad_()
    preference_loss(leaf, rejected, weights_P=weights).backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([-(1 / 4) * 3 / 4, -(1 / 2) / 4, 0.0]))
    parts = sum(preference_loss(chosen[k : k + 1], rejected[k : k + 1], weights_P=weights[k : k + 1], total_weight=4.0) for k in range(3))
    torch.testing.assert_close(parts, loss)
    assert float(preference_loss(chosen[:0], rejected[:0])) == 0.0
    with pytest.raises(ValueError, match="margins_P is None"):
        preference_loss(chosen, rejected, margin_coef=1.0)
    with pytest.raises(ValueError, match=r"rejected_P \(2,\); wanted"):
        preference_loss(chosen, rejected[:2])


def test_contributions_golden_numbers():
    """Sums 0.5 and −0.2 against 1 and 0: ((−0.5)² + 0.2²) / 2; every turn of an episode gets the same gradient, 2 (Σ − R) / episodes."""
    c = torch.tensor([[0.2, 0.3, NAN], [-0.2, NAN, NAN], [NAN, NAN, NAN]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    outcome = torch.tensor([1.0, 0.0, 1.0])
    loss = contribution_loss(c, outcome, mask)
    torch.testing.assert_close(loss.detach(), torch.tensor((0.25 + 0.04) / 2))
    loss.backward()
    torch.testing.assert_close(c.grad, torch.tensor([[-0.5, -0.5, 0.0], [-0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    parts = sum(contribution_loss(c[k : k + 1], outcome[k : k + 1], mask[k : k + 1], num_episodes=2) for k in range(3))
    torch.testing.assert_close(parts, loss)


def test_progress_targets_golden_numbers():
    targets = torch.tensor([[0.5, NAN, 0.7, 0.6, NAN], [0.9, 0.4, 0.4, NAN, NAN]])
    v = torch.tensor([[0.2, NAN, 0.1, 0.3, NAN], [0.5, 0.5, 0.5, 0.5, NAN]])
    mask = torch.tensor([[True, False, True, True, False], [True, True, True, True, False]])
    found = progress_targets(targets, v, mask, values="previous_q")
    expected = torch.tensor([[0.3, NAN, 0.2, -0.1, NAN], [0.4, -0.5, 0.0, NAN, NAN]])  # the masked turn is skipped; no label, no progress
    torch.testing.assert_close(found, expected, equal_nan=True)
    at_states = progress_targets(targets, v, mask, values="state")
    torch.testing.assert_close(at_states, torch.tensor([[0.3, NAN, 0.6, 0.3, NAN], [0.4, -0.1, -0.1, NAN, NAN]]), equal_nan=True)
    with pytest.raises(ValueError, match="values is 'before'"):
        progress_targets(targets, v, mask, values="before")


def test_combined_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="combine is 'max'; wanted mean, min, lcb"):
        combined(torch.zeros(2, 1), "max")
