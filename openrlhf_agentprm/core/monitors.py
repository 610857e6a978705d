"""Figures that tell whether a policy games its PRM: of one batch of episodes, and against what they were before.

Legend: B episodes, K turns, T predicting positions, N and M samples. Masks are bool, True = counts; masked places may hold anything, NaN too.
The alarm that is raised on these figures is in `core.alarm`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from .metrics import pearson

POINTS = 41
_PRIME = 1_000_003


def quantile_points(x_N: torch.Tensor, points: int = POINTS) -> list[float]:
    """A sample in few numbers, each standing for an equal share of it: its values at the levels (i + ½) / points.

    >>> quantile_points(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2)
    [0.0, 2.0]
    """
    x_N = x_N.double().sort().values
    place = ((torch.arange(points, dtype=torch.float64) + 0.5) / points * len(x_N)).ceil().long() - 1
    return [round(float(x), 6) for x in x_N[place.clamp(min=0)]]


def ks_distance(x_N: torch.Tensor, y_M: torch.Tensor) -> float:
    """Two-sample Kolmogorov-Smirnov distance, sup_u |F_x(u) − F_y(u)|: 0 for equal samples, 1 for samples that do not overlap.

    F(u) is the share of values ≤ u, so equal values, as of a PRM that knows few scores, need no care.

    >>> ks_distance(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    0.5
    """
    if not len(x_N) or not len(y_M):
        return math.nan
    x_N, y_M = x_N.double().sort().values, y_M.double().sort().values
    at = torch.cat([x_N, y_M])
    below = [torch.searchsorted(sample, at, right=True) / len(sample) for sample in (x_N, y_M)]
    return float((below[0] - below[1]).abs().max())


def episode_sums(x_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """Σ over an episode's turns: (B,) float64."""
    return torch.where(mask_BK, x_BK.double(), 0.0).sum(1)


def action_keys(tokens_BT: torch.Tensor, turn_ids_BT: torch.Tensor, turns: int) -> torch.Tensor:
    """A number for every action, equal for equal token sequences: Σ_i (token_i + 1) p^i over the action's tokens, modulo 2^64.

    Args:
        tokens_BT: int64, the token that each position predicts.
        turn_ids_BT: int64, −1 where no turn.
        turns: K.

    Returns:
        (B, K) int64; 0 where there is no turn.
    """
    inside_BT = turn_ids_BT >= 0
    place_BT = torch.arange(turn_ids_BT.shape[1]).expand_as(turn_ids_BT)
    begins_BT = inside_BT & (turn_ids_BT != torch.nn.functional.pad(turn_ids_BT[:, :-1], (1, 0), value=-1))
    within_BT = place_BT - torch.where(begins_BT, place_BT, 0).cummax(1).values
    powers = torch.ones(max(1, turn_ids_BT.shape[1]), dtype=torch.int64)
    powers[1:] = _PRIME
    terms_BT = torch.where(inside_BT, (tokens_BT + 1) * powers.cumprod(0)[within_BT], 0)  # int64 wraps around
    keys_BK = torch.zeros(len(tokens_BT), turns + 1, dtype=torch.int64)
    return keys_BK.scatter_add_(1, turn_ids_BT.clamp(min=-1) + 1, terms_BT)[:, 1:]


def repeated_share(keys_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """Share of an episode's actions that it has taken before: 1 − (different actions) / (actions); (B,) float64, 0 without a turn.

    >>> repeated_share(torch.tensor([[7, 8, 7, 0]]), torch.tensor([[True, True, True, False]]))
    tensor([0.3333], dtype=torch.float64)
    """
    equal_BKK = (keys_BK[:, :, None] == keys_BK[:, None, :]) & mask_BK[:, :, None] & mask_BK[:, None, :]
    again_BK = equal_BKK.tril(-1).any(2)
    return again_BK.sum(1).double() / mask_BK.sum(1).clamp(min=1)


def batch_figures(
    paid_BK: torch.Tensor, mask_BK: torch.Tensor, outcome_B: torch.Tensor, keys_BK: torch.Tensor, tokens: int
) -> dict[str, float]:
    """What a batch of episodes tells by itself.

    Args:
        paid_BK: each turn's process reward in the form that training pays, before its weight.
        outcome_B: r in [0, 1].
        keys_BK: of `action_keys`.
        tokens: action tokens of all episodes.

    Returns:
        episodes; success: mean r; prm_reward, prm_reward_std: mean and standard deviation over episodes of Σ_k paid; correlation: of Σ_k paid
        and r, left out where either does not vary; turns, turns_std: an episode; repeated_actions; action_tokens: mean length of an action.
    """
    reward_B, turns_B = episode_sums(paid_BK, mask_BK), mask_BK.sum(1).double()
    found = {
        "episodes": float(len(reward_B)),
        "success": float(outcome_B.double().mean()),
        "prm_reward": float(reward_B.mean()),
        "prm_reward_std": float(reward_B.std(correction=0)),
        "correlation": pearson(reward_B, outcome_B),
        "turns": float(turns_B.mean()),
        "turns_std": float(turns_B.std(correction=0)),
        "repeated_actions": float(repeated_share(keys_BK, mask_BK).mean()),
        "action_tokens": tokens / max(1.0, float(turns_B.sum())),
    }
    return {name: value for name, value in found.items() if value == value}


def drift(now: float, before: Mapping[str, float], name: str) -> float:
    """(x_now − x_before) / std_before, std over episodes; over 1 where they did not vary.

    Args:
        before: `batch_figures` of the first batch.
        name: of a figure that has `<name>_std` beside it.
    """
    return (now - before[name]) / (before[f"{name}_std"] or 1.0)


def score_drift(scores_N: torch.Tensor, reference: Sequence[float]) -> float:
    """`ks_distance` of a batch's scores from the quantile points of the scores that the PRM gave on its own data."""
    return ks_distance(scores_N, torch.tensor(reference))
