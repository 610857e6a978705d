"""Implicit process rewards: numbers by hand, a loop that reads like the equation, what is masked never leaks."""

import math

import pytest
import torch

from openrlhf_agentprm.core.implicit import implicit_loss, implicit_scores, turn_rewards

NAN = math.nan
RATIO = torch.tensor([[NAN, 2.0, -1.0, NAN, 4.0], [1.0, 3.0, NAN, NAN, NAN]])
TURNS = torch.tensor([[-1, 0, 0, -1, 1], [0, 0, -1, -1, -1]])
MASK = torch.tensor([[True, True], [True, False]])


def test_by_hand():
    r = turn_rewards(RATIO, TURNS, MASK, 0.5)
    assert r.tolist() == [[0.5, 2.0], [2.0, 0.0]]
    q, v = implicit_scores(r, MASK, "linear")
    assert q.tolist() == [[0.5, 2.5], [2.0, 0.0]] and v.tolist() == [[0.0, 0.5], [0.0, 0.0]]
    q, v = implicit_scores(r, MASK)
    sigma = [1 / (1 + math.exp(-x)) for x in (0.5, 2.5, 2.0)]
    assert q.flatten().tolist() == pytest.approx([*sigma, 0.0]) and v.flatten().tolist() == pytest.approx([0.5, sigma[0], 0.5, 0.0])
    loss = implicit_loss(r, torch.tensor([1.0, 0.0]), MASK)
    assert float(loss) == pytest.approx((-math.log(sigma[1]) - math.log(1 - sigma[2])) / 2)
    soft = implicit_loss(r, torch.tensor([0.25, 0.0]), MASK, num_episodes=4)
    assert float(soft) == pytest.approx((-0.25 * math.log(sigma[1]) - 0.75 * math.log(1 - sigma[1]) - math.log(1 - sigma[2])) / 4)


def test_against_a_loop_over_tokens():
    g = torch.Generator().manual_seed(0)
    ratio = torch.randn(5, 40, generator=g, dtype=torch.float64)
    mask, turns = torch.zeros(5, 6, dtype=torch.bool), torch.full((5, 40), -1)
    for b in range(5):
        cuts = sorted(torch.randperm(39, generator=g)[: 2 * (b + 1)].tolist())
        for k in range(b + 1):
            turns[b, cuts[2 * k] : cuts[2 * k + 1]] = k
            mask[b, k] = True
    q, v = implicit_scores(turn_rewards(ratio, turns, mask, 0.05), mask, "linear")
    for b in range(5):
        total = 0.0
        for k in range(b + 1):
            assert float(v[b, k]) == pytest.approx(total)
            for i in range(40):
                total += 0.05 * float(ratio[b, i]) if turns[b, i] == k else 0.0
            assert float(q[b, k]) == pytest.approx(total)


def test_every_token_of_an_episode_gets_the_same_gradient_and_no_other_token_any():
    ratio = torch.zeros(2, 5, requires_grad=True)
    implicit_loss(turn_rewards(ratio, TURNS, MASK, 0.5), torch.tensor([1.0, 0.0]), MASK).backward()
    # dL/dS = σ(0) − r = ∓½, over 2 episodes, times β
    torch.testing.assert_close(ratio.grad, torch.tensor([[0.0, -0.125, -0.125, 0.0, -0.125], [0.125, 0.125, 0.0, 0.0, 0.0]]))


def test_what_is_wrong_is_named():
    r = turn_rewards(RATIO, TURNS, MASK, 0.5)
    with pytest.raises(ValueError, match="outcome_B spans"):
        implicit_loss(r, torch.tensor([2.0, 0.0]), MASK)
    with pytest.raises(ValueError, match="output is 'softmax'"):
        implicit_scores(r, MASK, "softmax")
    with pytest.raises(ValueError, match="turn_ids_BT has shape"):
        turn_rewards(RATIO, TURNS[:, :3], MASK, 0.5)
