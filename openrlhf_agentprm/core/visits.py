"""Monte-Carlo labels from visits: the mean return behind every state and action that was met more than once."""

from __future__ import annotations

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
