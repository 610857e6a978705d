"""Turns judged by a score: how far it falls, and whether two judges agree.

Legend: K turns of one episode. Where a score is NaN there is no verdict.
"""

from __future__ import annotations

import math

import torch


def relative_drop(q_K: torch.Tensor, v_0: float, threshold: float) -> torch.Tensor:
    """Whether a turn keeps a verifier's confidence (AutoPSV, arXiv 2405.16802): 1[Δ_t > threshold].

        Δ_t = (Q_t − Q_{t−1}) / Q_{t−1},   Q_{−1} = V(s_0)

    Confidence of 0 or less has nothing to lose: a turn behind it is right only if the confidence rises (ours).

    Args:
        q_K: the verifier's score behind every turn.
        v_0: its score of the episode's start; NaN: the first turn gets no verdict.
        threshold: −1 to 0, the relative change at which a turn is wrong.

    Returns:
        float like `q_K`: 1 right, 0 wrong.

    >>> relative_drop(torch.tensor([0.6, 0.2, 0.3]), 0.5, -0.5)
    tensor([1., 0., 1.])
    """
    before_K = torch.cat([q_K.new_tensor([v_0]), q_K[:-1]])
    right_K = torch.where(before_K > 0, q_K - before_K > threshold * before_K, q_K > before_K).to(q_K.dtype)
    return torch.where(q_K.isnan() | before_K.isnan(), math.nan, right_K)


def wrong_from_the_first(right_K: torch.Tensor) -> torch.Tensor:
    """0 from the first wrong turn on, as everything behind an error builds on it.

    >>> wrong_from_the_first(torch.tensor([1.0, 0.0, 1.0]))
    tensor([1., 0., 0.])
    """
    behind_K = (right_K == 0).cumsum(0) > 0
    return torch.where(behind_K, 0.0, right_K)


def agreement(one_K: torch.Tensor, other_K: torch.Tensor, threshold: float, other_threshold: float, *, whole: bool = False) -> torch.Tensor:
    """Where two judges say the same: both scores above their thresholds, or neither (consensus filtering, arXiv 2501.07301).

    Args:
        whole: the judges have to name the same first wrong turn, or the same none, and then agree on everything up to it; else on nothing.
            Behind that turn they are not asked.

    Returns:
        bool; False where either has no score.

    >>> agreement(torch.tensor([0.5, 0.0, 0.5]), torch.tensor([0.9, 0.2, 0.1]), 0.0, 0.5)
    tensor([ True,  True, False])
    """
    known_K = ~(one_K.isnan() | other_K.isnan())
    right_K, too_K = one_K > threshold, other_K > other_threshold
    if not whole:
        return known_K & (right_K == too_K)
    first, second = (_first(known_K & ~verdict_K) for verdict_K in (right_K, too_K))
    return known_K & (torch.arange(len(one_K)) <= first) if first == second else torch.zeros_like(known_K)


def _first(true_K: torch.Tensor) -> int:
    """The first place that is True, else the length."""
    return int(true_K.int().argmax()) if bool(true_K.any()) else len(true_K)
