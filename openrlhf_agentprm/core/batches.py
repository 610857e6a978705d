"""What label functions, estimators and reward models are given and give back.

Legend: B episodes, K turns, T predicting positions (position i predicts token i + 1, as the host counts). Masks are bool.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(kw_only=True)
class LabelBatch:
    """A training batch of episodes as a label function sees it; fields that a method does not need may be None."""

    q_BK: torch.Tensor  # the model's own Q(s_t, a_t), detached
    rewards_BK: torch.Tensor  # the outcome at the last turn, 0 before it, unless dense rewards were asked for
    mask_BK: torch.Tensor  # bool
    outcome_B: torch.Tensor  # r in [0, 1]
    terminated_B: torch.Tensor  # bool, the environment ended the episode
    truncated_B: torch.Tensor  # bool, a limit ended it
    v_BK: torch.Tensor | None = None  # the model's own V(s_t), detached


@dataclass(kw_only=True)
class TurnBatch:
    """A whole rollout batch as an advantage estimator sees it."""

    rewards_BK: torch.Tensor  # the outcome, or the environment's rewards, by turn
    mask_BK: torch.Tensor  # bool
    turn_ids_BT: torch.Tensor  # int64, −1 where no turn
    action_mask_BT: torch.Tensor  # bool
    q_BK: torch.Tensor | None = None  # PRM: Q(s_t, a_t)
    v_BK: torch.Tensor | None = None  # PRM: V(s_t)
    values_BT: torch.Tensor | None = None  # critic
    kl_BT: torch.Tensor | None = None  # log π − log π_ref by token
    process_logratio_BT: torch.Tensor | None = None  # β (log π_φ − log π_ref) by token, of an implicit PRM
    outcome_B: torch.Tensor | None = None
    terminated_B: torch.Tensor | None = None  # bool
    truncated_B: torch.Tensor | None = None  # bool
    group_B: torch.Tensor | None = None  # int64, the same for samples of one prompt
    state_key_BK: torch.Tensor | None = None  # int64, the same for turns that begin in one state
    sample_B: torch.Tensor | None = None  # int64, place in the group
    valid_BK: torch.Tensor | None = None  # bool, the environment carried the action out
    disagreement_BK: torch.Tensor | None = None  # standard deviation of Q over an ensemble's members
    prover_q_BK: torch.Tensor | None = None  # another PRM's Q(s_t, a_t)
    prover_v_BK: torch.Tensor | None = None  # another PRM's V(s_t)
    running: dict[str, torch.Tensor] | None = None  # what an estimator keeps from batch to batch; it may write here


@dataclass
class TurnAdvantages:
    """An estimator's result."""

    advantages_BT: torch.Tensor
    returns_BT: torch.Tensor
    metrics: dict[str, float] = field(default_factory=dict)
    value_mask_BT: torch.Tensor | None = None  # where a critic's loss counts; None: at every action token


@dataclass
class ProcessScores:
    """A reward model's read-out of every turn."""

    q_BK: torch.Tensor
    v_BK: torch.Tensor
    disagreement_BK: torch.Tensor | None = None  # standard deviation of Q over an ensemble's members


def needed(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    """The tensor.

    Raises:
        ValueError: the batch has none.
    """
    if tensor is None:
        raise ValueError(f"{name} is None; this estimator's options need it ({_SOURCES.get(name, 'see TurnBatch')})")
    return tensor


_SOURCES = {
    "q_BK": "a PRM gives q_BK and v_BK",
    "v_BK": "a PRM gives q_BK and v_BK",
    "values_BT": "a critic gives values_BT",
    "process_logratio_BT": "a PRM of kind implicit gives it",
}
