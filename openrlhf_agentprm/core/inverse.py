"""Action values from demonstrations, without an outcome (InversePRM).

Legend: B episodes, K turns. Masks are bool; masked places may hold anything.
"""

from __future__ import annotations

import torch

from . import checks


def inverse_logits(q_BK: torch.Tensor, next_BK: torch.Tensor, mask_BK: torch.Tensor, gamma: float = 1.0) -> torch.Tensor:
    """What a transition earns by the action values, as the logit that an expert made it (Choudhury, arXiv 2502.10325).

        z_t = Q(s_t, a_t) − γ Q(s_{t+1}, a'),   a' ~ π_{i−1}(· | s_{t+1})
        z_T = Q(s_T, a_T)

    The end of an episode is terminal however it came; a step limit is part of the task.

    Args:
        q_BK: Q(s_t, a_t), float32 or float64.
        next_BK: Q(s_{t+1}, a') at turn t; not read at the last turn.
        mask_BK: bool, True = a turn, from the left.
        gamma: discount a turn, in [0, 1].

    Returns:
        z_BK, 0 at masked places. Gradient flows through both terms.

    >>> inverse_logits(torch.tensor([[3.0, 2.0]]), torch.tensor([[1.5, 9.0]]), torch.ones(1, 2, dtype=torch.bool), 0.5)
    tensor([[2.2500, 2.0000]])
    """
    checks.same_layout(mask_BK, q_BK=q_BK, next_BK=next_BK)
    checks.unit_interval("gamma", gamma)
    goes_on_BK = mask_BK & torch.cat([mask_BK[:, 1:], torch.zeros_like(mask_BK[:, :1])], 1)
    return torch.where(mask_BK, q_BK, 0.0) - gamma * torch.where(goes_on_BK, next_BK, 0.0)


def inverse_loss(
    z_BK: torch.Tensor, expert_B: torch.Tensor, mask_BK: torch.Tensor, *, num_expert: torch.Tensor | None = None,
    num_policy: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy of experts' transitions against those of past policies, both sides weighing the same.

        L = ½ mean over experts' −log σ(z)  +  ½ mean over policies' −log(1 − σ(z))

    Args:
        z_BK: of `inverse_logits`.
        expert_B: bool, True = an expert's episode.
        mask_BK: bool, True = a turn.
        num_expert, num_policy: transitions of each over all micro-batches and ranks, in place of the local counts.
    """
    checks.same_layout(mask_BK, z_BK=z_BK)
    total = z_BK.new_zeros(())
    for side_B, sign, count in ((expert_B, -1.0, num_expert), (~expert_B, 1.0, num_policy)):
        side_BK = mask_BK & side_B[:, None]
        each_BK = torch.where(side_BK, torch.nn.functional.softplus(sign * torch.where(side_BK, z_BK, 0.0)), 0.0)
        total = total + 0.5 * each_BK.sum() / (side_BK.sum() if count is None else count).clamp(min=1)
    return total


def matched_loss(
    q_BK: torch.Tensor, sampled_BK: torch.Tensor, mask_BK: torch.Tensor, *, num_states: torch.Tensor | None = None
) -> torch.Tensor:
    """The expert's action above one of π_{i−1}'s at the same state.

        L_M = mean −log σ(Q(s_t, a_t) − Q(s_t, a'_t)),   a_t ~ π_E,  a'_t ~ π_{i−1}

    Its optimum is Q(s, a) = log π_E(a|s) − log π_{i−1}(a|s) + c(s), as σ(Q(a) − Q(a')) is then the probability that of the two, in an order that
    is not known, the first is the expert's. That is the advantage of `inverse_loss` at γ = 0 too, where what is of the state alone is learnt
    and here has no part.

    Args:
        q_BK: Q(s_t, a_t) of experts, float32 or float64.
        sampled_BK: Q(s_t, a'_t).
        mask_BK: bool, True = a state of an expert's episode with a sampled action.
        num_states: their number over all micro-batches and ranks, in place of the local count.
    """
    checks.same_layout(mask_BK, q_BK=q_BK, sampled_BK=sampled_BK)
    gap_BK = torch.where(mask_BK, q_BK, 0.0) - torch.where(mask_BK, sampled_BK, 0.0)
    each_BK = torch.where(mask_BK, torch.nn.functional.softplus(-gap_BK), 0.0)
    return each_BK.sum() / (mask_BK.sum() if num_states is None else num_states).clamp(min=1)


def sampled_value_loss(
    v_BK: torch.Tensor, sampled_BK: torch.Tensor, mask_BK: torch.Tensor, *, num_states: torch.Tensor | None = None
) -> torch.Tensor:
    """V(s) towards E_{a' ~ π_{i−1}} Q(s, a'), from one a' at each state.

        L_V = ½ mean (V(s_t) − sg Q(s_t, a'))²

    Args:
        v_BK: V(s_t).
        sampled_BK: Q(s_t, a'); no gradient flows through it.
        mask_BK: bool, True = a state with a sampled action.
        num_states: their number over all micro-batches and ranks, in place of the local count.
    """
    checks.same_layout(mask_BK, v_BK=v_BK, sampled_BK=sampled_BK)
    error_BK = torch.where(mask_BK, v_BK, 0.0) - torch.where(mask_BK, sampled_BK, 0.0).detach()
    return 0.5 * error_BK.square().sum() / (mask_BK.sum() if num_states is None else num_states).clamp(min=1)
