"""An episode store whose responses are read in steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from .episode import Turn
from .steps import Delimiters, Text, steps_of_turns
from .store import EpisodeStore


class StepStore(EpisodeStore):
    """A store whose responses are read in steps; its shards stay as they are.

    Args:
        path: the store's folder.
        delimiters: what ends a step.
        text: as in `in_steps`.
    """

    def __init__(self, path: str | Path, delimiters: Delimiters, text: Text | None = None) -> None:
        super().__init__(path)
        self.delimiters = delimiters
        self.text = text

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        if columns is not None and "turns" not in columns:
            yield from super().batches(columns)
            return
        for batch in super().batches(None if columns is None else [*columns, "token_ids"]):
            tokens = batch.column("token_ids").to_pylist()
            turns = [
                [vars(step) for step in steps_of_turns([Turn(**t) for t in row], ids, self.delimiters, self.text)]
                for row, ids in zip(batch.column("turns").to_pylist(), tokens, strict=True)
            ]
            at = batch.schema.get_field_index("turns")
            arrays = [*batch.columns[:at], pa.array(turns, type=batch.schema.field(at).type), *batch.columns[at + 1 :]]
            yield pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
