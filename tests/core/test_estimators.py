"""Estimators of the registry: worked by hand, and what must change nothing."""

import pytest
import torch
from two_episodes import IDS, batch

from openrlhf_agentprm.core.batches import TurnBatch
from openrlhf_agentprm.core.estimators.gae import token_gae, turn_gae
from openrlhf_agentprm.core.estimators.shared import first_of_turn, last_of_turn
from openrlhf_agentprm.core.estimators.turns import progress


def test_where_turns_begin_and_end():
    assert first_of_turn(IDS).nonzero().tolist() == [[0, 1], [0, 5], [1, 2]]
    assert last_of_turn(IDS).nonzero().tolist() == [[0, 2], [0, 5], [1, 4]]


@pytest.mark.parametrize("values", ["critic", "prm"])
def test_turn_gae_reads_values_where_turns_begin(values):
    result = turn_gae(batch(), values=values, lambd=0.5, whiten="none")
    # δ: 0.6 − 0.5 = 0.1, 1 − 0.6 = 0.4; A_0 = 0.1 + 0.5·0.4; second episode: 0 − 0.4
    expected = torch.zeros(2, 7)
    expected[0, 1:3], expected[0, 5], expected[1, 2:5] = 0.3, 0.4, -0.4
    torch.testing.assert_close(result.advantages_BT, expected)
    assert result.value_mask_BT.nonzero().tolist() == [[0, 1], [0, 5], [1, 2]]
    torch.testing.assert_close(result.returns_BT[0, 1], torch.tensor(0.8))


def test_kl_inside_and_outside_the_returns():
    inside = turn_gae(batch(), lambd=1.0, kl_coef=0.5, whiten="none")
    # turn rewards fall by 0.5·(0.2, 0.1) and 0.5·0.3
    torch.testing.assert_close(inside.advantages_BT[0, 5], torch.tensor(0.4 - 0.05))
    torch.testing.assert_close(inside.advantages_BT[0, 1], torch.tensor(0.5 - 0.15))
    torch.testing.assert_close(inside.returns_BT[1, 2], torch.tensor(-0.15))
    outside = turn_gae(batch(), lambd=1.0, kl_coef=0.5, kl_placement="token", whiten="none")
    torch.testing.assert_close(outside.advantages_BT[0, 1], torch.tensor(0.5 - 0.05))
    torch.testing.assert_close(outside.returns_BT[1, 2], torch.tensor(0.0))


def test_process_rewards_and_double_counting():
    dense = turn_gae(batch(), process_reward="progress", process_weight=2.0, lambd=1.0, whiten="none")
    # progress 0.1, 0.3 and −0.2, doubled
    torch.testing.assert_close(dense.advantages_BT[0, 5], torch.tensor(1 + 0.6 - 0.6))
    torch.testing.assert_close(dense.advantages_BT[1, 2], torch.tensor(-0.4 - 0.4))
    with pytest.raises(ValueError, match="count progress twice"):
        turn_gae(batch(), values="prm", process_reward="progress")
    forced = turn_gae(batch(), values="prm", process_reward="progress", force=True, lambd=0.0, whiten="none")
    torch.testing.assert_close(forced.advantages_BT[1, 2], torch.tensor(-0.4 - 0.2))


def test_token_gae_of_one_turn_without_observations_is_the_hosts():
    rewards, values = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.5, 0.3, 0.8]])
    host, last = [], 0.0
    for t in reversed(range(4)):
        following = float(values[0, t + 1]) if t < 3 else 0.0
        last = float(rewards[0, t]) + 0.9 * following - float(values[0, t]) + 0.9 * 0.95 * last
        host.insert(0, last)
    one = TurnBatch(
        rewards_BK=torch.tensor([[1.0]]), mask_BK=torch.tensor([[True]]), turn_ids_BT=torch.zeros(1, 4, dtype=torch.long),
        action_mask_BT=torch.ones(1, 4, dtype=torch.bool), values_BT=values, kl_BT=torch.zeros(1, 4),
    )  # fmt: skip
    torch.testing.assert_close(token_gae(one, gamma=0.9, lambd=0.95, whiten="none").advantages_BT[0], torch.tensor(host))


def test_progress_alone_and_added_to_the_outcome():
    alone = progress(batch(), whiten="none").advantages_BT
    torch.testing.assert_close(alone[0, 1:3], torch.tensor([0.1, 0.1]))
    added = progress(batch(), outcome_weight=1.0, whiten="none").advantages_BT
    torch.testing.assert_close(added[0, 5], torch.tensor(0.3 + 0.5))
    torch.testing.assert_close(added[1, 2], torch.tensor(-0.2 - 0.5))


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="values_BT is None"):
        turn_gae(batch(values_BT=None))
    with pytest.raises(ValueError, match="q_BK is None"):
        turn_gae(batch(q_BK=None), process_reward="promise")
    with pytest.raises(ValueError, match="whiten is 'all'; wanted one of tokens, turns, groups, none"):
        token_gae(batch(), whiten="all")
