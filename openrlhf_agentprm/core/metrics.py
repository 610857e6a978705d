"""Figures of merit for scores: AUC, calibration, aggregates of turns, best-of-N, weighted majority, bootstrap intervals.

Legend: N scores, or the N samples of each of G tasks; B episodes, K turns. Masks are bool, True = counts; what stands at masked places may be
anything.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch

AGGREGATES = ("last", "min", "mean", "product", "sum")
SUBSETS = 256  # draws of n samples that a weighted majority is averaged over where all of them are more


def running_aggregate(scores_BK: torch.Tensor, mask_BK: torch.Tensor, how: str) -> torch.Tensor:
    """One score for what an episode has done up to each turn, from the scores of its turns q_0 … q_t.

        last: q_t    min: min_j q_j    mean: (1/(t+1)) Σ_j q_j    product: Π_j clamp(q_j, 0, 1)    sum: Σ_j q_j

    Each is read causally, so the score at t knows nothing of later turns. `sum` grows with the turns and `product` falls with them: both hold
    the episode's length. `min` is how maths PRMs are read (arXiv 2312.08935), `product` the probability that no step fails (arXiv 2305.20050).

    Args:
        scores_BK: any float type.
        how: one of `AGGREGATES`.

    Returns:
        (B, K) float64; at a masked place what stood before it, NaN before the first turn.
    """
    q_BK = scores_BK.double()
    count_BK = mask_BK.cumsum(1)
    if how == "last":
        places_BK = torch.where(mask_BK, torch.arange(q_BK.shape[1]), 0).cummax(1).values
        found_BK = q_BK.gather(1, places_BK)
    elif how == "min":
        found_BK = torch.where(mask_BK, q_BK, math.inf).cummin(1).values
    elif how == "product":
        found_BK = torch.where(mask_BK, q_BK.clamp(0, 1), 1.0).cumprod(1)
    elif how in ("sum", "mean"):
        found_BK = torch.where(mask_BK, q_BK, 0.0).cumsum(1)
        found_BK = found_BK / count_BK.clamp(min=1) if how == "mean" else found_BK
    else:
        raise ValueError(f"how is {how!r}; wanted one of {', '.join(AGGREGATES)}")
    return torch.where(count_BK > 0, found_BK, math.nan)


def aggregate_turns(scores_BK: torch.Tensor, mask_BK: torch.Tensor, how: str) -> torch.Tensor:
    """One score an episode: `running_aggregate` behind its last turn, (B,) float64, NaN without a turn.

    >>> q, m = torch.tensor([[0.5, 0.2, 0.4]]), torch.ones(1, 3, dtype=torch.bool)
    >>> [round(float(aggregate_turns(q, m, how)), 4) for how in AGGREGATES]
    [0.4, 0.2, 0.3667, 0.04, 1.1]
    """
    return running_aggregate(scores_BK, mask_BK, how)[:, -1]


def auc(scores_N: torch.Tensor, labels_N: torch.Tensor) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal); NaN where one class is missing.

    >>> auc(torch.tensor([0.1, 0.4, 0.35]), torch.tensor([False, True, True]))
    1.0
    """
    positive, negative = scores_N[labels_N.bool()], scores_N[~labels_N.bool()]
    if not len(positive) or not len(negative):
        return math.nan
    ordered = negative.double().sort().values
    below = torch.searchsorted(ordered, positive.double(), right=False).double()
    not_above = torch.searchsorted(ordered, positive.double(), right=True).double()
    return float(((below + not_above) / 2).mean() / len(negative))


def auc_within(scores_N: torch.Tensor, labels_N: torch.Tensor, groups_N: Sequence[object]) -> tuple[float, int]:
    """Mean over groups of the AUC inside each, over groups that hold both classes; with their number."""
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups_N):
        members.setdefault(group, []).append(index)
    found = [auc(scores_N[m], labels_N[m]) for m in (torch.tensor(ids) for ids in members.values())]
    found = [value for value in found if not math.isnan(value)]
    return (sum(found) / len(found) if found else math.nan), len(found)


def pair_wins(
    scores_GN: torch.Tensor, positive_GN: torch.Tensor, mask_GN: torch.Tensor, alike_GN: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of a positive and a negative of one group in which the positive has the higher score, an equal score counting half.

    wins_G / pairs_G is the AUC inside each group, Σ wins / Σ pairs the AUC pooled over groups.

    Args:
        alike_GN: only pairs that agree on it count, such as on the number of turns.

    Returns:
        wins_G, pairs_G, float64.

    >>> pair_wins(torch.tensor([[0.9, 0.1, 0.9]]), torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool))
    (tensor([1.5000], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    pair_GNN = (positive_GN & mask_GN)[:, :, None] & (~positive_GN & mask_GN)[:, None, :]
    if alike_GN is not None:
        pair_GNN &= alike_GN[:, :, None] == alike_GN[:, None, :]
    of_i_GNN, of_j_GNN = scores_GN[:, :, None], scores_GN[:, None, :]
    higher_G, equal_G = (((x & pair_GNN).flatten(1).sum(1).double()) for x in (of_i_GNN > of_j_GNN, of_i_GNN == of_j_GNN))
    return higher_G + 0.5 * equal_G, pair_GNN.flatten(1).sum(1).double()


def brier(scores_N: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Mean squared distance between score and outcome."""
    return float((scores_N.double() - labels_N.double()).square().mean()) if len(scores_N) else math.nan


def calibration(scores_N: torch.Tensor, labels_N: torch.Tensor, bins: int = 10) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error over equal-width bins of [0, 1] (scores are clamped), and (mean score, mean label, count) a bin."""
    if not len(scores_N):
        return math.nan, []
    clamped = scores_N.double().clamp(0, 1)
    index = (clamped * bins).long().clamp(max=bins - 1)
    rows, error = [], 0.0
    for b in range(bins):
        inside = index == b
        if count := int(inside.sum()):
            score, label = float(clamped[inside].mean()), float(labels_N[inside].double().mean())
            rows.append((score, label, count))
            error += count / len(clamped) * abs(score - label)
    return error, rows


def pearson(x_N: torch.Tensor, y_N: torch.Tensor) -> float:
    """Linear correlation; NaN where either side does not vary."""
    x, y = x_N.double() - x_N.double().mean(), y_N.double() - y_N.double().mean()
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def best_of_n(scores_GN: torch.Tensor, outcomes_GN: torch.Tensor, n: int, *, margin: float = 0.0) -> torch.Tensor:
    """Expected outcome of choosing the best-scored of n samples drawn without replacement, exactly, for each group.

    Of the n, all whose score is at most `margin` below the highest are taken for equal, and one of them is chosen at random. With the samples
    sorted by falling score, sample j is the highest of C(c, k)·C(d, n−1−k) of the C(N, n) draws that hold k of its c equals behind it; d are
    further below. Such a draw is worth (y_j + k·ȳ)/(k + 1), where ȳ is the mean outcome of the c.

    Args:
        margin: 0 shares among exactly equal scores only.

    Returns:
        (G,) float64.
    """
    total = scores_GN.shape[1]
    if not 1 <= n <= total:
        raise ValueError(f"n is {n}; wanted 1 to {total}, the samples a group")
    choose = torch.tensor([[float(math.comb(a, b)) for b in range(n)] for a in range(total)], dtype=torch.float64)
    order = scores_GN.double().argsort(dim=1, descending=True, stable=True)
    s_GN, y_GN = scores_GN.double().gather(1, order), outcomes_GN.double().gather(1, order)
    worth_G = torch.zeros(len(s_GN), dtype=torch.float64)
    for j in range(total - n + 1):
        equal_GM = s_GN[:, j + 1 :] >= s_GN[:, j : j + 1] - margin
        c_G = equal_GM.sum(1)
        mean_G = (y_GN[:, j + 1 :] * equal_GM).sum(1) / c_G.clamp(min=1)
        for k in range(n):
            draws_G = choose[c_G, k] * choose[total - 1 - j - c_G, n - 1 - k]
            worth_G += draws_G * (y_GN[:, j] + k * mean_G) / (k + 1)
    return worth_G / float(math.comb(total, n))


def pass_at_n(outcomes_GN: torch.Tensor, n: int) -> torch.Tensor:
    """Expected highest outcome of n samples (the oracle's best-of-n), for each group; of outcomes 0 or 1 the probability of any success."""
    return best_of_n(outcomes_GN, outcomes_GN, n)


def weighted_majority(
    scores_GN: torch.Tensor, keys_GN: torch.Tensor, outcomes_GN: torch.Tensor, n: int, *, subsets: int = SUBSETS, seed: int = 0
) -> torch.Tensor:
    """Expected outcome of a weighted vote among n samples (self-consistency, arXiv 2203.11171, weighted by a verifier), for each group.

    The n samples vote by their key, each with max(score, 0) votes; the key with the most votes wins, and is worth the mean outcome of its
    samples among the n. Keys with equal votes share. Scores of 1 are the plain majority.

    All subsets of n of the N samples are averaged where there are at most `subsets`; else so many draws of one seed, the same for all groups.

    Args:
        keys_GN: int64 from 0, equal where two samples gave the same answer.
        subsets: 256 draws leave a standard error of at most 0.03 a group, which the mean over groups divides.

    Returns:
        (G,) float64.
    """
    groups, total = scores_GN.shape
    if not 1 <= n <= total:
        raise ValueError(f"n is {n}; wanted 1 to {total}, the samples a group")
    if math.comb(total, n) <= subsets:
        chosen_SN = torch.tensor(list(itertools.combinations(range(total), n)))
    else:
        noise = torch.rand(subsets, total, generator=torch.Generator().manual_seed(seed))
        chosen_SN = noise.argsort(1)[:, :n]
    votes_GN = scores_GN.double().clamp(min=0)
    shape = (groups, len(chosen_SN), int(keys_GN.max()) + 1)
    keys_GSN = keys_GN[:, chosen_SN]

    def by_key(values_GN: torch.Tensor) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64).scatter_add_(2, keys_GSN, values_GN[:, chosen_SN])

    votes_GSU, members_GSU, worth_GSU = (by_key(x) for x in (votes_GN, torch.ones_like(votes_GN), outcomes_GN.double()))
    votes_GSU = torch.where(members_GSU > 0, votes_GSU, -1.0)
    wins_GSU = votes_GSU >= votes_GSU.amax(2, keepdim=True) * (1 - 1e-9)  # sums of the same votes in another order
    mean_GSU = worth_GSU / members_GSU.clamp(min=1)
    return ((mean_GSU * wins_GSU).sum(2) / wins_GSU.sum(2)).mean(1)


def bootstrap_interval(
    values_G: torch.Tensor,
    *,
    statistic: Callable[[torch.Tensor], torch.Tensor] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval over groups (tasks), the unit that was sampled.

    Args:
        values_G: one number a task; or C of them, (G, C), for a statistic of their sums.
        statistic: (resamples, C), sums over the tasks of each resample, to (resamples,); where it is NaN the resample is left out. None: the mean.
    """
    groups = len(values_G)
    if groups < 2:
        return math.nan, math.nan
    sums_RC = _resampled(groups, resamples, seed) @ values_G.double().view(groups, -1)
    found = sums_RC[:, 0] / groups if statistic is None else statistic(sums_RC)
    found = found[~found.isnan()]
    if not len(found):
        return math.nan, math.nan
    tail = (1 - level) / 2
    return float(found.quantile(tail)), float(found.quantile(1 - tail))


@functools.lru_cache(maxsize=2)
def _resampled(groups: int, resamples: int, seed: int) -> torch.Tensor:
    """How often each group is in each resample, (resamples, groups) float64."""
    index = torch.randint(groups, (resamples, groups), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(resamples, groups, dtype=torch.float64).scatter_add_(1, index, torch.ones(index.shape, dtype=torch.float64))
