"""Figures of merit for the scores of turns, against what each turn is truly worth: rank correlation, the first fatal turn, sibling actions.

Legend: N turns; R rows of M members that are compared with each other; B episodes, K turns. Masks are bool, True = counts; what stands at
masked places may be anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


def average_ranks(x_N: torch.Tensor) -> torch.Tensor:
    """Ranks from 1, equal values sharing the mean of theirs.

    >>> average_ranks(torch.tensor([0.3, 0.1, 0.3]))
    tensor([2.5000, 1.0000, 2.5000], dtype=torch.float64)
    """
    _, place_N, count_U = x_N.unique(return_inverse=True, return_counts=True)
    last_U = count_U.cumsum(0).double()
    return (last_U - (count_U - 1) / 2)[place_N]


def spearman(x_N: torch.Tensor, y_N: torch.Tensor) -> float:
    """Rank correlation: Pearson's of `average_ranks`; NaN where either side does not vary."""
    if len(x_N) < 2:
        return math.nan
    x, y = (r - r.mean() for r in (average_ranks(x_N), average_ranks(y_N)))
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def spearman_rows(scores_RM: torch.Tensor, values_RM: torch.Tensor, mask_RM: torch.Tensor, *, least: int = 3) -> torch.Tensor:
    """Rank correlation inside each row.

    A score that does not vary where the values do knows nothing of them and counts as 0, not as missing.

    Args:
        least: a row with fewer members says nothing; of two the correlation is −1 or 1 whatever they are.

    Returns:
        (R,) float64, NaN where the values do not vary or the row has too few members.
    """

    def centred(x_RM: torch.Tensor) -> torch.Tensor:
        other_RMM, of_i_RMM, of_j_RMM = mask_RM[:, None, :], x_RM[:, :, None], x_RM[:, None, :]
        below_RM, equal_RM = ((x & other_RMM).sum(2).double() for x in (of_i_RMM > of_j_RMM, of_i_RMM == of_j_RMM))
        rank_RM = below_RM + 0.5 * equal_RM
        mean_R1 = (rank_RM * mask_RM).sum(1, keepdim=True) / mask_RM.sum(1, keepdim=True).clamp(min=1)
        return (rank_RM - mean_R1) * mask_RM

    x_RM, y_RM = centred(scores_RM), centred(values_RM)
    spread_R, known_R = x_RM.square().sum(1), y_RM.square().sum(1)
    rho_R = (x_RM * y_RM).sum(1) / (spread_R * known_R).sqrt()
    rho_R = torch.where(spread_R > 0, rho_R, 0.0)
    return torch.where((known_R > 0) & (mask_RM.sum(1) >= least), rho_R, math.nan)


def sibling_wins(
    scores_RM: torch.Tensor, values_RM: torch.Tensor, mask_RM: torch.Tensor, *, margin: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of actions at one state whose values differ by more than a margin, and those in which the better one has the higher score.

        accuracy = Σ_{pairs} (1[q_a > q_b] + ½ 1[q_a = q_b]) / pairs,   pairs: Q(s, a) − Q(s, b) > margin

    Args:
        scores_RM, values_RM: the different actions of each state.

    Returns:
        wins_R, pairs_R, float64.

    >>> row = lambda *x: torch.tensor([x])
    >>> sibling_wins(row(0.9, 0.5, 0.5), row(1.0, 0.0, 0.6), row(True, True, True), margin=0.5)
    (tensor([1.5000], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    q_RM, value_RM = (torch.where(mask_RM, x.double(), 0.0) for x in (scores_RM, values_RM))
    pair_RMM = mask_RM[:, :, None] & mask_RM[:, None, :] & (value_RM[:, :, None] - value_RM[:, None, :] > margin)
    gap_RMM = q_RM[:, :, None] - q_RM[:, None, :]
    wins_RMM = ((gap_RMM > 0).double() + 0.5 * (gap_RMM == 0)) * pair_RMM
    return wins_RMM.sum((1, 2)), pair_RMM.sum((1, 2)).double()


@dataclass(frozen=True)
class FirstFatal:
    """Episodes, and how many of them were answered rightly: `failed` have a fatal turn, `sound` have none."""

    failed: int
    failed_right: int
    sound: int
    sound_right: int

    @property
    def f1(self) -> float:
        """Harmonic mean of both accuracies; NaN where one kind is missing."""
        return float(harmonic_mean(*(torch.tensor(float(x)) for x in (self.failed_right, self.failed, self.sound_right, self.sound))))


def harmonic_mean(right_a: torch.Tensor, of_a: torch.Tensor, right_b: torch.Tensor, of_b: torch.Tensor) -> torch.Tensor:
    """2ab / (a + b) of the accuracies a and b, 0 where both are 0, NaN where one is of nothing."""
    a, b = right_a / of_a, right_b / of_b
    return torch.where(a + b > 0, 2 * a * b / (a + b), a + b)


def first_fatal(scores_BK: torch.Tensor, mask_BK: torch.Tensor, threshold_B: torch.Tensor | float) -> torch.Tensor:
    """The first turn whose score is below the threshold: (B,) int64, −1 where there is none (as ProcessBench reads a PRM, arXiv 2412.06559)."""
    if isinstance(threshold_B, torch.Tensor):
        threshold_B = threshold_B[:, None]
    below_BK = mask_BK & (scores_BK.double() < threshold_B)
    return torch.where(below_BK.any(1), below_BK.int().argmax(1), -1)


def first_fatal_correct(
    scores_BK: torch.Tensor, mask_BK: torch.Tensor, fatal_B: torch.Tensor, threshold_B: torch.Tensor | float
) -> tuple[torch.Tensor, FirstFatal]:
    """Whether the first fatal turn of each episode is found, or its absence.

    Args:
        fatal_B: int64, −1 where no turn is fatal.
        threshold_B: one for all, or one an episode.

    Returns:
        right_B bool, and the counts.
    """
    right_B = first_fatal(scores_BK, mask_BK, threshold_B) == fatal_B
    failed_B = fatal_B >= 0
    counts = (failed_B.sum(), (right_B & failed_B).sum(), (~failed_B).sum(), (right_B & ~failed_B).sum())
    return right_B, FirstFatal(*(int(c) for c in counts))


def best_threshold(scores_BK: torch.Tensor, mask_BK: torch.Tensor, fatal_B: torch.Tensor) -> float:
    """The threshold with the highest F1 of `first_fatal_correct`, exactly, over all thresholds.

    With m_t = min_{j≤t} q_j, a turn f is found by every threshold in (m_f, m_{f−1}], and no turn by those up to the last m. So F1 is constant
    between neighbouring ends of these windows; of equal stretches the lowest is taken, and its middle.

    Returns:
        NaN where one kind of episodes is missing.
    """
    failed_B = fatal_B >= 0
    if not bool(failed_B.any()) or bool(failed_B.all()):
        return math.nan
    lowest_BK = torch.where(mask_BK, scores_BK.double(), math.inf).cummin(1).values
    at_B = fatal_B.clamp(min=0)[:, None]
    before_BK = torch.cat([torch.full_like(lowest_BK[:, :1], math.inf), lowest_BK[:, :-1]], dim=1)
    low_B = torch.where(failed_B, lowest_BK.gather(1, at_B)[:, 0], -math.inf)
    high_B = torch.where(failed_B, before_BK.gather(1, at_B)[:, 0], lowest_BK[:, -1])
    ends = torch.cat([low_B, high_B])
    ends_E = ends[ends.isfinite()].unique()
    middles_E = torch.cat([ends_E[:1] - 1, (ends_E[:-1] + ends_E[1:]) / 2, ends_E[-1:] + 1])

    def right(kind_B: torch.Tensor) -> torch.Tensor:
        some_B = kind_B & (low_B < high_B)
        begun_E, over_E = (torch.searchsorted(x_B[some_B].sort().values, middles_E) for x_B in (low_B, high_B))
        return (begun_E - over_E).double()

    f1_E = harmonic_mean(right(failed_B), failed_B.sum(), right(~failed_B), (~failed_B).sum())
    return float(middles_E[int(f1_E.argmax())])
