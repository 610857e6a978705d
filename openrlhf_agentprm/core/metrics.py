"""Figures of merit for scores: AUC, calibration, best-of-N, bootstrap intervals. 1-D tensors in, floats out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch


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
    choose = torch.tensor([[math.comb(a, b) for b in range(n)] for a in range(total)], dtype=torch.float64)
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
    return worth_G / math.comb(total, n)


def pass_at_n(outcomes_GN: torch.Tensor, n: int) -> torch.Tensor:
    """Probability that at least one of n samples succeeds (the oracle's best-of-n), for each group; outcomes are 0 or 1."""
    total = outcomes_GN.shape[1]
    failures = (outcomes_GN <= 0).sum(1).tolist()
    return torch.tensor([1 - math.comb(f, n) / math.comb(total, n) for f in failures], dtype=torch.float64)


def bootstrap_interval(
    values_G: torch.Tensor,
    *,
    statistic: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows.mean(1),
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval over groups (tasks), the unit that was sampled.

    Args:
        values_G: one number a task.
        statistic: (resamples, G) to (resamples,).
    """
    if len(values_G) < 2:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(values_G), (resamples, len(values_G)), generator=generator)
    found = statistic(values_G.double()[index])
    tail = (1 - level) / 2
    return float(found.quantile(tail)), float(found.quantile(1 - tail))
