"""The episode store: a folder of Parquet shards that a kill, a full disk or a second writer cannot hurt.

A writer notes each finished episode in its own journal at once, and turns the journal into a shard every `shard_size` episodes, by atomic
rename. A shard is never rewritten. Journals of dead writers are folded in when the store is next opened for writing; readers read them
where they lie. A row whose id is already there is dropped, so nothing is lost and nothing is there twice.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import UserError
from .episode import Episode
from .journal import Journal, rows_of

SCHEMA_VERSION = "1"
_TURN = pa.struct(
    [
        ("observation", pa.string()),
        ("action", pa.string()),
        ("action_start", pa.int32()),
        ("action_end", pa.int32()),
        ("reward", pa.float32()),
        ("valid_action", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        ("episode_id", pa.string()),
        ("env", pa.string()),
        ("task_id", pa.string()),
        ("split", pa.string()),
        ("seed", pa.int64()),
        ("sample", pa.int32()),
        ("policy", pa.string()),
        ("policy_digest", pa.string()),
        ("sampling", pa.string()),
        ("iteration", pa.int32()),
        ("status", pa.string()),
        ("outcome", pa.float32()),
        ("terminated", pa.bool_()),
        ("truncated", pa.bool_()),
        ("instruction", pa.string()),
        ("final_observation", pa.string()),
        ("error", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("turns", pa.list_(_TURN)),
    ],
    metadata={"openrlhf_agentprm.schema": SCHEMA_VERSION},
)


class EpisodeStore:
    """Read side of a store.

    Args:
        path: the store's folder, or several stores' divided by commas, which are read as one.

    Raises:
        UserError: there is no store, or it holds no episode (unless `allow_empty`).
    """

    def __init__(self, path: str | Path, *, allow_empty: bool = False) -> None:
        self.path = Path(path)
        several = [part.strip() for part in str(path).split(",") if part.strip()]
        self.folders = [self.path] if self.path.is_dir() or len(several) < 2 else [Path(part) for part in several]
        for folder in self.folders if not allow_empty else ():
            if not folder.is_dir():
                raise UserError(f"there is no episode store at {folder}; collect one first, or check the path")
            if not any(_shards(folder)) and not any(_journals(folder)):
                raise UserError(f"the episode store {folder} holds no episode (no *.parquet, no journal)")

    def shards(self) -> list[Path]:
        return [shard for folder in self.folders for shard in _shards(folder)]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Every row once, shard by shard; a torn shard is a `UserError` that names it."""
        return (row for batch in self.batches(columns) for row in batch.to_pylist())

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """`rows` as Arrow batches, for what would be slow row by row."""
        seen: set[str] = set()
        wanted = None if columns is None else sorted({*columns, "episode_id"})
        journals = [_read_journal(journal) for journal in self._journals()]  # first: what is in a shard by now may have been in none before
        for shard in self.shards():
            yield from (_unseen(batch, seen) for batch in _read_shard(shard, wanted))
        for batch in journals:
            yield _unseen(batch if wanted is None else batch.select(wanted), seen)

    def episodes(self) -> Iterator[Episode]:
        return (Episode.from_row(row) for row in self.rows())

    def ids(self) -> set[str]:
        return {row["episode_id"] for row in self.rows(["episode_id"])}

    def __len__(self) -> int:
        return len(self.ids())

    def rows_in_shards(self) -> int:
        """By the shards' footers alone, so at no cost; some may be there twice, and what a journal holds is not counted."""
        return sum(_footer_rows(shard) for shard in self.shards())

    def _journals(self) -> list[Path]:
        return [journal for folder in self.folders for journal in _journals(folder)]


class EpisodeWriter:
    """Write side of a store; several writers may share a folder.

    Args:
        path: the store's folder, made if it is missing.
        shard_size: episodes a shard.
    """

    def __init__(self, path: str | Path, *, shard_size: int = 1024) -> None:
        self.path = Path(path)
        self.shard_size = shard_size
        self.path.mkdir(parents=True, exist_ok=True)
        self._adopt_dead_journals()
        self.ids = EpisodeStore(self.path, allow_empty=True).ids()
        self._name = uuid.uuid4().hex[:12]
        self._sequence = 0
        self._journal = _new_journal(self.path / f".journal-{self._name}.jsonl")
        self._pending: list[dict[str, Any]] = []

    def add(self, episode: Episode) -> bool:
        """Keep an episode; False if one with its id is there already.

        Raises:
            UserError: a number of it is out of a column's range.
        """
        if episode.episode_id in self.ids:
            return False
        row = episode.to_row()
        try:
            pa.RecordBatch.from_pylist([row], schema=SCHEMA)
        except (pa.ArrowException, OverflowError) as error:  # in the journal it would close the store to all
            numbers = {name: row[name] for name in ("seed", "sample", "iteration")}
            raise UserError(f"the episode of task {episode.task_id!r} with {numbers} cannot be stored in {self.path}: {error}") from error
        self._journal.append(row)
        self.ids.add(episode.episode_id)
        self._pending.append(row)
        if len(self._pending) >= self.shard_size:
            self.flush()
        return True

    def add_rows(self, rows: pa.Table) -> int:
        """Keep rows of another store as one shard; how many were not there already."""
        fresh = [_unseen(batch, self.ids) for batch in rows.cast(SCHEMA).to_batches()]
        if count := sum(map(len, fresh)):
            self._write(pa.Table.from_batches(fresh))
        return count

    def flush(self) -> None:
        """Turn the journal into a shard."""
        if self._pending:
            self._write(pa.Table.from_pylist(self._pending, schema=SCHEMA))
            self._pending = []
            self._journal.clear()

    def _write(self, rows: pa.Table) -> None:
        _write_shard(self.path / f"episodes-{self._name}-{self._sequence:05d}.parquet", rows)
        self._sequence += 1

    def close(self) -> None:
        self.flush()
        self._journal.close(remove=True)

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # whatever it broke into: the journal is whole, is read as it is, and becomes a shard when the next writer opens
            self._journal.close(remove=self._journal.empty)

    def _adopt_dead_journals(self) -> None:
        for path in sorted(self.path.glob(".journal-*.jsonl")):
            try:
                journal = Journal(path)
            except OSError:
                continue  # another writer is alive and holds it, or has adopted it
            self._fold_in(path)
            journal.close(remove=True)

    def _fold_in(self, journal: Path) -> None:
        """Make a dead writer's journal a shard of its name, and remove the shard it may have died writing."""
        name = journal.stem.removeprefix(".journal-")
        for half in self.path.glob(f".episodes-{name}-*.tmp"):
            half.unlink()
        in_shards = {row["episode_id"] for shard in self.path.glob("episodes-*.parquet") for row in _ids_of(shard)}
        rows = [row for row in rows_of(journal) if row["episode_id"] not in in_shards]
        if rows:
            _write_shard(self.path / f"episodes-{name}-last.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("episodes-*.parquet"))


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob(".journal-*.jsonl"))


def _new_journal(path: Path) -> Journal:
    while True:
        try:
            return Journal(path)
        except (BlockingIOError, FileNotFoundError):  # another writer took it, while nobody held it, for a dead one's, and removes it
            time.sleep(0.01)


def _read_journal(path: Path) -> pa.RecordBatch:
    try:
        rows = list(rows_of(path))
    except FileNotFoundError:  # its writer has made a shard of it since
        rows = []
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _unseen(batch: pa.RecordBatch, seen: set[str]) -> pa.RecordBatch:
    """The rows whose ids are not in `seen`, which then holds them."""
    ids = batch.column("episode_id").to_pylist()
    fresh = [not (i in seen or seen.add(i)) for i in ids]  # type: ignore[func-returns-value]
    return batch if all(fresh) else batch.filter(pa.array(fresh, type=pa.bool_()))


def _ids_of(shard: Path) -> Iterator[dict[str, Any]]:
    return (row for batch in _read_shard(shard, ["episode_id"]) for row in batch.to_pylist())


def _write_shard(path: Path, rows: pa.Table) -> None:
    """Write beside the final name, force it to the disk, then rename."""
    half = path.with_name(f".{path.stem}.tmp")
    try:
        with half.open("wb") as file:
            pq.write_table(rows, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def _footer_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError):
        return 0  # whoever reads the shard is told


def _read_shard(path: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(b"openrlhf_agentprm.schema", b"").decode()
            if version != SCHEMA_VERSION:
                raise UserError(f"{path} has the episode schema {version or 'of another program'!r}; this version reads {SCHEMA_VERSION!r}")
            yield from file.iter_batches(columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({error}); it is torn or not ours. Move it away: the other shards stay usable, and "
            "collecting again fills the gap"
        ) from error
