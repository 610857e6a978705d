"""Labels and losses of AgentPRM against the paper's equations, worked by hand and by loops."""

import math
import warnings

import pytest
import torch

from openrlhf_agentprm.core.batches import LabelBatch
from openrlhf_agentprm.core.labels import outcome_all, outcome_last, td_gae, td_gae_targets, td_qv
from openrlhf_agentprm.core.losses import agent_prm_loss, soft_bce_loss, turn_counts


def paper_targets(m, r, gamma, lambd, v0=0.123):
    """Eq 12-14 of arXiv 2511.08325 as written, with M_{−1} = V(s_0), δ_T = r − M_{T−1} and Q̂_T = r."""
    before = [v0] + m[:-1]
    last = len(m) - 1
    delta = [r[t] + gamma * m[t] - before[t] for t in range(last)] + [r[last] - before[last]]
    advantage = [sum((gamma * lambd) ** k * delta[t + k] for k in range(len(m) - t)) for t in range(len(m))]
    return [advantage[t] + before[t] for t in range(last)] + [r[last]]


def label_batch(q, outcome, mask=None, **changes):
    q = torch.tensor(q, dtype=torch.float64)
    mask = torch.ones_like(q, dtype=torch.bool) if mask is None else torch.tensor(mask)
    outcome = torch.tensor(outcome, dtype=torch.float64)
    rewards = torch.zeros_like(q)
    for b, row in enumerate(mask):
        rewards[b, row.nonzero().max()] = outcome[b]
    ended = torch.ones(len(q), dtype=torch.bool)
    return LabelBatch(
        **(dict(q_BK=q, rewards_BK=rewards, mask_BK=mask, outcome_B=outcome, terminated_B=ended, truncated_B=~ended) | changes)
    )


def test_golden_numbers():
    # γ = 1, λ = 0.5: Q̂_2 = 1, Q̂_1 = 0.5·0.6 + 0.5·1 = 0.8, Q̂_0 = 0.5·0.2 + 0.5·0.8 = 0.5
    batch = label_batch([[0.2, 0.6, 0.9]], [1.0])
    torch.testing.assert_close(td_gae(batch, lambd=0.5), torch.tensor([[0.5, 0.8, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("gamma, lambd", [(1.0, 0.95), (1.0, 0.0), (0.9, 0.7), (1.0, 1.0)])
def test_equals_the_papers_equations(gamma, lambd):
    m, r = torch.rand(7, dtype=torch.float64).tolist(), [0.1, 0.0, -0.2, 0.0, 0.3, 0.0, 1.0]
    found = td_gae_targets(
        torch.tensor([m], dtype=torch.float64),
        torch.tensor([r], dtype=torch.float64),
        torch.ones(1, 7, dtype=torch.bool),
        gamma=gamma,
        lambd=lambd,
    )
    torch.testing.assert_close(found[0], torch.tensor(paper_targets(m, r, gamma, lambd), dtype=torch.float64))


def test_closed_form_and_pvm_end():
    q = torch.rand(1, 6, dtype=torch.float64)
    batch = label_batch(q.tolist(), [1.0])
    lambd, last = 0.8, 5
    closed = [(1 - lambd) * sum(lambd**j * float(q[0, t + j]) for j in range(last - t)) + lambd ** (last - t) for t in range(6)]
    torch.testing.assert_close(td_gae(batch, lambd=lambd)[0], torch.tensor(closed, dtype=torch.float64))
    torch.testing.assert_close(td_gae(batch, lambd=1.0), outcome_all(batch))


def test_masked_turns_and_nan():
    batch = label_batch([[0.2, math.nan, 0.6, 0.9]], [1.0], mask=[[True, False, True, True]])
    torch.testing.assert_close(td_gae(batch, lambd=0.5), torch.tensor([[0.5, 0.0, 0.8, 1.0]], dtype=torch.float64))


def test_orm_labels_the_last_turn_only():
    batch = label_batch([[0.2, 0.6, 0.0]], [1.0], mask=[[True, True, False]])
    labels = outcome_last(batch)
    assert float(labels[0, 1]) == 1.0 and labels[0, 0].isnan() and labels[0, 2].isnan()


def test_truncated_differs_from_terminated_with_bootstrap_only():
    cut = torch.tensor([True])
    batch = label_batch([[0.2, 0.6]], [0.0], terminated_B=~cut, truncated_B=cut)
    torch.testing.assert_close(td_gae(batch, lambd=1.0), torch.tensor([[0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(td_gae(batch, lambd=1.0, bootstrap=True), torch.tensor([[0.6, 0.6]], dtype=torch.float64))


def test_td_qv_golden_numbers():
    # V = .4 .5 .9, r = 1 at the end, γ = 1, λ = 0.5: δ = .1 .4 .1, A = .1 + .5·.45 = .325, .4 + .5·.1 = .45, .1; G = V + A
    batch = label_batch([[0.0, 0.0, 0.0]], [1.0], v_BK=torch.tensor([[0.4, 0.5, 0.9]], dtype=torch.float64))
    torch.testing.assert_close(td_qv(batch, lambd=0.5), torch.tensor([[0.725, 0.95, 1.0]], dtype=torch.float64))
    # dense rewards and γ = 0.5, λ = 0: r_t + γ V_{t+1}, without a warning
    dense = label_batch([[0.0, 0.0]], [1.0], v_BK=torch.tensor([[0.4, 0.6]], dtype=torch.float64))
    dense.rewards_BK[0, 0] = 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(td_qv(dense, gamma=0.5, lambd=0.0), torch.tensor([[0.55, 1.0]], dtype=torch.float64))


def test_td_qv_at_its_ends_and_with_masks():
    v = torch.tensor([[0.4, math.nan, 0.5, 0.9]], dtype=torch.float64)
    batch = label_batch([[0.1, math.nan, 0.1, 0.3]], [1.0], mask=[[True, False, True, True]], v_BK=v)
    torch.testing.assert_close(td_qv(batch, lambd=1.0), outcome_all(batch))
    torch.testing.assert_close(td_qv(batch, lambd=0.0), torch.tensor([[0.5, 0.0, 0.9, 1.0]], dtype=torch.float64))
    cut = torch.tensor([True])
    batch.terminated_B, batch.truncated_B = ~cut, cut
    torch.testing.assert_close(td_qv(batch, lambd=0.0, bootstrap=True), torch.tensor([[0.5, 0.0, 0.9, 0.3]], dtype=torch.float64))
    with pytest.raises(ValueError, match="v_BK is None"):
        td_qv(label_batch([[0.2]], [1.0]))


def test_td_qv_sees_the_observation_that_surprises():
    """A first turn leads by a coin to a state that wins (V = 1) or to one that loses (V = 0). One-step targets of td_qv average to 1/2
    whatever the model makes of the turn; td_gae's are the model's own score, as its V of the second state is that score."""
    batch = label_batch([[0.9, 1.0], [0.9, 0.0]], [1.0, 0.0], v_BK=torch.tensor([[0.3, 1.0], [0.3, 0.0]], dtype=torch.float64))
    assert float(td_qv(batch, lambd=0.0)[:, 0].mean()) == pytest.approx(0.5)
    assert float(td_gae(batch, lambd=0.0)[:, 0].mean()) == pytest.approx(0.9)


def test_warns_where_it_is_not_a_bellman_equation():
    dense = label_batch([[0.2, 0.6]], [1.0])
    dense.rewards_BK[0, 0] = 0.5
    with pytest.warns(UserWarning, match="not a Bellman equation"):
        td_gae(dense)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        td_gae(label_batch([[0.2, 0.6]], [1.0]))


def test_loss_golden_numbers():
    q = torch.tensor([[0.5, 0.7, 0.1], [0.4, math.nan, math.nan]], requires_grad=True)
    targets = torch.tensor([[0.3, 0.8, 0.1], [1.0, math.nan, math.nan]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    # e = 0.2, −0.1, 0 | −0.6: promise ½·(0.04 + 0.01 + 0 + 0.36)/4 = 0.05125; pairs −0.3, 0.1: ½·(0.09 + 0.01)/2 = 0.025
    torch.testing.assert_close(agent_prm_loss(q, targets, mask), torch.tensor(0.07625))
    torch.testing.assert_close(agent_prm_loss(q, targets, mask, beta=0.0), torch.tensor(0.05125))
    # by episodes: (½·0.05/3 + ½·0.1/2 + ½·0.36)/2
    expected = (0.5 * 0.05 / 3 + 0.5 * 0.1 / 2 + 0.5 * 0.36) / 2
    torch.testing.assert_close(agent_prm_loss(q, targets, mask, reduce="episodes"), torch.tensor(expected))
    agent_prm_loss(q, targets, mask).backward()
    assert q.grad.isfinite().all() and not q.grad[1, 1:].any()


def test_no_pair_and_no_turn():
    one = torch.tensor([[True, False]])
    torch.testing.assert_close(agent_prm_loss(torch.tensor([[0.5, 9.0]]), torch.tensor([[0.0, 0.0]]), one), torch.tensor(0.125))
    q = torch.full((1, 2), 0.5, requires_grad=True)
    loss = agent_prm_loss(q, torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    loss.backward()
    assert float(loss) == 0.0 and not q.grad.any()


def test_global_counts_make_micro_batches_add_up():
    q, targets = torch.rand(6, 5), torch.rand(6, 5)
    mask = torch.arange(5) < torch.tensor([[5], [1], [3], [2], [5], [4]])
    whole = agent_prm_loss(q, targets, mask)
    turns, pairs = mask.sum(), (mask[:, 1:] & mask[:, :-1]).sum()
    parts = sum(agent_prm_loss(q[i : i + 2], targets[i : i + 2], mask[i : i + 2], num_turns=turns, num_pairs=pairs) for i in (0, 2, 4))
    torch.testing.assert_close(parts, whole)
    by_episode = agent_prm_loss(q, targets, mask, reduce="episodes")
    parts = sum(agent_prm_loss(q[i : i + 2], targets[i : i + 2], mask[i : i + 2], reduce="episodes", num_episodes=6) for i in (0, 2, 4))
    torch.testing.assert_close(parts, by_episode)


def test_float_targets_survive_and_gradients_flow_through_scores_only():
    q = torch.tensor([[0.0]], requires_grad=True)
    targets = torch.tensor([[0.37]], requires_grad=True)
    loss = agent_prm_loss(q, targets, torch.tensor([[True]]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(0.5 * 0.37**2))
    assert targets.grad is None
    with pytest.raises(ValueError, match="reduce is 'mean'"):
        agent_prm_loss(q, targets, torch.tensor([[True]]), reduce="mean")


def test_soft_bce_golden_numbers_and_masked_places():
    """z = 0 costs log 2 whatever the target; z = log 3 (σ = ¾) against ½ costs ½ log(4/3) + ½ log 4."""
    z = torch.tensor([[0.0, math.log(3.0), math.nan]], requires_grad=True)
    targets, mask = torch.tensor([[0.3, 0.5, math.nan]]), torch.tensor([[True, True, False]])
    expected = (math.log(2) + 0.5 * math.log(4 / 3) + 0.5 * math.log(4)) / 2
    loss = soft_bce_loss(z, targets, mask)
    torch.testing.assert_close(loss.detach(), torch.tensor(expected))
    loss.backward()
    torch.testing.assert_close(z.grad, torch.tensor([[(0.5 - 0.3) / 2, (0.75 - 0.5) / 2, 0.0]]))  # (σ(z) − Q̂) over the turns
    # e = 0.2, 0.25: the progress term adds β ½ (0.05)²
    with_progress = soft_bce_loss(z, targets, mask, beta=2.0).detach()
    torch.testing.assert_close(with_progress, torch.tensor(expected + 0.05**2))


def test_soft_bce_equals_bce_on_hard_labels_and_keeps_float_ones():
    generator = torch.Generator().manual_seed(0)
    z, mask = torch.randn(6, 5, generator=generator), torch.rand(6, 5, generator=generator) < 0.7
    hard = (torch.rand(6, 5, generator=generator) < 0.5).float()
    bce = torch.nn.functional.binary_cross_entropy(z.sigmoid()[mask], hard[mask])
    torch.testing.assert_close(soft_bce_loss(z, hard, mask), bce)
    soft = 0.9 * hard + 0.05
    assert not torch.allclose(soft_bce_loss(z, soft, mask), bce), "0.95 is not 1"
    by_episode = torch.stack([soft_bce_loss(z[i : i + 1], soft[i : i + 1], mask[i : i + 1]) for i in range(6) if mask[i].any()])
    torch.testing.assert_close(soft_bce_loss(z, soft, mask, reduce="episodes"), by_episode.mean())
    a_rounding_above = torch.where(hard > 0.5, 1 + 2e-7, hard)
    torch.testing.assert_close(soft_bce_loss(z, a_rounding_above, mask), bce)
    with pytest.raises(ValueError, match=r"targets_BK spans \[.*a cross-entropy wants targets in \[0, 1\]"):
        soft_bce_loss(z, soft + 1, mask)


@pytest.mark.parametrize("reduce", ["turns", "episodes"])
@pytest.mark.parametrize("loss", [agent_prm_loss, soft_bce_loss])
def test_weights_of_a_half_count_half(loss, reduce):
    """A turn of weight 2 weighs as two of weight 1; equal weights change nothing; weight 0 is no turn."""
    torch.manual_seed(0)
    q, targets = torch.randn(3, 4), torch.rand(3, 4)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True, True, False, False]])
    plain = loss(q, targets, mask, beta=0.7, reduce=reduce)
    torch.testing.assert_close(loss(q, targets, mask, beta=0.7, reduce=reduce, weights_BK=torch.full((3, 4), 3.0)), plain)
    without = mask.clone()
    without[0, 2] = False
    weights = torch.ones(3, 4)
    weights[0, 2] = 0.0
    torch.testing.assert_close(
        loss(q, targets, mask, beta=0.7, reduce=reduce, weights_BK=weights), loss(q, targets, without, beta=0.7, reduce=reduce)
    )
    one, two = torch.tensor([[0.5, 0.1]]), torch.tensor([[1.0, 0.0]])
    both, w = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1.0, 3.0]])
    parts = [float(loss(one[:, k : k + 1], two[:, k : k + 1], both[:, :1], beta=0.0)) for k in range(2)]
    assert float(loss(one, two, both, beta=0.0, weights_BK=w)) == pytest.approx((parts[0] + 3 * parts[1]) / 4)


def test_counts_are_what_the_losses_divide_by():
    mask = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    assert turn_counts(mask).tolist() == [5.0, 3.0, 2.0]
    weights = torch.tensor([[4.0, 1.0, 0.0], [1.0, 9.0, 1.0], [1.0, 1.0, 1.0]])
    assert turn_counts(mask, weights).tolist() == [7.0, 3.0, 2.0]
