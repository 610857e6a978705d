"""GAE over turns and tokens: golden numbers, a loop that reads like the equation, and what must change nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_agentprm.core.advantages import previous_values, progress, spread_turns, token_gae, turn_gae


def loop_gae(rewards, values, mask, gamma, lambd, bootstrap=0.0):
    """δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γλ A_{t+1}, over valid places of one row."""
    places = [t for t in range(len(mask)) if mask[t]]
    advantages = [0.0] * len(mask)
    next_value, next_advantage = bootstrap, 0.0
    for t in reversed(places):
        delta = rewards[t] + gamma * next_value - values[t]
        next_advantage = delta + gamma * lambd * next_advantage
        next_value = values[t]
        advantages[t] = next_advantage
    return advantages


def random_batch(seed, rows, width, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(rows, width, generator=g, dtype=dtype) for _ in range(2))
    return rewards, values, torch.rand(rows, width, generator=g) < 0.6, torch.randn(rows, generator=g, dtype=dtype)


def test_golden_numbers():
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = turn_gae(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.4, 0.8]]), mask, gamma=0.5, lambd=0.5)
    # δ = 0.5·0.4 − 0.5, 0.5·0.8 − 0.4, 1 − 0.8 = −0.3, 0, 0.2; A = δ + 0.25 A'
    torch.testing.assert_close(advantages, torch.tensor([[-0.2875, 0.05, 0.2]]))
    torch.testing.assert_close(returns, torch.tensor([[0.2125, 0.45, 1.0]]))


def test_mends_the_hosts_decay_through_observations():
    mask = torch.tensor([[True] * 3 + [False] * 20 + [True] * 3])
    values = torch.full((1, 26), 0.8, dtype=torch.float64)
    rewards = torch.zeros(1, 26, dtype=torch.float64)
    rewards[0, -1] = 1.0
    advantages, _ = token_gae(rewards, values, mask, gamma=1.0, lambd=0.95)
    expected = [0.2 * 0.95**k for k in (5, 4, 3)]
    torch.testing.assert_close(advantages[0, :3], torch.tensor(expected, dtype=torch.float64))
    assert [round(float(a), 3) for a in advantages[0, :3]] == [0.155, 0.163, 0.171]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.sampled_from([1, 2, 7, 64, 300]),
    gamma=st.sampled_from([0.0, 0.3, 0.99, 1.0]),
    lambd=st.sampled_from([0.0, 0.95, 1.0]),
)
@pytest.mark.parametrize("estimator", [turn_gae, token_gae])
def test_equals_the_loop(estimator, seed, width, gamma, lambd):
    rewards, values, mask, bootstrap = random_batch(seed, 3, width)
    advantages, returns = estimator(rewards, values, mask, gamma=gamma, lambd=lambd, bootstrap_value_B=bootstrap)
    for b in range(3):
        expected = loop_gae(rewards[b].tolist(), values[b].tolist(), mask[b].tolist(), gamma, lambd, float(bootstrap[b]))
        torch.testing.assert_close(advantages[b], torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(returns, torch.where(mask, advantages + values, 0.0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("decay", [1.0, 0.9999, 0.95, 0.5, 1e-3, 0.0])
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_long_rows_stay_exact(decay, dtype, atol):
    rewards, values, mask, _ = random_batch(1, 2, 32_768)
    advantages, _ = token_gae(rewards.to(dtype), values.to(dtype), mask, gamma=1.0, lambd=decay)
    assert advantages.isfinite().all()
    expected = torch.tensor(loop_gae(rewards[0].tolist(), values[0].tolist(), mask[0].tolist(), 1.0, decay))
    torch.testing.assert_close(advantages[0].double(), expected.double(), atol=atol, rtol=1e-5)


def test_lambda_one_is_return_minus_value():
    rewards, values, mask, _ = random_batch(2, 4, 50)
    advantages, _ = turn_gae(rewards, values, mask, gamma=1.0, lambd=1.0)
    kept = torch.where(mask, rewards, 0.0)
    returns = kept.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages, torch.where(mask, returns - values, 0.0))


def test_lambda_zero_is_one_step_td():
    rewards, values = torch.randn(2, 5), torch.randn(2, 5)
    advantages, _ = turn_gae(rewards, values, torch.ones(2, 5, dtype=torch.bool), gamma=0.9, lambd=0.0)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    torch.testing.assert_close(advantages, rewards + 0.9 * following - values)


def test_one_token_turns_equal_token_gae():
    rewards, values, mask, _ = random_batch(3, 3, 30)
    turns = turn_gae(rewards, values, mask, gamma=0.97, lambd=0.9)
    tokens = token_gae(rewards, values, mask, gamma=0.97, lambd=0.9)
    assert torch.equal(turns[0], tokens[0]) and torch.equal(turns[1], tokens[1])


def test_longer_observations_change_nothing():
    rewards, values, _, _ = random_batch(4, 1, 6)

    def with_gap(gap):
        widen = lambda x: torch.cat([x[:, :3], torch.full((1, gap), math.nan, dtype=x.dtype), x[:, 3:]], 1)  # noqa: E731
        mask = torch.tensor([[True] * 3 + [False] * gap + [True] * 3])
        return token_gae(widen(rewards), widen(values), mask, gamma=0.99, lambd=0.95)[0][mask]

    assert torch.equal(with_gap(1), with_gap(500))


def test_nan_at_masked_places_never_leaks_and_batch_order_is_free():
    rewards, values, mask, bootstrap = random_batch(5, 6, 40)
    clean = turn_gae(rewards, values, mask, gamma=0.9, lambd=0.9, bootstrap_value_B=bootstrap)
    nan = lambda x: x.masked_fill(~mask, math.nan)  # noqa: E731
    dirty = turn_gae(nan(rewards), nan(values), mask, gamma=0.9, lambd=0.9, bootstrap_value_B=bootstrap)
    assert torch.equal(clean[0], dirty[0]) and torch.equal(clean[1], dirty[1])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = turn_gae(rewards[order], values[order], mask[order], gamma=0.9, lambd=0.9, bootstrap_value_B=bootstrap[order])
    torch.testing.assert_close(shuffled[0], clean[0][order], atol=1e-12, rtol=0)


def test_truncated_differs_from_terminated():
    rewards, values, mask, _ = random_batch(6, 1, 4)
    ended = turn_gae(rewards, values, mask, gamma=1.0, lambd=0.95)[0]
    cut = turn_gae(rewards, values, mask, gamma=1.0, lambd=0.95, bootstrap_value_B=torch.tensor([0.7], dtype=torch.float64))[0]
    assert not torch.allclose(ended, cut)


def test_an_episode_without_a_turn_is_zero():
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    advantages, returns = turn_gae(torch.full((2, 4), math.nan), torch.full((2, 4), math.nan), nothing, gamma=1.0, lambd=0.95)
    assert not advantages.any() and not returns.any()


def test_spread_turns():
    ids = torch.tensor([[-1, 0, 0, -1, 1], [0, -1, -1, -1, -1]])
    spread = spread_turns(torch.tensor([[1.0, 2.0], [3.0, math.nan]]), ids)
    assert spread.tolist() == [[0.0, 1.0, 1.0, 0.0, 2.0], [3.0, 0.0, 0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="ids below K = 2"):
        spread_turns(torch.zeros(1, 2), torch.tensor([[2]]))
    with pytest.raises(ValueError, match="torch.int64"):
        spread_turns(torch.zeros(1, 2), torch.tensor([[0.0]]))


def test_previous_values_skip_masked_turns():
    q = torch.tensor([[0.1, math.nan, 0.3, 0.4]])
    mask = torch.tensor([[True, False, True, True]])
    v = previous_values(q, torch.tensor([0.9]), mask)
    torch.testing.assert_close(v, torch.tensor([[0.9, 0.0, 0.1, 0.3]]))
    torch.testing.assert_close(progress(q, v, mask), torch.tensor([[-0.8, 0.0, 0.2, 0.1]]))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(values_BK=torch.zeros(1, 3)), r"values_BK has shape \(1, 3\); wanted \(1, 2\)"),
        (dict(values_BK=torch.zeros(1, 2).half()), "values_BK is torch.float16"),
        (dict(values_BK=torch.zeros(1, 2).double()), "values_BK is torch.float64; wanted torch.float32"),
        (dict(mask_BK=torch.ones(1, 2)), "mask_BK is torch.float32; wanted torch.bool"),
        (dict(gamma=1.5), r"gamma is 1.5; wanted a number in \[0, 1\]"),
        (dict(bootstrap_value_B=torch.zeros(2)), r"bootstrap_value_B has shape \(2,\); wanted \(1,\)"),
        (dict(rewards_BK=[[0.0, 0.0]]), "rewards_BK is list; wanted a torch.Tensor"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = dict(
        rewards_BK=torch.zeros(1, 2), values_BK=torch.zeros(1, 2), mask_BK=torch.ones(1, 2, dtype=torch.bool), gamma=1.0, lambd=1.0
    )
    with pytest.raises(ValueError, match=message):
        turn_gae(**(arguments | change))
