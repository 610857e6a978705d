"""Process rewards that two language models hold without a head: the log-ratio of what they say of an action's tokens.

Legend: B episodes, K turns, T predicting positions (position i predicts token i + 1). Masks are bool; masked places may hold anything.
"""

from __future__ import annotations

import torch

from . import checks

OUTPUTS = ("sigmoid", "linear")


def turn_rewards(logratio_BT: torch.Tensor, turn_ids_BT: torch.Tensor, mask_BK: torch.Tensor, beta: float) -> torch.Tensor:
    """The reward of a turn, summed over its tokens (free process rewards, arXiv 2412.01981; PRIME, arXiv 2502.01456).

        r_i = β (log π_φ(y_i | y_<i) − log π_ref(y_i | y_<i))
        r_t = Σ_{i in turn t} r_i

    Args:
        logratio_BT: log π_φ − log π_ref, float32 or float64; only positions of a turn are read.
        turn_ids_BT: int64, the turn that a position predicts a token of; −1 where none.
        mask_BK: bool, True = a turn.
        beta: β > 0.

    Returns:
        r_BK, 0 at masked places.

    >>> turn_rewards(torch.tensor([[9.0, 2.0, -1.0, 4.0]]), torch.tensor([[-1, 0, 0, 1]]), torch.ones(1, 2, dtype=torch.bool), 0.5)
    tensor([[0.5000, 2.0000]])
    """
    checks.floating("logratio_BT", logratio_BT)
    checks.bool_mask("mask_BK", mask_BK)
    if logratio_BT.shape != turn_ids_BT.shape:
        raise ValueError(f"turn_ids_BT has shape {tuple(turn_ids_BT.shape)}; wanted {tuple(logratio_BT.shape)}, as logratio_BT")
    inside_BT = turn_ids_BT >= 0
    sums_BK = logratio_BT.new_zeros(mask_BK.shape).scatter_add(1, turn_ids_BT.clamp(min=0), torch.where(inside_BT, logratio_BT, 0.0))
    return torch.where(mask_BK, beta * sums_BK, 0.0)


def implicit_scores(rewards_BK: torch.Tensor, mask_BK: torch.Tensor, output: str = "sigmoid") -> tuple[torch.Tensor, torch.Tensor]:
    """Q and V of every turn from the rewards of turns.

        S_t = Σ_{k≤t} r_k
        linear:  Q_t = S_t,     V_t = S_{t−1},     V_0 = 0     so progress is r_t itself
        sigmoid: Q_t = σ(S_t),  V_t = σ(S_{t−1}),  V_0 = ½     so Q_t is a probability of success, and progress a difference of two

    Args:
        rewards_BK: r_t of `turn_rewards`.
        mask_BK: bool, True = a turn.
        output: "sigmoid" or "linear".

    Returns:
        q_BK, v_BK, 0 at masked places.

    >>> q, v = implicit_scores(torch.tensor([[0.5, 2.0]]), torch.ones(1, 2, dtype=torch.bool), "linear")
    >>> q, v
    (tensor([[0.5000, 2.5000]]), tensor([[0.0000, 0.5000]]))
    """
    checks.same_layout(mask_BK, rewards_BK=rewards_BK)
    if output not in OUTPUTS:
        raise ValueError(f"output is {output!r}; wanted one of {', '.join(OUTPUTS)}")
    after_BK = torch.where(mask_BK, rewards_BK, 0.0).cumsum(1)
    before_BK = torch.cat([torch.zeros_like(after_BK[:, :1]), after_BK[:, :-1]], 1)
    if output == "sigmoid":
        after_BK, before_BK = after_BK.sigmoid(), before_BK.sigmoid()
    return torch.where(mask_BK, after_BK, 0.0), torch.where(mask_BK, before_BK, 0.0)


def implicit_loss(
    rewards_BK: torch.Tensor, outcome_B: torch.Tensor, mask_BK: torch.Tensor, *, num_episodes: float | torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of the whole episode's reward against its outcome (arXiv 2412.01981); no turn has a label.

        L = mean over episodes of −r log σ(S_T) − (1 − r) log(1 − σ(S_T)),   S_T = Σ_t r_t

    Args:
        rewards_BK: r_t of `turn_rewards`.
        outcome_B: r in [0, 1].
        mask_BK: bool, True = a turn; an episode without one is left out.
        num_episodes: the count over all micro-batches and ranks that replaces the local denominator.

    Raises:
        ValueError: an outcome outside [0, 1].
    """
    checks.same_layout(mask_BK, rewards_BK=rewards_BK)
    counts_B = mask_BK.any(1)
    if bool(((outcome_B < 0) | (outcome_B > 1))[counts_B].any()):
        raise ValueError(f"outcome_B spans [{float(outcome_B.min()):g}, {float(outcome_B.max()):g}]; a cross-entropy wants [0, 1]")
    total_B = torch.where(mask_BK, rewards_BK, 0.0).sum(1)
    each_B = torch.nn.functional.binary_cross_entropy_with_logits(total_B, outcome_B.to(total_B.dtype), reduction="none")
    count = counts_B.sum().clamp(min=1) if num_episodes is None else num_episodes
    return torch.where(counts_B, each_B, 0.0).sum() / count
