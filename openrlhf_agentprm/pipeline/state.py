"""What a run folder notes of its stages. A file is whole or as it was before; one that cannot be read counts as not there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..data.files import write_whole
from .recipe import Stage


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[int]:
    """The run folder for this runner alone; yields the lock's file descriptor.

    Raises:
        UserError: another runner has it.
    """
    path = folder / "state" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # some file systems know no locks
            _take(lock, folder)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace").strip()
        raise UserError(
            f"another agentprm run{f' (process {holder})' if holder else ''} is at work in {folder}; wait for it or stop it, "
            "or give this one a folder of its own with --set run_dir=FOLDER"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())


def write_record(folder: Path, stage: Stage, record: dict[str, Any]) -> None:
    write_whole(_record_path(folder, stage.name), json.dumps(record, indent=1) + "\n")


def read_done(folder: Path, stage: Stage) -> dict[str, Any] | None:
    """The stage's record, if its output is there."""
    return _read_record(folder, stage.name) if stage.output.exists() else None


def finished(folder: Path, name: str) -> str:
    """When a stage was finished: what read an earlier output of it is out of date."""
    return (_read_record(folder, name) or {}).get("finished", "")


def make_room(folder: Path, stage: Stage, mark: str, read: dict[str, str], *, anew: bool) -> None:
    """Note what begins. What another configuration, or other inputs, left in its place is neither continued nor lost: it is moved aside.

    Args:
        read: when each stage that it reads was finished.
        anew: move this configuration's own output aside too.
    """
    begun = folder / "state" / f"{stage.name}.begun"
    begins = f"{mark}\n{json.dumps(read)}"
    began = begun.read_text(encoding="utf-8", errors="replace") if begun.is_file() else None
    if stage.output.exists() and (anew or began not in (None, begins)):
        _record_path(folder, stage.name).unlink(missing_ok=True)
        shutil.move(str(stage.output), str(stage.output.with_name(f"{stage.output.name}.before-{datetime.now():%Y%m%d-%H%M%S}")))
    if began != begins:
        write_whole(begun, begins)


def _record_path(folder: Path, name: str) -> Path:
    return folder / "state" / f"{name}.json"


def _read_record(folder: Path, name: str) -> dict[str, Any] | None:
    try:
        record = json.loads(_record_path(folder, name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and {"mark", "seconds", "finished"} <= record.keys() else None
