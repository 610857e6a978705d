"""What the instances of one machine and user note of a server's sessions, a file for each, locked by whoever plays in it.

Processes of a pool are killed, so that nobody closes their sessions; most servers could not close them anyway. A later instance finds the file
without a lock and goes on in that session, by a reset. One whose process ended while a request was under way is left alone.

No server tells that it was started again; it numbers its sessions from 0 once more, and whoever played on an old number would step another's
game. A number that is given a second time is such a restart, and a mark tells it to all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from ...core.cache import cache_folder
from .http import ServerError

Id = int | str


class Held:
    """A session that this instance plays in.

    Args:
        session: as the server names it.
        born: restarts that were seen when it was taken.
        path, lock: its file and the open file that locks it; None where nothing can be written.
    """

    def __init__(self, session: Id, born: int, path: Path | None = None, lock: int | None = None) -> None:
        self.session, self.born, self.process = session, born, os.getpid()
        self._path, self._lock = path, lock

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Around a request, whose answer the server may go on to work at when this process is killed."""
        self._write(b"1")
        yield
        self._write(b"0")  # not behind an error: the session is dropped then

    def leave(self, to_others: bool) -> None:
        """Unlock the file, and remove it unless others may go on in the session."""
        if self._lock is not None and self._path is not None:
            with contextlib.suppress(OSError):
                if not to_others and os.fstat(self._lock).st_nlink:  # else it is gone, and what stands there is another's
                    self._path.unlink()
            os.close(self._lock)
            self._lock = None

    def _write(self, mark: bytes) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._lock, mark, 0)


class Notes:
    """The files of one server.

    Args:
        address: of the server, with the prefix of its paths.
    """

    def __init__(self, address: str) -> None:
        where = f"{socket.gethostname()} {_network()} {address}"  # 127.0.0.1 is another server on another machine or in another container
        self._folder = cache_folder("agentgym", hashlib.sha256(where.encode()).hexdigest()[:24])
        self._marks = self._folder / "restarts"

    def count(self) -> int:
        """Restarts that were seen so far: a byte each."""
        try:
            return os.stat(self._marks).st_size
        except OSError:
            return 0

    def found(self) -> Held | None:
        """A session that nobody plays in any more."""
        with contextlib.suppress(OSError), self._alone():
            for path in sorted(self._folder.glob("session *")):
                lock = _locked(path)
                if lock is None:
                    continue
                mark, _, session = os.pread(lock, 1000, 0).partition(b" ")
                if mark == b"0":
                    with contextlib.suppress(ValueError):
                        return Held(json.loads(session), self.count(), path, lock)
                path.unlink()
                os.close(lock)
        return None

    def given(self, session: Id, once: bool) -> Held:
        """A session that the server has just opened.

        Args:
            once: a second time means that the server was started again; else that it has no more sessions than those.

        Raises:
            ServerError: another instance plays in it.
        """
        path = self._folder / f"session {quote(str(session), safe='')}"
        with contextlib.suppress(OSError), self._alone():
            if once and path.exists():
                with open(self._marks, "ab") as marks:
                    marks.write(b".")
                for old in self._folder.glob("session *"):
                    old.unlink()
            lock = _locked(path)
            if lock is None:
                raise ServerError(
                    f"the server gave the session {session!r}, in which another instance plays: it has no more; take fewer instances"
                )
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"0 " + json.dumps(session).encode(), 0)
            return Held(session, self.count(), path, lock)
        return Held(session, self.count())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One instance at a time looks through the files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _locked(path: Path) -> int | None:
    """The open file with its lock; None: another has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except OSError:
        os.close(lock)
        return None


def _network() -> str:
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""
