"""Monte-Carlo labels from visits: the mean return behind every state and action that was met more than once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def returns_behind(rewards: Sequence[float], *, gamma: float, discount_from: str = "turn") -> list[float]:
    """The return behind every turn of one episode.

        G_t = Σ_{k≥t} γ^{k−t} r_k   ("turn": a shorter way to success is worth more)
        G_t = Σ_{k≥t} γ^k r_k       ("start": as the released code of arXiv 2502.10325 has it, counted from the episode's start)

    >>> returns_behind([0.0, 1.0], gamma=0.5), returns_behind([0.0, 1.0], gamma=0.5, discount_from="start")
    ([0.5, 1.0], [0.5, 0.5])
    """
    behind, found = 0.0, []
    for k in range(len(rewards) - 1, -1, -1):
        behind = rewards[k] + gamma * behind if discount_from == "turn" else gamma**k * rewards[k] + behind
        found.append(behind)
    return found[::-1]


def visit_means(returns_N: torch.Tensor, groups_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Q̂(s, a) = mean of G_t over the visits of (s, a) (Choudhury, arXiv 2502.10325, stage 1).

    Args:
        returns_N: G_t of every turn of every episode, float64.
        groups_N: int64 from 0, the same for turns of equal state and action.

    Returns:
        targets_N, the group's mean at each of its turns; visits_N, int64, how many turns it has.
    """
    visits_G = torch.bincount(groups_N)
    sums_G = torch.bincount(groups_N, weights=returns_N)
    return (sums_G / visits_G.clamp(min=1))[groups_N], visits_G[groups_N]


def visit_maxima(returns_N: torch.Tensor, groups_N: torch.Tensor) -> torch.Tensor:
    """Q̂(s, a) = max of G_t over the visits of (s, a).

    In the tree that a task's episodes make this is the backup of QLASS (arXiv 2502.02584), as rewards are the same on every visit of a turn:

        Q̂(s, a) = r + γ max_{a'} Q̂(s', a'),   at a leaf the reward itself

    Args:
        returns_N, groups_N: as in `visit_means`.

    Returns:
        targets_N, the group's highest return at each of its turns.

    >>> visit_maxima(torch.tensor([0.2, 1.0, 0.5]), torch.tensor([0, 0, 1]))
    tensor([1.0000, 1.0000, 0.5000])
    """
    highest_G = torch.full((int(groups_N.max()) + 1,), -torch.inf, dtype=returns_N.dtype)
    return highest_G.scatter_reduce(0, groups_N, returns_N, "amax")[groups_N]


def fewest_turns(left_N: torch.Tensor, succeeded_N: torch.Tensor, groups_N: torch.Tensor, count: int) -> torch.Tensor:
    """The reasoning distance of each group (ReST-MCTS*, arXiv 2406.03816): m = the fewest turns to success over its visits.

    Args:
        left_N: int64, turns left in the visit's episode, this one among them: 1 at the last turn.
        succeeded_N: bool, whether that episode succeeded.
        groups_N: as in `visit_means`.
        count: number of groups.

    Returns:
        m_G, int64; 0 where no visit succeeded.

    >>> fewest_turns(torch.tensor([3, 2, 1]), torch.tensor([True, True, False]), torch.tensor([0, 0, 1]), 2)
    tensor([2, 0])
    """
    far = torch.iinfo(torch.int64).max
    fewest_G = torch.full((count,), far).scatter_reduce(0, groups_N[succeeded_N], left_N[succeeded_N], "amin")
    return torch.where(fewest_G == far, 0, fewest_G)


def weighted_values(mc: Sequence[float], distances: Sequence[int], start: int) -> list[float]:
    """Values of an episode's turns by ReST-MCTS* (arXiv 2406.03816; the form of its released code).

        V_t = max(0, V_{t−1} + (1 − V_{t−1}) r_t / m_t),   V_{−1} = 0,   r_t = 2 MC_t − 1

    The paper writes w_t = (1 − V_{t−1}) / (m + 1) · (1 − 2 r) with m counted behind the turn and r the chance that it is wrong. A turn from which
    no success is known takes the distance of the last turn before it that has one. In [0, 1]; t/K along the only way to success.

    Args:
        mc: MC_t, 0 to 1; NaN: neither it nor what is behind it gets a value.
        distances: m_t, turns to success with this one among them; 0: no success is known.
        start: m of the episode's start, 0: the task was never solved, and no turn gets a value.

    >>> weighted_values([1.0, 1.0, 0.0], [4, 3, 0], start=5)  # 0 + 1/4, then + 3/4 · 1/3, then − 1/2 · 1/3
    [0.25, 0.5, 0.33333333333333337]
    """
    if not start:
        return [math.nan] * len(mc)
    value, distance, found = 0.0, start, []
    for quality, own in zip(mc, distances, strict=True):
        distance = own or distance
        value = max(0.0, value + (1 - value) * (2 * quality - 1) / distance) if not math.isnan(quality + value) else math.nan
        found.append(value)
    return found
