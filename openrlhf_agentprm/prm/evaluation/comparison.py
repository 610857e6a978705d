"""PRMs and the choices that need none, on the same episodes, as one JSON-safe result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from ...core import metrics
from ...data.episode import Episode
from .. import evaluation as ev
from .ground_truth import GroundTruth, against_truth, turn_baselines
from .quality import prm_quality
from .verdict import LEVEL, best_aggregate, judge_aggregates, length_rival

SIZES = (1, 2, 4, 8, 16, 32, 64)
Scores = Mapping[str, Sequence[torch.Tensor]]


def compare(
    grid: ev.SampleGrid,
    scores: Scores,
    *,
    aggregates: Sequence[str] = metrics.AGGREGATES,
    margin: float = 0.0,
    majority_key: str = "last_action",
    greedy: Mapping[str, Episode] | None = None,
    no_probability: Collection[str] = (),
) -> dict[str, Any]:
    """Best-of-N beside its baselines, weighted majority, quality by turn, aggregates and verdicts.

    Args:
        scores: q_K of each of the grid's episodes, by PRM.
        aggregates: the first is the one that a PRM's best-of-N, majority and verdict are of; all stand in the table of aggregates.
        margin: best-of-N takes PRM scores at most this far below the highest for equal.
        greedy: by task.
        no_probability: PRMs whose scores do not estimate the outcome, so that nothing is said of their calibration.
    """
    sizes = [n for n in SIZES if n <= grid.samples]
    tables = ev.free_scores(grid)
    free = ev.choice_curves(grid, tables, sizes)
    curves: dict[str, Mapping[int, torch.Tensor]] = {**ev.baseline_curves(grid, sizes), **free}
    chosen: dict[str, torch.Tensor] = {}
    lowest: dict[str, Mapping[int, torch.Tensor]] = {}
    verdicts, of_aggregates = {}, {}
    for name, own in scores.items():
        by_how, judged = judge_aggregates(grid, own, aggregates, free, margin=margin)
        curves[name], verdicts[name] = by_how[aggregates[0]], {"aggregate": aggregates[0]} | judged[aggregates[0]]
        of_aggregates[name] = {
            "by": {how: {"best_of_n": ev.means({how: by_how[how]})[how]} | judged[how] for how in aggregates},
            "best": best_aggregate(grid, by_how),
        }
        chosen[name] = grid.table(metrics.aggregate_turns(*ev.pad_turns(own), aggregates[0]))
        lowest |= ev.choice_curves(grid, {name: -chosen[name]}, sizes, margin=margin)
    tokens = float(grid.sampled_tokens_GN.mean())
    result: dict[str, Any] = {
        "tasks": len(grid.tasks),
        "samples_per_task": grid.samples,
        "single_sample": ev.with_interval(grid.outcomes_GN.mean(1)),
        "mean_turns": float(grid.lengths_GN.double().mean()),
        "length_leak": ev.length_leak(grid),
        "tie_margin": margin,
        "aggregate": aggregates[0],
        "best_of_n": ev.means(curves),
        "lowest_of_n": ev.means(lowest),
        "weighted_majority": _majority(grid, chosen, sizes, majority_key),
        "tokens_per_task": {n: n * tokens for n in sizes},
        "prm_quality": {name: prm_quality(grid, own, probability=name not in no_probability) for name, own in scores.items()},
        "free_quality": ev.free_quality(grid, tables),
        "length_rival": {n: length_rival(free, n) for n in sizes},
        "aggregates": of_aggregates,
        "verdicts": verdicts,
        "task_ids": grid.tasks,
        "by_task": ev.by_task(curves),
        "lowest_by_task": ev.by_task(lowest),
    }
    if greedy is not None:
        _add_greedy(result, grid, greedy, curves)
    return result


def _majority(grid: ev.SampleGrid, chosen: Mapping[str, torch.Tensor], sizes: Sequence[int], key: str) -> dict[str, Any]:
    tables = {"majority": torch.ones_like(grid.outcomes_GN), **chosen}
    return {"key": key, "subsets": metrics.SUBSETS, "curves": ev.means(ev.majority_curves(grid, tables, sizes, key))}


def _add_greedy(
    result: dict[str, Any], grid: ev.SampleGrid, greedy: Mapping[str, Episode], curves: Mapping[str, Mapping[int, torch.Tensor]]
) -> None:
    """Greedy decoding on the tasks that it played, and each PRM's gain over it there, task by task."""
    both = [g for g, task in enumerate(grid.tasks) if task in greedy]
    outcomes_G = torch.tensor([greedy[grid.tasks[g]].outcome for g in both], dtype=torch.float64)
    tokens = [sum(turn.action_end - turn.action_start for turn in greedy[grid.tasks[g]].turns) for g in both]
    result["greedy"] = ev.with_interval(outcomes_G) | {"tasks": len(both), "tokens_per_task": sum(tokens) / len(tokens)}
    for name, verdict in result["verdicts"].items():
        verdict["over_greedy"] = ev.with_interval(curves[name][verdict["n"]][both] - outcomes_G, level=LEVEL)


def beside_truth(truth: GroundTruth, scores: Scores, about: Mapping[str, Any], folder: str, margin: float) -> dict[str, Any]:
    """Every PRM, and the turn scores that need none, against Monte-Carlo values."""
    scorers = {**turn_baselines(truth.grid), **scores}
    return {
        "labels": folder,
        "method": about["method"],
        "options": about.get("options", {}),
        "margin": margin,
        "of": {name: against_truth(truth, own, margin=margin) for name, own in scorers.items()},
    }
