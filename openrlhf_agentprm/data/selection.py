"""Which turns of a store a policy is to learn from, made beforehand: a folder of Parquet rows, an episode and a turn each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from .sidecar import read_rows, write_rows

_KIND = "selection"
_SCHEMA = pa.schema([("episode_id", pa.string()), ("turn", pa.int32())])


@dataclass
class Selection:
    """Turns of a store.

    Args:
        turns: by episode, the numbers of the turns from 0; an episode without one has no row.
        cost: what making them took beyond the store.
        figures: what a reader would ask of them, by name.
    """

    turns: Mapping[str, Sequence[int]]
    cost: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Write the turns, then `labels.json`, which says that they are whole."""
        rows = [{"episode_id": episode, "turn": turn} for episode, turns in self.turns.items() for turn in turns]
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        write_rows(folder, _KIND, table, _SCHEMA, {**about, "cost": self.cost, "figures": self.figures})


def read_selection(folder: str | Path) -> dict[str, set[int]]:
    """By episode: its turns that are selected. Several folders, divided by commas, are read as one.

    Raises:
        UserError: the folder holds no finished selection, or the file is torn.
    """
    found: dict[str, set[int]] = {}
    for episode, turn in zip(*(column.to_pylist() for column in read_rows(folder, _KIND, _SCHEMA).columns), strict=True):
        found.setdefault(episode, set()).add(turn)
    return found
