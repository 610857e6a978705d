"""Whole episodes of one task compared: a success scores above a failure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Sequence
from typing import Any

from ...core.errors import NothingToLearn
from ...data.episode import Episode
from ...data.pairs import Pair
from ..dataset import Labels
from ..scoring import ScalarPRM
from .ranking import Preferences


class TrajectoryPRM(ScalarPRM):
    """One number an episode, read at its last turn (registry entry `trajectory`; ARMAP, Chen et al., arXiv 2502.12130).

        L = −mean log σ( f(τ⁺) − f(τ⁻) )

    over pairs of episodes of one task of which τ⁺ ended better. Q_t is read at the end of every turn, in one pass; only the last one of an
    episode is trained, and only its order among episodes of a task.
    """

    supports: frozenset[str] = frozenset({"packing"})

    @staticmethod
    def objective(train: Sequence[Episode], args: Any, labels: Labels | None) -> Preferences:
        pairs = outcome_pairs(train, per_task=args.loss.pairs_per_task, seed=args.train.seed)
        if not pairs:
            raise NothingToLearn(
                f"none of the {len({e.task_id for e in train})} tasks has episodes of different outcomes, so there is nothing to compare; "
                "collect several samples a task (--collect.n_samples_per_task)"
            )
        return Preferences(train, args, pairs=pairs)

    @staticmethod
    def problems(args: Any) -> list[str]:
        given = args.loss.pairs_per_task
        return [] if given >= 0 else [f"--loss.pairs_per_task is {given}; wanted 1 or more, or 0 for all pairs"]

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        return ("label.shuffle_seed", "loss.pairs_per_task")

    @staticmethod
    def recorded(args: Any) -> dict[str, Any]:
        return {"values": "previous_q", "output": "linear", "value_trained": False, "scale": "order"}


def outcome_pairs(episodes: Sequence[Episode], *, per_task: int, seed: int) -> list[Pair]:
    """Pairs (better, worse) of whole episodes of one task, at their last turns, by outcome.

    Args:
        per_task: draw at most so many pairs of a task, without replacement; 0: all of them.
        seed: of the draw.
    """
    by_task: dict[str, dict[str, Episode]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task_id, {})[episode.episode_id] = episode
    found = []
    for task, of_task in sorted(by_task.items()):
        pairs = [(a, b) for a, b in itertools.permutations(of_task.values(), 2) if a.outcome > b.outcome]
        if per_task and len(pairs) > per_task:
            pairs = random.Random(f"{seed} {task}").sample(pairs, per_task)
        found += [_pair(a, b) for a, b in pairs]
    return found


def _pair(better: Episode, worse: Episode) -> Pair:
    margin = better.outcome - worse.outcome
    return Pair(better.episode_id, len(better.turns) - 1, worse.episode_id, len(worse.turns) - 1, margin, 1.0)
