"""What a PRM knows, measured so that episode length cannot give it away.

Where failures are long and successes short, any score that grows or shrinks with length looks good in best-of-N. So a PRM is judged between
samples of one task: at a fixed turn among episodes that go on behind it, and on the last turn among episodes of one length.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import metrics
from ..data.episode import Episode

_MIN_ALIVE = 0.05  # turns that fewer of the episodes reach are not reported


@dataclass
class SampleGrid:
    """Episodes of T tasks with N samples each, broken ones dropped; tasks that lost one have fewer and are cut to the common N.

    `episodes` is flat, task by task; `outcomes_GN` the same as a table.
    """

    tasks: list[str]
    episodes: list[Episode]
    outcomes_GN: torch.Tensor

    @property
    def samples(self) -> int:
        return self.outcomes_GN.shape[1]

    def table(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).view(self.outcomes_GN.shape)


def sample_grid(episodes: Sequence[Episode], samples: int | None = None) -> SampleGrid:
    """Group by task; N is the given number, or the largest that at least 95 % of the tasks have."""
    by_task: dict[str, list[Episode]] = defaultdict(list)
    for episode in sorted(episodes, key=lambda e: e.sample):
        if episode.status.has_outcome and episode.turns:
            by_task[episode.task_id].append(episode)
    counts = sorted(len(found) for found in by_task.values())
    width = samples or (counts[int(len(counts) * 0.05)] if counts else 0)
    tasks = sorted(task for task, found in by_task.items() if len(found) >= width)
    flat = [episode for task in tasks for episode in by_task[task][:width]]
    return SampleGrid(tasks, flat, torch.tensor([e.outcome for e in flat], dtype=torch.float64).view(len(tasks), width))


def with_interval(values_G: torch.Tensor) -> dict[str, float]:
    """Mean over tasks with its 95 % bootstrap interval."""
    low, high = metrics.bootstrap_interval(values_G)
    return {"mean": float(values_G.double().mean()), "low": low, "high": high}


def baseline_curves(grid: SampleGrid, sizes: Sequence[int]) -> dict[str, dict[int, torch.Tensor]]:
    """Expected success, (tasks,) for each N, of a random one of N samples and of the oracle's choice."""
    return {
        "random": {n: grid.outcomes_GN.mean(1) for n in sizes},
        "oracle": {n: metrics.pass_at_n(grid.outcomes_GN, n) for n in sizes},
    }


def choice_curves(
    grid: SampleGrid, scores: Mapping[str, Sequence[float]], sizes: Sequence[int], *, margin: float = 0.0
) -> dict[str, dict[int, torch.Tensor]]:
    """Expected success of choosing the best of N samples, (tasks,) for each way of scoring and each N.

    Differences between two ways are to be taken task by task.

    Args:
        margin: scores at most this far below the highest count as equal to it.
    """
    tables = {name: grid.table(values) for name, values in scores.items()}
    return {name: {n: metrics.best_of_n(table, grid.outcomes_GN, n, margin=margin) for n in sizes} for name, table in tables.items()}


def means(curves: Mapping[str, Mapping[int, torch.Tensor]]) -> dict[str, dict[int, dict[str, float]]]:
    """Each curve's mean over tasks with its interval."""
    return {name: {n: with_interval(values_G) for n, values_G in curve.items()} for name, curve in curves.items()}


def by_task(curves: Mapping[str, Mapping[int, torch.Tensor]]) -> dict[str, dict[int, list[float]]]:
    """Each curve task by task, to pair it with another."""
    return {name: {n: [round(v, 5) for v in values_G.tolist()] for n, values_G in curve.items()} for name, curve in curves.items()}


def free_scores(grid: SampleGrid) -> dict[str, list[float]]:
    """Ways of choosing that need no PRM: the fewest turns, the most, and the policy's own log-probability a turn."""
    return {
        "fewest turns": [-float(len(e.turns)) for e in grid.episodes],
        "most turns": [float(len(e.turns)) for e in grid.episodes],
        "log-probability per turn": [sum(e.logprobs) / max(1, len(e.turns)) for e in grid.episodes],
    }


def prm_quality(grid: SampleGrid, scores: Sequence[torch.Tensor]) -> dict[str, Any]:
    """AUC by turn and at the end, between samples of one task; calibration.

    Args:
        scores: q_K of each episode of the grid.
    """
    success = torch.tensor([e.outcome > 0.5 for e in grid.episodes])
    lengths = torch.tensor([len(e.turns) for e in grid.episodes])
    tasks = [e.task_id for e in grid.episodes]
    last = torch.tensor([float(s[-1]) for s in scores])
    equal_length = [(task, int(n)) for task, n in zip(tasks, lengths, strict=True)]
    within, groups = metrics.auc_within(last, success, tasks)
    same, same_groups = metrics.auc_within(last, success, equal_length)
    ece, bins = metrics.calibration(last, success)
    return {
        "by_turn": _by_turn(scores, success, lengths, tasks),
        "last": {
            "auc": metrics.auc(last, success),
            "auc_within_task": within,
            "tasks": groups,
            "auc_within_task_and_length": same,
            "task_lengths": same_groups,
            "brier": metrics.brier(last, success),
            "ece": ece,
            "calibration": bins,
        },
    }


def _by_turn(scores: Sequence[torch.Tensor], success: torch.Tensor, lengths: torch.Tensor, tasks: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for turn in range(int(lengths.max())):
        alive = (lengths > turn + 1).nonzero().flatten().tolist()
        if len(alive) < _MIN_ALIVE * len(lengths):
            break
        q = torch.tensor([float(scores[i][turn]) for i in alive])
        y = success[alive]
        within, groups = metrics.auc_within(q, y, [tasks[i] for i in alive])
        ece, _ = metrics.calibration(q, y)
        rows.append(
            {
                "turn": turn + 1,
                "alive": len(alive),
                "auc": metrics.auc(q, y),
                "auc_within_task": within,
                "tasks": groups,
                "mean_score": float(q.mean()),
                "success": float(y.double().mean()),
                "ece": ece,
            }
        )
    return rows


def length_leak(grid: SampleGrid) -> dict[str, float]:
    """How much the number of turns alone tells: AUC of "fewer turns" between samples of one task; 0.5 is nothing."""
    turns = torch.tensor([-float(len(e.turns)) for e in grid.episodes])
    success = torch.tensor([e.outcome > 0.5 for e in grid.episodes])
    within, groups = metrics.auc_within(turns, success, [e.task_id for e in grid.episodes])
    return {"auc_within_task": within, "tasks": groups}


def clean(value: Any) -> Any:
    """JSON without NaN: None in its place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    return value
