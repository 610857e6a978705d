"""Stores made of stores: joined, filtered and thinned out, batch by batch, so that no store has to fit into memory."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import UserError
from .store import EpisodeStore, EpisodeWriter


@dataclass(frozen=True)
class Choice:
    """Which episodes are taken.

    Args:
        status, task, iteration, split, env: only those; None: any.
        min_outcome: only episodes with an outcome of at least that; those that have none (they broke, or outgrew the context) are left out.
        min_turns, max_turns: by the number of their actions.
        per_task: at most so many of each task, drawn by `seed` and an episode's id: the same ones in every run, and in any order of the store.
    """

    status: str | None = None
    task: str | None = None
    iteration: int | None = None
    split: str | None = None
    env: str | None = None
    min_outcome: float | None = None
    min_turns: int | None = None
    max_turns: int | None = None
    per_task: int | None = None
    seed: int = 0

    def mask(self, batch: pa.RecordBatch) -> pa.Array:
        """(rows,) bool, but for `per_task`."""
        found = pa.array([True] * len(batch))
        for column, wanted in (("status", self.status), ("task_id", self.task), ("split", self.split), ("env", self.env)):
            if wanted is not None:
                found = pc.and_(found, pc.equal(batch.column(column), wanted))
        if self.iteration is not None:
            found = pc.and_(found, pc.equal(batch.column("iteration"), self.iteration))
        if self.min_outcome is not None:
            ended = pc.is_in(batch.column("status"), value_set=pa.array(["success", "failure", "truncated"]))
            found = pc.and_(found, pc.and_(ended, pc.greater_equal(batch.column("outcome"), pa.scalar(self.min_outcome, pa.float32()))))
        turns = pc.list_value_length(batch.column("turns"))
        if self.min_turns is not None:
            found = pc.and_(found, pc.greater_equal(turns, self.min_turns))
        if self.max_turns is not None:
            found = pc.and_(found, pc.less_equal(turns, self.max_turns))
        return found


_READ = ("env", "task_id", "split", "status", "outcome", "iteration", "turns")


def chosen(store: EpisodeStore, choice: Choice) -> Iterator[pa.RecordBatch]:
    """The rows of a store that are chosen, whole."""
    kept = _thinned(store, choice) if choice.per_task is not None else None
    for batch in store.batches():
        part = batch.filter(choice.mask(batch))
        if kept is not None:
            part = part.filter(pc.is_in(part.column("episode_id"), value_set=kept))
        if len(part):
            yield part


def _thinned(store: EpisodeStore, choice: Choice) -> pa.Array:
    """Ids of at most `per_task` episodes of each task, those with the lowest digests."""
    by_task: dict[tuple[str, str], list[tuple[bytes, str]]] = defaultdict(list)
    for batch in store.batches(_READ):
        part = batch.filter(choice.mask(batch))
        names = (part.column(name).to_pylist() for name in ("env", "task_id", "episode_id"))
        for env, task, name in zip(*names, strict=True):
            by_task[env, task].append((hashlib.sha256(f"{choice.seed}:{name}".encode()).digest(), name))
    return pa.array([name for found in by_task.values() for _, name in sorted(found)[: choice.per_task]], type=pa.string())


def copy(store: EpisodeStore, output: str, choice: Choice, *, shard_size: int = 1024) -> dict[str, int]:
    """Add the chosen episodes to a store, which is made if it is missing; those that it has are passed over.

    Returns:
        how many were added, and how many were there.

    Raises:
        UserError: the output is one of the stores that are read, or nothing was chosen.
    """
    if Path(output).resolve() in {folder.resolve() for folder in store.folders}:
        raise UserError(f"{output} is read and written; give another folder")
    added = found = 0
    tables = _joined(chosen(store, choice), shard_size)
    first = next(tables, None)
    if first is None:
        raise UserError(f"no episode of {store.path} is chosen by these conditions")
    with EpisodeWriter(output) as writer:
        for table in itertools.chain([first], tables):
            added, found = added + writer.add_rows(table), found + len(table)
    return {"added": added, "there": found - added}


def _joined(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of at least so many rows, but for the last one."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= rows:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)
