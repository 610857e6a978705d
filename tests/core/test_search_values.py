"""PAV's effective reward and the selection rules, by numbers worked by hand."""

import math

import pytest
import torch

from openrlhf_agentprm.core.search_values import best_of_k, effective_reward, leaf_value, puct, uct


def test_best_of_k_is_the_chance_that_one_of_k_tries_succeeds():
    # 1 − (1 − 0.2)^4 = 1 − 0.4096;  1 − 0.5^4 = 1 − 0.0625
    torch.testing.assert_close(best_of_k(torch.tensor([0.2, 0.5]), 4), torch.tensor([0.5904, 0.9375]))
    tries = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(0)) < 0.2
    assert abs(float(tries.any(1).float().mean()) - 0.5904) < 0.005
    torch.testing.assert_close(best_of_k(torch.tensor([0.3]), 1), torch.tensor([0.3]))
    assert best_of_k(torch.tensor([-0.5, 1.5]), 3).tolist() == [0.0, 1.0]  # what a linear head may give


def test_the_effective_reward_prefers_what_helps_the_prover():
    q, v = torch.tensor([0.5, 0.4]), torch.tensor([0.5, 0.2])
    # K = 2: Q^BoK = 0.75, 0.64;  V^BoK = 0.75, 0.36;  A = 0, 0.28;  Q + 0.5 A = 0.5, 0.54
    scores = effective_reward(q, best_of_k(q, 2), best_of_k(v, 2), 0.5)
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.54]))
    torch.testing.assert_close(effective_reward(q, best_of_k(q, 2), best_of_k(v, 2), 0.0), q)


def test_selection_rules():
    # 0.5 + 2 √(ln 8 / 2) = 0.5 + 2 · √1.0397208 ;  0.3 + 1.5 · 0.5 · √9 / (1 + 2) = 0.3 + 0.75
    assert uct(0.5, 2, 8, 2.0) == pytest.approx(0.5 + 2 * 1.0397208**0.5, abs=1e-6)
    assert uct(0.5, 0, 8, 2.0) == math.inf
    assert puct(0.3, 2, 9, 1.5, 0.5) == pytest.approx(1.05)
    assert puct(0.3, 0, 0, 1.5, 0.5) == 0.3  # before any visit the prior says nothing


def test_rollouts_are_mixed_in_by_their_weight():
    assert leaf_value(0.4, 1.0, 0.25) == pytest.approx(0.55)
    assert leaf_value(0.4, 1.0, 0.0) == 0.4 and leaf_value(0.4, 1.0, 1.0) == 1.0
    assert leaf_value(0.4, math.nan, 0.9) == 0.4
