"""A turn, and the span of it with the one before: the Hierarchical Reward Model, with node compression as augmentation."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from ...data.episode import Episode, Turn
from ..dataset import Labels
from ..objective import TurnRegression
from ..scoring import ScalarPRM
from . import LABELLED
from .losses import regression_problems


class HierarchicalPRM(ScalarPRM):
    """A scalar PRM trained on two levels (registry entry `hierarchical`; HRM, Wang et al., arXiv 2503.13551).

        L = the loss of the turns (a_t)  and  of the spans (a_{t−1} a_t) as one turn, whose label is that of a_t

    A span that begins badly and mends itself is so trained as good. Scores are of single turns, as in the paper.
    """

    @staticmethod
    def objective(train: Sequence[Episode], args: Any, labels: Labels | None) -> TurnRegression:
        episodes, labels = with_spans(train, labels, copies=args.prm.compressed_copies, seed=args.train.seed)
        return TurnRegression(episodes, args, labels)

    @staticmethod
    def problems(args: Any) -> list[str]:
        copies = args.prm.compressed_copies
        told = [] if copies >= 1 else [f"--prm.compressed_copies is {copies}; wanted 1 or more (without copies this is --prm.name scalar)"]
        return told + regression_problems(args)

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        return (*LABELLED, "prm.compressed_copies")


def with_spans(
    episodes: Sequence[Episode], labels: Labels | None, *, copies: int, seed: int
) -> tuple[list[Episode], dict[str, tuple[Sequence[float], Sequence[float]]] | None]:
    """The episodes, and of each one `copies` copies with one span compressed, every copy with another span where there are so many.

    Returns:
        episodes, and labels with those of the copies.
    """
    found = list(episodes)
    labelled = None if labels is None else {e.episode_id: labels[e.episode_id] for e in episodes}
    for episode in episodes:
        spans = range(1, len(episode.turns))
        for turn in random.Random(f"{seed} {episode.episode_id}").sample(spans, min(copies, len(spans))):
            copy = compressed(episode, turn)
            if labelled is not None:
                targets, weights = labelled[episode.episode_id]
                kept = [*targets[: turn - 1], *targets[turn:]], [*weights[: turn - 1], *weights[turn:]]
                if all(math.isnan(target) for target in kept[0]):
                    continue
                labelled[copy.episode_id] = kept
            found.append(copy)
    return found, labelled


def compressed(episode: Episode, turn: int) -> Episode:
    """A copy in which an action and the one before are one turn: what stands between them (the observation) is cut out.

    Args:
        turn: the second of the two, 1 or more.
    """
    first, second = episode.turns[turn - 1 : turn + 1]
    cut = second.action_start - first.action_end
    span = Turn(
        first.observation,
        f"{first.action}\n{second.action}",
        first.action_start,
        second.action_end - cut,
        first.reward + second.reward,
        first.valid_action and second.valid_action,
    )
    later = [replace(t, action_start=t.action_start - cut, action_end=t.action_end - cut) for t in episode.turns[turn + 1 :]]
    keep = [*range(first.action_end), *range(second.action_start, len(episode.token_ids))]
    return replace(
        episode,
        episode_id=f"{episode.episode_id}/{turn}",
        turns=[*episode.turns[: turn - 1], span, *later],
        token_ids=[episode.token_ids[i] for i in keep],
        logprobs=[episode.logprobs[i] for i in keep] if episode.logprobs else [],
    )
