"""A rollout small enough to work by hand: turns of 2 and 1 tokens with an observation of 2 between them; and one turn of 3 tokens."""

import math

import torch

from openrlhf_agentprm.core.batches import TurnBatch

IDS = torch.tensor([[-1, 0, 0, -1, -1, 1, -1], [-1, -1, 0, 0, 0, -1, -1]])
NAN = math.nan


def batch(**changes):
    values = dict(
        rewards_BK=torch.tensor([[0.0, 1.0], [0.0, NAN]]),
        mask_BK=torch.tensor([[True, True], [True, False]]),
        turn_ids_BT=IDS,
        action_mask_BT=IDS >= 0,
        q_BK=torch.tensor([[0.6, 0.9], [0.2, NAN]]),
        v_BK=torch.tensor([[0.5, 0.6], [0.4, NAN]]),
        values_BT=of_tokens([0.5, 7.0, 0.6], [0.4, 7.0, 7.0]),
        kl_BT=torch.where(IDS >= 0, 0.1, NAN),
        process_logratio_BT=of_tokens([0.1, 0.2, 0.3], [-0.1, -0.1, 0.2]),
        outcome_B=torch.tensor([1.0, 0.0]),
        terminated_B=torch.tensor([True, True]),
        truncated_B=torch.tensor([False, False]),
        group_B=torch.tensor([0, 0]),
        sample_B=torch.tensor([0, 1]),
        state_key_BK=torch.tensor([[7, 8], [7, -5]]),
        valid_BK=torch.tensor([[True, False], [True, True]]),
    )
    return TurnBatch(**(values | changes))


def of_tokens(first, second, ids=IDS):
    """The numbers of the action tokens, NaN elsewhere."""
    x_BT = torch.full(ids.shape, NAN)
    x_BT[ids >= 0] = torch.tensor([*first, *second])
    return x_BT


def advantages(result):
    """(of both turns of the first episode, of the second's turn), at their first tokens."""
    a_BT = result.advantages_BT
    return a_BT[0, 1].item(), a_BT[0, 5].item(), a_BT[1, 2].item()


def tokens(result):
    return result.advantages_BT[IDS >= 0].tolist()
