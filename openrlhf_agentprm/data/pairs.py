"""Preferences made beforehand: a folder of Parquet rows, each an action that is better than another at one state, or an episode that is better than
another of its task, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..core.errors import UserError
from .sidecar import read_about, read_rows, write_rows

PAIRS_SCHEMA = pa.schema(
    [
        ("chosen_episode_id", pa.string()),
        ("chosen_turn", pa.int32()),
        ("rejected_episode_id", pa.string()),
        ("rejected_turn", pa.int32()),
        ("margin", pa.float32()),
        ("weight", pa.float32()),
    ]
)
_KIND = "pairs"
_EPISODES = "episode_pairs"
_EPISODES_SCHEMA = pa.schema([("chosen_episode_id", pa.string()), ("rejected_episode_id", pa.string()), ("margin", pa.float32())])


class Pair(NamedTuple):
    """Turn `chosen_turn` of one episode is better than turn `rejected_turn` of the other.

    Args:
        margin: by how much, in the unit of the targets that it was made of; above 0.
        weight: in the loss; 0 or more.
    """

    chosen_episode: str
    chosen_turn: int
    rejected_episode: str
    rejected_turn: int
    margin: float
    weight: float


@dataclass
class PairsSidecar:
    """Preferences between turns of a store.

    Args:
        rows: a table of `PAIRS_SCHEMA`.
        cost: what making them took beyond the store: sampled_tokens, environment_steps, seconds.
        figures: what a reader would ask of them, by name.
    """

    rows: pa.Table
    cost: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Sequence[Pair], cost: dict[str, float], figures: dict[str, Any]) -> PairsSidecar:
        columns = list(zip(*pairs, strict=True)) or [()] * len(PAIRS_SCHEMA)
        rows = pa.table([pa.array(c, type=f.type) for c, f in zip(columns, PAIRS_SCHEMA, strict=True)], schema=PAIRS_SCHEMA)
        return cls(rows, cost, figures)

    def save(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Write the pairs, then `labels.json`, which says that they are whole."""
        write_rows(folder, _KIND, self.rows, PAIRS_SCHEMA, {**about, "cost": self.cost, "figures": self.figures})


def read_pairs(folder: str | Path) -> list[Pair]:
    """The pairs of a folder, in their order.

    Raises:
        UserError: the folder holds no finished pairs, the file is torn, or a pair cannot be one (all such are counted, the first ones named).
    """
    table = read_rows(folder, _KIND, PAIRS_SCHEMA)
    pairs = [Pair(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    bad = [f"{folder}: row {row} {problem}" for row, pair in enumerate(pairs) if (problem := _problem(pair))]
    if bad:
        raise UserError(bad[:10] + ([f"… and {len(bad) - 10} more"] if len(bad) > 10 else []))
    return pairs


class EpisodePair(NamedTuple):
    """One episode is better than another of its task, by `margin` in the unit of the scores that they were ranked by."""

    chosen: str
    rejected: str
    margin: float


@dataclass
class EpisodePairs:
    """Preferences between episodes of a store; `cost` and `figures` as in `PairsSidecar`."""

    pairs: Sequence[EpisodePair]
    cost: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Write the pairs, then `labels.json`, which says that they are whole."""
        rows = pa.Table.from_pylist([dict(zip(_EPISODES_SCHEMA.names, pair, strict=True)) for pair in self.pairs], schema=_EPISODES_SCHEMA)
        write_rows(folder, _EPISODES, rows, _EPISODES_SCHEMA, {**about, "cost": self.cost, "figures": self.figures})


def read_any_pairs(folder: str | Path) -> list[Pair] | list[EpisodePair]:
    """The pairs of a folder, of turns or of episodes, in their order.

    Raises:
        UserError: as `read_pairs`.
    """
    if read_about(folder).get("kind") != _EPISODES:
        return read_pairs(folder)
    columns = (column.to_pylist() for column in read_rows(folder, _EPISODES, _EPISODES_SCHEMA).columns)
    return [EpisodePair(*row) for row in zip(*columns, strict=True)]


def _problem(pair: Pair) -> str | None:
    if pair.chosen_episode is None or pair.rejected_episode is None or min(pair.chosen_turn, pair.rejected_turn) < 0:
        return f"names no turn of an episode: {tuple(pair)}"
    if (pair.chosen_episode, pair.chosen_turn) == (pair.rejected_episode, pair.rejected_turn):
        return f"prefers turn {pair.chosen_turn} of episode {pair.chosen_episode} to itself"
    if not (math.isfinite(pair.margin) and pair.margin > 0):
        return f"has the margin {pair.margin}; wanted a number above 0"
    if not (math.isfinite(pair.weight) and pair.weight >= 0):
        return f"has the weight {pair.weight}; wanted a number of 0 or more"
    return None
