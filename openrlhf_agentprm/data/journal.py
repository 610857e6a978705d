"""A crash-safe list of rows: each is on its way to the disk before the next is taken.

One writer, one file, held by a lock; a line is a row in JSON. A process killed in the middle of a line leaves a torn last line, which a reader
passes over and the next writer cuts off; every line before it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import UserError

_BLOCK = 1 << 16  # bytes that are read at once from the end


class Journal:
    """Append-only rows in `path`, locked for as long as this object lives.

    Raises:
        BlockingIOError: another holds it.
        FileNotFoundError: another held it, and has removed it meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise
        if not os.fstat(self._file).st_nlink:
            os.close(self._file)
            raise FileNotFoundError(path)
        self._end = self._whole()
        os.ftruncate(self._file, self._end)

    def _whole(self) -> int:
        """Bytes up to behind the last whole line."""
        end = os.fstat(self._file).st_size
        while end > 0:
            start = max(0, end - _BLOCK)
            if found := os.pread(self._file, end - start, start).rfind(b"\n") + 1:
                return start + found
            end = start
        return 0

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; if the disk is full the half-written line is taken back and the error raised."""
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(28, "No space left on device", str(self.path))
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)

    def clear(self) -> None:
        os.ftruncate(self._file, 0)
        self._end = 0

    @property
    def empty(self) -> bool:
        return os.fstat(self._file).st_size == 0

    def close(self, *, remove: bool) -> None:
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a journal; a torn last line is passed over."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


@contextlib.contextmanager
def kept_journal(path: Path) -> Iterator[Journal]:
    """The journal of what was made so far, which this process alone writes.

    Raises:
        UserError: another process writes to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        journal = Journal(path)
    except BlockingIOError as error:
        raise UserError(f"another process writes to {path}; let it end, or give another --label.output") from error
    try:
        yield journal
    finally:
        journal.close(remove=False)
