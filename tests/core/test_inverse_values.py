"""InversePRM's losses: numbers by hand, a loop that reads like the equation, what is masked never leaks."""

import math

import pytest
import torch

from openrlhf_agentprm.core.inverse import inverse_logits, inverse_loss, matched_loss, sampled_value_loss

NAN = math.nan
Q = torch.tensor([[3.0, 2.0, -1.0], [1.0, 0.5, NAN], [4.0, NAN, NAN]])
NEXT = torch.tensor([[1.5, -2.0, NAN], [0.25, 7.0, NAN], [9.0, NAN, NAN]])
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
Z = [[3.0 - 0.75, 2.0 + 1.0, -1.0], [1.0 - 0.125, 0.5, 0.0], [4.0, 0.0, 0.0]]
EXPERT = torch.tensor([True, False, False])


def test_by_hand():
    z = inverse_logits(Q, NEXT, MASK, 0.5)
    assert z.tolist() == Z
    loss = inverse_loss(z, EXPERT, MASK)
    experts = sum(math.log(1 + math.exp(-x)) for x in (2.25, 3.0, -1.0)) / 3
    policies = sum(math.log(1 + math.exp(x)) for x in (0.875, 0.5, 4.0)) / 3
    assert float(loss) == pytest.approx((experts + policies) / 2)
    parts = [
        inverse_loss(z[i : i + 1], EXPERT[i : i + 1], MASK[i : i + 1], num_expert=torch.tensor(3), num_policy=torch.tensor(3))
        for i in range(3)
    ]
    assert float(sum(parts)) == pytest.approx(float(loss)), "micro-batches with common counts sum to the whole"
    v = torch.tensor([[1.0, 0.0, NAN], [2.0, NAN, NAN], [NAN] * 3], requires_grad=True)
    sampled = torch.tensor([[0.0, 3.0, NAN], [2.0, NAN, NAN], [NAN] * 3])
    states = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    value = sampled_value_loss(v, sampled, states)
    value.backward()
    assert float(value.detach()) == pytest.approx((1 + 9 + 0) / 6) and v.grad[0, :2].tolist() == pytest.approx([1 / 3, -1.0])


def test_gradient_goes_through_both_terms_and_stops_where_told():
    q, following = Q.clone().requires_grad_(), NEXT.clone().requires_grad_()
    inverse_loss(inverse_logits(q, following, MASK, 0.5), EXPERT, MASK).backward()
    for b in range(3):
        for k in range(3):
            if not MASK[b, k]:
                assert q.grad[b, k] == 0
                continue
            sigma = 1 / (1 + math.exp(-Z[b][k]))
            slope = 0.5 * (sigma - 1) / 3 if EXPERT[b] else 0.5 * sigma / 3
            assert float(q.grad[b, k]) == pytest.approx(slope, abs=1e-6)
            last = k == 2 or not MASK[b, k + 1]
            assert float(following.grad[b, k]) == pytest.approx(0.0 if last else -0.5 * slope, abs=1e-6)
    q = Q.clone().requires_grad_()
    inverse_loss(inverse_logits(q, NEXT.detach(), MASK, 0.5), EXPERT, MASK).backward()
    assert q.grad[MASK].abs().min() > 0


def test_an_experts_action_against_a_sampled_one_by_hand():
    q, sampled = Q[:2].clone().requires_grad_(), torch.tensor([[1.0, 2.0, NAN], [NAN, 3.5, NAN]])
    states = torch.tensor([[True, True, False], [False, True, False]])
    loss = matched_loss(q, sampled, states)
    assert float(loss.detach()) == pytest.approx(sum(math.log(1 + math.exp(-x)) for x in (2.0, 0.0, -3.0)) / 3)
    loss.backward()
    assert q.grad[0].tolist() == pytest.approx([-(1 - 1 / (1 + math.exp(-2))) / 3, -0.5 / 3, 0.0]) and q.grad[1, 0] == 0
    parts = [matched_loss(Q[i : i + 1], sampled[i : i + 1], states[i : i + 1], num_states=torch.tensor(3)) for i in range(2)]
    assert float(sum(parts)) == pytest.approx(float(loss.detach())) and float(matched_loss(Q[:1], sampled[:1], ~MASK[:1])) == 0


def test_at_its_optimum_the_difference_of_two_actions_is_that_of_log_ratios():
    """Of three actions with known probabilities; the expected loss over a ~ π_E, a' ~ π."""
    expert, policy = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    q = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([q], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)
    a, b = torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")
    weights = (expert[:, None] * policy[None]).flatten()

    def closure():
        optimizer.zero_grad()
        one = torch.ones(1, 1, dtype=torch.bool)
        pairs = [matched_loss(q[i].reshape(1, 1), q[j].reshape(1, 1), one) for i, j in zip(a.flatten(), b.flatten(), strict=True)]
        loss = (weights * torch.stack(pairs)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    wanted = (expert / policy).log()
    torch.testing.assert_close(q.detach() - q.detach().mean(), wanted - wanted.mean(), atol=1e-5, rtol=0)


def test_one_side_alone_and_wrong_arguments():
    z = inverse_logits(Q, NEXT, MASK, 1.0)
    alone = inverse_loss(z[:1], EXPERT[:1], MASK[:1])
    assert float(alone) == pytest.approx(sum(math.log(1 + math.exp(-x)) for x in z[0].tolist()) / 6)
    with pytest.raises(ValueError, match="gamma is 1.5"):
        inverse_logits(Q, NEXT, MASK, 1.5)
