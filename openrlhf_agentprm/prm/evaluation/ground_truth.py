"""Turn scores against what turns are worth by Monte Carlo: rank correlation, first fatal turns, sibling actions.

The truth is a sidecar of `cli.label`: `mc_soft` (the share of completions behind a turn that succeed) or `mc_visits` (the mean outcome of the
samples that took this action in this state). A PRM's own training data must not be among it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...core import metrics
from ...core import process_metrics as pm
from ...data.states import state_keys
from ...data.steps import Delimiters
from ..steps import as_delimiters, shown
from . import SampleGrid, pad_turns, with_interval
from .verdict import ratio

METHODS = ("mc_soft", "mc_visits")
Labels = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass
class GroundTruth:
    """What the turns of a grid's episodes are worth.

    Args:
        values_BK: NaN where a turn has no label.
        fatal_B: the first turn of a failed episode from which nothing succeeds; −1 in a success without such a turn; −2 where neither can be
            said: a label before it is missing, or a success has a turn without a successful completion.
        siblings: different actions at one equal state.
    """

    grid: SampleGrid
    values_BK: torch.Tensor
    fatal_B: torch.Tensor
    siblings: Siblings

    @classmethod
    def of(cls, grid: SampleGrid, labels: Labels) -> GroundTruth:
        values = []
        for episode in grid.episodes:
            own = list(labels[episode.episode_id][0])
            values.append(torch.tensor(own + [math.nan] * (len(episode.turns) - len(own)), dtype=torch.float64))
        values_BK, mask_BK = pad_turns(values)
        return cls(grid, values_BK, _fatal(values_BK, mask_BK, grid.success_GN.flatten()), Siblings.of(grid, values_BK))


def label_problems(grid: SampleGrid, labels: Labels, about: Mapping[str, Any], folder: str, delimiters: Delimiters = ()) -> list[str]:
    """Why a sidecar is no truth about these episodes.

    Args:
        delimiters: what ends a step of the grid's episodes.
    """
    problems = []
    if about.get("method") not in METHODS:
        problems.append(
            f"{folder} holds labels of {about.get('method')!r}, which are no Monte-Carlo estimates of success (allowed: {', '.join(METHODS)})"
        )
    if (made := as_delimiters(about.get("step_delimiter", []))) != delimiters:
        problems.append(
            f"{folder} labels {shown(made)}, but the episodes are read in {shown(delimiters)}; give both the same --prm.step_delimiter"
        )
    missing = [e.episode_id for e in grid.episodes if e.episode_id not in labels]
    if missing:
        problems.append(
            f"{folder} lacks {len(missing)} of the {len(grid.episodes)} episodes, {missing[0]} first; it was made of "
            f"{about.get('dataset')!r}: label the store that --eval.dataset names, as it is now"
        )
    longer = [e.episode_id for e in grid.episodes if len(labels.get(e.episode_id, ([], []))[0]) > len(e.turns)]
    if longer:
        problems.append(
            f"{folder} labels more turns of {len(longer)} episodes than they have, of {longer[0]} first: it is of another store"
        )
    return problems


def _fatal(values_BK: torch.Tensor, mask_BK: torch.Tensor, success_B: torch.Tensor) -> torch.Tensor:
    zero_BK = mask_BK & (values_BK <= 0)
    first_B = torch.where(zero_BK.any(1), zero_BK.int().argmax(1), -1)
    unknown_before_B = ((mask_BK & values_BK.isnan()).cumsum(1).gather(1, first_B.clamp(min=0)[:, None]) > 0)[:, 0]
    failed_B = torch.where((first_B >= 0) & ~unknown_before_B, first_B, -2)
    return torch.where(success_B, torch.where(first_B >= 0, -2, -1), failed_B)


@dataclass
class Siblings:
    """Different actions at one equal state: R states with two or more labelled actions, at most M each.

    Args:
        action_P: which action each of P labelled turns took, int64; `turn_P` where it stands in a flat (B, K).
        members_RM: actions of each state, with `mask_RM`.
        value_A: of each action, the mean of its turns' labels.
        task_R: number of the state's task.
    """

    turn_P: torch.Tensor
    action_P: torch.Tensor
    value_A: torch.Tensor
    members_RM: torch.Tensor
    mask_RM: torch.Tensor
    task_R: torch.Tensor

    @classmethod
    def of(cls, grid: SampleGrid, values_BK: torch.Tensor) -> Siblings:
        known: dict[bytes, int] = {}
        states: dict[bytes, dict[int, None]] = {}
        task_of: dict[bytes, int] = {}
        turns, actions = [], []
        labelled = (~values_BK.isnan()).tolist()
        for row, episode in enumerate(grid.episodes):
            ends = [end for turn in episode.turns for end in (turn.action_start, turn.action_end)]
            keys = state_keys(np.asarray(episode.token_ids, dtype=np.int32), ends, episode.env, episode.task_id)
            for k in range(len(episode.turns)):
                if labelled[row][k]:
                    action = known.setdefault(keys[2 * k + 1], len(known))
                    states.setdefault(keys[2 * k], {})[action] = None
                    task_of[keys[2 * k]] = row // grid.samples
                    turns.append(row * values_BK.shape[1] + k)
                    actions.append(action)
        several = {state: list(found) for state, found in states.items() if len(found) > 1}
        members = torch.zeros(len(several), max((len(m) for m in several.values()), default=1), dtype=torch.long)
        mask = torch.zeros(members.shape, dtype=torch.bool)
        for place, found in enumerate(several.values()):
            members[place, : len(found)] = torch.tensor(found)
            mask[place, : len(found)] = True
        turn_P, action_P = torch.tensor(turns, dtype=torch.long), torch.tensor(actions, dtype=torch.long)
        value_A = _means(values_BK.flatten()[turn_P], action_P)
        return cls(turn_P, action_P, value_A, members, mask, torch.tensor([task_of[s] for s in several], dtype=torch.long))

    def accuracy(self, scores_BK: torch.Tensor, tasks: int, margin: float) -> dict[str, float]:
        """Pairwise accuracy, with its interval over tasks."""
        score_A = _means(scores_BK.flatten()[self.turn_P], self.action_P)
        wins_R, pairs_R = pm.sibling_wins(score_A[self.members_RM], self.value_A[self.members_RM], self.mask_RM, margin=margin)
        counts_G2 = torch.zeros(tasks, 2, dtype=torch.float64).index_add_(0, self.task_R, torch.stack([wins_R, pairs_R], dim=1))
        return ratio(counts_G2) | {"states": int((pairs_R > 0).sum()), "tasks": int((counts_G2[:, 1] > 0).sum())}


def _means(x_P: torch.Tensor, group_P: torch.Tensor) -> torch.Tensor:
    return torch.bincount(group_P, weights=x_P) / torch.bincount(group_P).clamp(min=1)


def turn_baselines(grid: SampleGrid) -> dict[str, list[torch.Tensor]]:
    """Scores of turns that need no PRM: how early the turn is, and the policy's log-probability of its action."""
    early, likely = [], []
    for episode in grid.episodes:
        early.append(-torch.arange(len(episode.turns), dtype=torch.float64))
        own = episode.logprobs or [0.0] * len(episode.token_ids)
        likely.append(torch.tensor([sum(own[turn.action_start : turn.action_end]) for turn in episode.turns], dtype=torch.float64))
    return {"turn number": early, "log-probability of the turn": likely}


def against_truth(truth: GroundTruth, scores: Sequence[torch.Tensor], *, margin: float) -> dict[str, Any]:
    """Every figure of one way to score turns.

    Args:
        margin: sibling actions whose values differ by no more are not compared.
    """
    q_BK, mask_BK = pad_turns(scores)
    return {
        "spearman": _spearman(truth, q_BK),
        "first_fatal": _first_fatal(truth, q_BK, mask_BK),
        "siblings": truth.siblings.accuracy(q_BK, len(truth.grid.tasks), margin),
    }


def _spearman(truth: GroundTruth, q_BK: torch.Tensor) -> dict[str, Any]:
    """Over all turns; and at one turn between samples of one task, the mean over turns and then over tasks."""
    known_BK = ~truth.values_BK.isnan()
    shape = (*truth.grid.outcomes_GN.shape, -1)
    q_GNK, value_GNK, known_GNK = q_BK.view(shape), truth.values_BK.view(shape), known_BK.view(shape)
    rho_KG = torch.stack([pm.spearman_rows(q_GNK[..., k], value_GNK[..., k], known_GNK[..., k]) for k in range(q_GNK.shape[2])])
    by_turn = [
        {"turn": turn, "spearman": float(rho_G[~rho_G.isnan()].mean()), "tasks": int((~rho_G.isnan()).sum())}
        for turn, rho_G in enumerate(rho_KG, 1)
        if not bool(rho_G.isnan().all())
    ]
    of_tasks = rho_KG.nanmean(0)
    of_tasks = of_tasks[~of_tasks.isnan()]
    within = with_interval(of_tasks) if len(of_tasks) else {"mean": math.nan, "low": math.nan, "high": math.nan}
    return {
        "overall": pm.spearman(q_BK[known_BK], truth.values_BK[known_BK]),
        "within_task_and_turn": within | {"tasks": len(of_tasks)},
        "by_turn": by_turn,
        "turns": int(known_BK.sum()),
    }


def _first_fatal(truth: GroundTruth, q_BK: torch.Tensor, mask_BK: torch.Tensor) -> dict[str, Any]:
    """The threshold for each half of the tasks is the best of the other."""
    grid, kept_B = truth.grid, truth.fatal_B >= -1
    second_B = grid.second_half_G.repeat_interleave(grid.samples)
    threshold_B = torch.full((len(q_BK),), math.nan, dtype=torch.float64)
    for half_B in (~second_B, second_B):
        other_B = kept_B & ~half_B
        threshold_B[half_B] = pm.best_threshold(q_BK[other_B], mask_BK[other_B], truth.fatal_B[other_B])
    kept_B &= ~threshold_B.isnan()
    right_B, counts = pm.first_fatal_correct(q_BK[kept_B], mask_BK[kept_B], truth.fatal_B[kept_B], threshold_B[kept_B])
    failed_B = truth.fatal_B[kept_B] >= 0
    task_B = torch.arange(len(grid.tasks)).repeat_interleave(grid.samples)[kept_B]
    of_each_B4 = torch.stack([right_B & failed_B, failed_B, right_B & ~failed_B, ~failed_B], dim=1).double()
    counts_G4 = torch.zeros(len(grid.tasks), 4, dtype=torch.float64).index_add_(0, task_B, of_each_B4)
    low, high = metrics.bootstrap_interval(counts_G4, statistic=lambda sums_RC: pm.harmonic_mean(*sums_RC.unbind(1)))
    return {
        "f1": counts.f1,
        "low": low,
        "high": high,
        "accuracy_failed": counts.failed_right / counts.failed if counts.failed else math.nan,
        "accuracy_sound": counts.sound_right / counts.sound if counts.sound else math.nan,
        "failed": counts.failed,
        "sound": counts.sound,
        "left_out": len(q_BK) - int(kept_B.sum()),
        "thresholds": [float(threshold_B[half_B][0]) for half_B in (~second_B, second_B)],
    }
