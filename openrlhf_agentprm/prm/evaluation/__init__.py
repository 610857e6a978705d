"""Samples of tasks, ways to choose one of them, and what each way is worth.

Where failures are long and successes short, any score that grows or shrinks with length looks good in best-of-N. So the choices that know the
length alone stand beside every PRM; `quality` and `verdict` say what it knows beyond them.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ...core import metrics
from ...core.logistic import fit_logistic, with_one
from ...data.episode import Episode

LENGTH_ONLY = ("fewest turns", "most turns", "length regression")
MAJORITY_KEYS = ("last_action", "actions", "final_observation")


@dataclass
class SampleGrid:
    """Episodes of T tasks with N samples each, broken ones dropped; tasks that lost one have fewer and are cut to the common N.

    `episodes` is flat, task by task; `outcomes_GN` the same as a table. Where `episodes` are in steps, `played` are the same in whole responses.
    """

    tasks: list[str]
    episodes: list[Episode]
    outcomes_GN: torch.Tensor
    played: list[Episode] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return self.outcomes_GN.shape[1]

    @cached_property
    def success_GN(self) -> torch.Tensor:
        return self.outcomes_GN > 0.5

    @cached_property
    def lengths_GN(self) -> torch.Tensor:
        return torch.tensor([len(e.turns) for e in self.episodes]).view(self.outcomes_GN.shape)

    @cached_property
    def sampled_tokens_GN(self) -> torch.Tensor:
        tokens = [float(sum(turn.action_end - turn.action_start for turn in e.turns)) for e in self.episodes]
        return torch.tensor(tokens, dtype=torch.float64).view(self.outcomes_GN.shape)

    @cached_property
    def second_half_G(self) -> torch.Tensor:
        """Two halves of the tasks by the order of their ids' digests, so that what is fitted on one is judged on the other."""
        order = sorted(range(len(self.tasks)), key=lambda g: hashlib.blake2b(self.tasks[g].encode()).digest())
        half = torch.zeros(len(self.tasks), dtype=torch.bool)
        half[order[len(order) // 2 :]] = True
        return half

    def table(self, values: Sequence[float] | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float64).view(self.outcomes_GN.shape)


def pad_turns(scores: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K) float64, NaN behind an episode's turns, with the mask of those that are."""
    padded_BK = torch.nn.utils.rnn.pad_sequence([s.double() for s in scores], batch_first=True, padding_value=math.nan)
    lengths_B = torch.tensor([len(s) for s in scores])
    return padded_BK, torch.arange(padded_BK.shape[1]) < lengths_B[:, None]


def score_problems(name: str, grid: SampleGrid, scores: Sequence[torch.Tensor], told: int = 5) -> list[str]:
    """Scores that are no numbers, by episode and turn."""
    bad = [
        f"episode {episode.episode_id} (task {episode.task_id}), turn {turn}: {float(q)}"
        for episode, q_K in zip(grid.episodes, scores, strict=True)
        for turn, q in enumerate(q_K, 1)
        if not math.isfinite(q)
    ]
    more = f"; and {len(bad) - told} more" if len(bad) > told else ""
    return [f"the PRM {name!r} gives scores that are no numbers: {'; '.join(bad[:told])}{more}"] if bad else []


def grid_problems(grid: SampleGrid, dataset: str, samples: int | None) -> list[str]:
    """Why nothing could be told from these episodes."""
    if not grid.tasks:
        return [f"{dataset} holds no task with {samples or 'any'} episodes that have an outcome"]
    problems = []
    if grid.samples < 2:
        problems.append(
            f"{dataset} gives one sample a task, among which there is nothing to choose; collect with --collect.n_samples_per_task 8 or more"
        )
    if len(grid.tasks) < 2:
        problems.append(f"{dataset} holds one task; wanted 2 or more (hundreds for narrow intervals), as intervals are over tasks")
    mixed = grid.success_GN.any(1) & ~grid.success_GN.all(1)
    if grid.samples > 1 and not bool(mixed.any()):
        solved = int(grid.success_GN.all(1).sum())
        problems.append(
            f"no task of {dataset} has both a success and a failure ({solved} of {len(grid.tasks)} are always solved, the rest never), so no "
            "score can tell them apart; collect more samples a task, at a higher temperature, or on tasks of another difficulty"
        )
    return problems


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


def with_interval(values_G: torch.Tensor, *, level: float = 0.95) -> dict[str, float]:
    """Mean over tasks with its bootstrap interval."""
    low, high = metrics.bootstrap_interval(values_G, level=level)
    return {"mean": float(values_G.double().mean()), "low": low, "high": high}


def baseline_curves(grid: SampleGrid, sizes: Sequence[int]) -> dict[str, dict[int, torch.Tensor]]:
    """Expected success, (tasks,) for each N, of a random one of N samples and of the oracle's choice."""
    return {
        "random": {n: grid.outcomes_GN.mean(1) for n in sizes},
        "oracle": {n: metrics.pass_at_n(grid.outcomes_GN, n) for n in sizes},
    }


def choice_curves(
    grid: SampleGrid, scores: Mapping[str, Sequence[float] | torch.Tensor], sizes: Sequence[int], *, margin: float = 0.0
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


def free_scores(grid: SampleGrid) -> dict[str, torch.Tensor]:
    """Ways of choosing that need no PRM: by length alone, and the policy's own log-probability a turn."""
    turns = grid.lengths_GN.double()
    logprobs = grid.table([sum(e.logprobs) for e in grid.episodes])
    return {
        "fewest turns": -turns,
        "most turns": turns,
        "length regression": length_regression(grid),
        "log-probability per turn": logprobs / turns,
    }


def length_regression(grid: SampleGrid) -> torch.Tensor:
    """What the length alone says of success: logistic regression on turns, sampled tokens and their squares.

    Each half of the tasks is judged by what was fitted on the other, (G, N).
    """
    turns_B, tokens_B = grid.lengths_GN.double().flatten(), grid.sampled_tokens_GN.flatten()
    x_BF = torch.stack([turns_B, turns_B.square(), tokens_B, tokens_B.square()], dim=1)
    second_B = grid.second_half_G.repeat_interleave(grid.samples)
    success_B = torch.zeros(len(x_BF), dtype=torch.float64)
    for half_B in (second_B, ~second_B):
        mean_F, scale_F = x_BF[~half_B].mean(0), x_BF[~half_B].std(0, correction=0)
        z_BF = (x_BF - mean_F) / torch.where(scale_F > 0, scale_F, 1.0)
        w_F = fit_logistic(z_BF[~half_B], grid.outcomes_GN.flatten().clamp(0, 1)[~half_B])
        success_B[half_B] = (with_one(z_BF) @ w_F).sigmoid()[half_B]
    return grid.table(success_B.round(decimals=9))  # equal lengths are equal scores


def free_quality(grid: SampleGrid, scores: Mapping[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """AUC of each way of choosing that needs no PRM, over all episodes and between samples of one task."""
    found = {}
    for name, table_GN in scores.items():
        wins_G, pairs_G = metrics.pair_wins(table_GN, grid.success_GN, torch.ones_like(grid.success_GN))
        within = (wins_G / pairs_G)[pairs_G > 0]
        overall = metrics.auc(table_GN.flatten(), grid.success_GN.flatten())
        found[name] = {"auc": overall, "auc_within_task": float(within.mean()) if len(within) else math.nan, "tasks": len(within)}
    return found


def majority_curves(
    grid: SampleGrid, scores: Mapping[str, torch.Tensor], sizes: Sequence[int], key: str
) -> dict[str, dict[int, torch.Tensor]]:
    """Expected success of a weighted vote of N samples, (tasks,) for each way of scoring and each N.

    Args:
        key: what makes two samples of a task the same answer: one of `MAJORITY_KEYS`.
    """
    answer = {
        "last_action": lambda e: e.turns[-1].action.strip(),
        "actions": lambda e: tuple(turn.action.strip() for turn in e.turns),
        "final_observation": lambda e: e.final_observation.strip(),
    }[key]
    number: dict[tuple[str, Any], int] = {}
    own = []
    for g, task in enumerate(grid.tasks):
        answers = [answer(e) for e in (grid.played or grid.episodes)[g * grid.samples : (g + 1) * grid.samples]]
        first = list(dict.fromkeys(answers))
        number |= {(task, one): place for place, one in enumerate(first)}
        own.append([number[task, one] for one in answers])
    keys_GN = torch.tensor(own)
    return {
        name: {n: metrics.weighted_majority(table_GN, keys_GN, grid.outcomes_GN, n) for n in sizes} for name, table_GN in scores.items()
    }


def length_leak(grid: SampleGrid) -> dict[str, float]:
    """How much the number of turns alone tells: AUC of "fewer turns" between samples of one task; 0.5 is nothing."""
    found = free_quality(grid, {"turns": -grid.lengths_GN.double()})["turns"]
    return {"auc_within_task": found["auc_within_task"], "tasks": found["tasks"]}


def clean(value: Any) -> Any:
    """JSON without NaN: None in its place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    return value
