"""What the scores of turns tell, by turn and by the turns that are left: AUC over all episodes and between samples of one task, calibration.

Only the AUC between samples of one task at one turn, among episodes that go on behind it, is free of length: across tasks a score may know
how hard the task is, at the end how long the episode was, and so many turns before the end too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ...core import metrics
from . import SampleGrid, pad_turns

_MIN_ALIVE = 0.05  # turns that fewer of the episodes reach are not reported


def prm_quality(grid: SampleGrid, scores: Sequence[torch.Tensor], *, probability: bool = True) -> dict[str, Any]:
    """AUC by turn, by turns left and at the end; calibration.

    Args:
        scores: q_K of each episode of the grid.
        probability: they estimate the outcome; without it no Brier score and no calibration is told, as there is nothing to compare with it.
    """
    q_BK, mask_BK = pad_turns(scores)
    success_B, lengths_B = grid.success_GN.flatten(), grid.lengths_GN.flatten()
    tasks = [e.task_id for e in grid.episodes]
    last_B = metrics.aggregate_turns(q_BK, mask_BK, "last")
    equal_length = [(task, int(n)) for task, n in zip(tasks, lengths_B, strict=True)]
    same, same_groups = metrics.auc_within(last_B, success_B, equal_length)
    every_B = torch.ones_like(success_B)
    within, groups = _within_task(grid, last_B, every_B)
    outcomes_B = grid.outcomes_GN.flatten()
    ece, bins = metrics.calibration(last_B, outcomes_B)
    found: dict[str, Any] = {
        "by_turn": _by_turn(grid, q_BK, lengths_B),
        "by_turns_left": _by_turns_left(grid, q_BK, lengths_B),
        "last": {
            "auc": metrics.auc(last_B, success_B),
            "auc_within_task": within,
            "tasks": groups,
            "auc_within_task_and_length": same,
            "task_lengths": same_groups,
            "brier": metrics.brier(last_B, outcomes_B),
            "ece": ece,
            "calibration": bins,
        },
    }
    if not probability:
        for row in (*found["by_turn"], *found["by_turns_left"], found["last"]):
            row |= {"brier": math.nan, "ece": math.nan}
        found["last"]["calibration"] = []
    return found


def _by_turn(grid: SampleGrid, q_BK: torch.Tensor, lengths_B: torch.Tensor) -> list[dict[str, Any]]:
    """Among the episodes that go on behind turn t."""
    rows = []
    for turn in range(q_BK.shape[1]):
        alive_B = lengths_B > turn + 1
        if int(alive_B.sum()) < max(1, _MIN_ALIVE * len(lengths_B)):
            break
        rows.append({"turn": turn + 1, "alive": int(alive_B.sum())} | _figures(grid, q_BK[:, turn], alive_B))
    return rows


def _by_turns_left(grid: SampleGrid, q_BK: torch.Tensor, lengths_B: torch.Tensor) -> list[dict[str, Any]]:
    """So many turns before the last, which has 0 left. Episodes of unlike length are at unlike turns there."""
    rows = []
    for left in range(q_BK.shape[1]):
        there_B = lengths_B > left
        if int(there_B.sum()) < max(1, _MIN_ALIVE * len(lengths_B)):
            break
        q_B = q_BK.gather(1, (lengths_B - 1 - left).clamp(min=0)[:, None])[:, 0]
        same, groups = _within_task(grid, q_B, there_B, alike=grid.lengths_GN)
        row = {"turns_left": left, "episodes": int(there_B.sum())} | _figures(grid, q_B, there_B)
        rows.append(row | {"auc_within_task_equal_length": same, "tasks_equal_length": groups})
    return rows


def _figures(grid: SampleGrid, q_B: torch.Tensor, there_B: torch.Tensor) -> dict[str, Any]:
    q, y, r = q_B[there_B], grid.success_GN.flatten()[there_B], grid.outcomes_GN.flatten()[there_B]
    within, groups = _within_task(grid, q_B, there_B)
    return {
        "auc": metrics.auc(q, y),
        "auc_within_task": within,
        "tasks": groups,
        "mean_score": float(q.mean()),
        "success": float(y.double().mean()),
        "brier": metrics.brier(q, r),
        "ece": metrics.calibration(q, r)[0],
    }


def _within_task(grid: SampleGrid, q_B: torch.Tensor, there_B: torch.Tensor, alike: torch.Tensor | None = None) -> tuple[float, int]:
    """Mean over tasks of the AUC inside each, over tasks that hold both classes; with their number."""
    shape = grid.outcomes_GN.shape
    wins_G, pairs_G = metrics.pair_wins(q_B.view(shape), grid.success_GN, there_B.view(shape), alike)
    found_G = (wins_G / pairs_G)[pairs_G > 0]
    return (float(found_G.mean()) if len(found_G) else math.nan), len(found_G)
