"""How much a PRM knows beyond length: its AUC where length cannot help, and its gain over the choices that know length alone.

A score of turn t knows nothing of later turns. So between two samples of one task that both go on behind turn t, neither the task nor the
length separates the score of the one that will succeed from that of the one that will fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...core import metrics
from . import LENGTH_ONLY, SampleGrid, pad_turns, with_interval

Curve = Mapping[int, torch.Tensor]
JUDGED_AT = 8  # samples that the gain is of, or the most below it that there are
LEVEL = 0.99  # of a verdict's intervals: several PRMs and aggregates are judged at once, and noise must not be among what knows something


def alive_auc(grid: SampleGrid, scores_BK: torch.Tensor) -> dict[str, float]:
    """AUC between samples of one task at a fixed turn among episodes that go on, pooled over turns and tasks.

        AUC = Σ_tasks Σ_t wins / Σ_tasks Σ_t pairs,   pairs of a coming success and a coming failure alive behind turn t

    The interval is the bootstrap's over tasks, which keeps a task's turns and samples together.

    Args:
        scores_BK: of the grid's episodes, what is behind their last turn may be anything.
    """
    scores_GNK = scores_BK.view(*grid.outcomes_GN.shape, -1)
    counts_G2 = torch.zeros(len(grid.tasks), 2, dtype=torch.float64)
    for turn in range(scores_GNK.shape[2]):
        alive_GN = grid.lengths_GN > turn + 1
        counts_G2 += torch.stack(metrics.pair_wins(scores_GNK[:, :, turn], grid.success_GN, alive_GN), dim=1)
    return ratio(counts_G2, level=LEVEL) | {"tasks": int((counts_G2[:, 1] > 0).sum())}


def ratio(counts_G2: torch.Tensor, *, level: float = 0.95) -> dict[str, float]:
    """Σ wins / Σ pairs with its interval over tasks."""
    wins, pairs = (float(x) for x in counts_G2.sum(0))
    low, high = metrics.bootstrap_interval(counts_G2, statistic=lambda sums_RC: sums_RC[:, 0] / sums_RC[:, 1], level=level)
    return {"mean": wins / pairs if pairs else math.nan, "low": low, "high": high, "pairs": int(pairs)}


def length_rival(curves: Mapping[str, Curve], n: int) -> str:
    """The best of the choices by length alone, found on the tasks at hand: that favours it."""
    return max(LENGTH_ONLY, key=lambda name: float(curves[name][n].mean()))


def verdict(grid: SampleGrid, scores_BK: torch.Tensor, curve: Curve, free: Mapping[str, Curve]) -> dict[str, Any]:
    """What is known of one way to score, in figures and in one sentence.

    Args:
        scores_BK: what the way gives behind each turn.
        curve: its best-of-N.
        free: best-of-N of the choices that need no PRM.
    """
    gains = {}
    for n in curve:
        rival = length_rival(free, n)
        gains[n] = with_interval(curve[n] - free[rival][n], level=LEVEL) | {"rival": rival}
    n = max(size for size in curve if size <= JUDGED_AT)
    auc = alive_auc(grid, scores_BK)
    finding = _finding(auc, gains[n])
    return {
        "finding": finding,
        "sentence": _sentence(finding, auc, gains[n], n),
        "n": n,
        "alive_auc": auc,
        "gain": gains[n],
        "gains": gains,
    }


def _finding(auc: Mapping[str, float], gain: Mapping[str, Any]) -> str:
    """Comparisons with NaN, where there is no interval, are false: what cannot be told is not known."""
    if auc["high"] < 0.5:
        return "reversed"
    ranks, gains = auc["low"] > 0.5, gain["low"] > 0
    return "beyond_length" if ranks and gains else "ranks_only" if ranks else "end_only" if gains else "nothing"


def _sentence(finding: str, auc: Mapping[str, float], gain: Mapping[str, Any], n: int) -> str:
    def between(entry: Mapping[str, Any], scale: float, form: str) -> str:
        """` [low, high]`, nothing where there is no interval."""
        ends = [scale * entry["low"], scale * entry["high"]]
        return f" [{', '.join(format(end, form) for end in ends)}]" if math.isfinite(sum(ends)) else ""

    points = f"{100 * gain['mean']:+.1f} points{between(gain, 100, '+.1f')}"
    choice = f"best of {n} by it is {points} from {gain['rival']}, the best choice by length alone"
    ranking = f"AUC {auc['mean']:.2f}{between(auc, 1, '.2f')} between samples of a task still alive"
    if not auc["pairs"]:
        ranking = "no two samples of a task, one to succeed and one to fail, go on behind a turn"
    told = {
        "beyond_length": f"knows more than length, by {points} at best of {n} over {gain['rival']}: {ranking}",
        "ranks_only": f"ranks turns beyond length ({ranking}), but gains nothing sure by it: {choice}",
        "end_only": f"knows something at the end that length does not, nothing before it: {choice}; {ranking}",
        "nothing": f"knows nothing beyond length here: {ranking}; {choice}",
        "reversed": f"ranks coming failures above coming successes: {ranking}; {choice}",
    }
    return told[finding]


def judge_aggregates(
    grid: SampleGrid, scores: Sequence[torch.Tensor], hows: Sequence[str], free: Mapping[str, Curve], *, margin: float = 0.0
) -> tuple[dict[str, Curve], dict[str, dict[str, Any]]]:
    """Best-of-N and verdict of every aggregate of turn scores.

    At turn t an aggregate is that of the turns so far.

    Returns:
        curves and verdicts by aggregate.
    """
    q_BK, mask_BK = pad_turns(scores)
    sizes = list(next(iter(free.values())))
    curves: dict[str, Curve] = {}
    verdicts = {}
    for how in hows:
        running_BK = metrics.running_aggregate(q_BK, mask_BK, how)
        table_GN = running_BK[:, -1].view(grid.outcomes_GN.shape)
        curves[how] = {n: metrics.best_of_n(table_GN, grid.outcomes_GN, n, margin=margin) for n in sizes}
        verdicts[how] = verdict(grid, running_BK, curves[how], free)
    return curves, verdicts


def best_aggregate(grid: SampleGrid, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """The aggregate with the highest best-of-N here, and what choosing it is worth on tasks that it was not chosen on.

    Each half of the tasks is played by the aggregate that is best on the other; the highest of several figures on the same tasks is too high.
    """
    n = max(size for size in next(iter(curves.values())) if size <= JUDGED_AT)
    second_G = grid.second_half_G
    worth_G = torch.zeros(len(second_G), dtype=torch.float64)
    chosen = []
    for half_G in (~second_G, second_G):
        chosen.append(max(curves, key=lambda how: float(curves[how][n][~half_G].mean())))
        worth_G[half_G] = curves[chosen[-1]][n][half_G]
    here = max(curves, key=lambda how: float(curves[how][n].mean()))
    return {"n": n, "here": here, "by_half": chosen, "cross_fitted": with_interval(worth_G)}
