"""Completions: episodes played on from the states of a store, kept in a store of their own.

States that are equal share their completions, and so do label methods that are given the same store of completions. A completion is an episode
like any other, its first turns those that led to the state, so it can be shown, exported and trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from ..core.errors import UserError
from ..data.episode import Episode
from ..data.store import EpisodeStore
from ..rollout.builder import Assignment
from ..rollout.prefix import Prefix, prefix_of
from .states import state_keys


@dataclass(frozen=True)
class State:
    """A state of a store, from which the episode that met it first went on.

    Args:
        key: the same for equal states.
        episode: who met it first.
        turns: how many of its turns led here; 0 is its start.
    """

    key: str
    episode: Episode = field(repr=False, compare=False)
    turns: int = field(compare=False)

    @property
    def position(self) -> int:
        """Tokens before it; those behind it are sampled."""
        return self.episode.turns[self.turns].action_start

    @property
    def prefix(self) -> Prefix:
        return prefix_of(self.episode, self.turns)


class Complete(Protocol):
    """Plays N completions of each state: the outcomes of those that have one, by the state's key."""

    def __call__(self, states: Sequence[State], samples: int) -> dict[str, list[float]]: ...

    @property
    def cost(self) -> dict[str, float]:
        """Of all that was asked for so far, whichever process played it: completions, sampled_tokens, environment_steps; completion_seconds."""


@dataclass
class StoreStates:
    """The states of a store.

    `paths` has each episode with its states in order: its start, then behind each turn but the last, which ends it.
    """

    paths: list[tuple[Episode, list[State]]]

    @classmethod
    def of(cls, store: EpisodeStore) -> StoreStates:
        """Of the episodes with an outcome, in the order of their ids.

        Raises:
            UserError: there is none.
        """
        known: dict[str, State] = {}
        paths = []
        for episode in sorted(store.episodes(), key=lambda e: e.episode_id):
            if not (episode.status.has_outcome and episode.turns):
                continue
            starts = [turn.action_start for turn in episode.turns]
            keys = state_keys(np.asarray(episode.token_ids, dtype=np.int32), starts, episode.env, episode.task_id)
            states = [known.setdefault(key.hex(), State(key.hex(), episode, turns)) for turns, key in enumerate(keys)]
            paths.append((episode, states))
        if not paths:
            raise UserError(f"the store {store.path} holds no episode with an outcome, so there is nothing to label")
        return cls(paths)

    def distinct(self, *, starts: bool) -> list[State]:
        """Every state once; episodes' starts only if asked for."""
        return list({s.key: s for _, states in self.paths for s in states if starts or s.turns}.values())


def outcomes_table(outcomes: Mapping[str, Sequence[float]], states: Sequence[State], samples: int) -> torch.Tensor:
    """Outcomes as (S, N) float64, NaN where there is none."""
    table = torch.full((len(states), samples), torch.nan, dtype=torch.float64)
    for row, state in enumerate(states):
        known = outcomes.get(state.key, [])
        table[row, : len(known)] = torch.tensor(known, dtype=torch.float64)
    return table


def assignments(
    states: Iterable[State], samples: int, *, policy: str, policy_digest: str, sampling: Mapping[str, Any], seed: int
) -> Iterator[tuple[State, Assignment]]:
    """N completions of each state: its environment's seed is that of the episode, since only then does a replay lead back to it."""
    for state in states:
        e = state.episode
        how = {**sampling, "from": state.key, "sampler_seed": seed}
        prefix = state.prefix if state.turns else None  # one for all samples: they are long
        for sample in range(samples):
            who = (e.env, e.task_id, e.split, e.seed, sample, policy, policy_digest, how, e.iteration)
            yield state, Assignment(*who, prefix)
