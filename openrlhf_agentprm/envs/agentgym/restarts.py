"""Whether a server was started again, which none of AgentGym's tells: it numbers its sessions from 0 once more.

Another instance may then hold the number that this one plays on, and its game would be stepped. So the instances of one machine and user note
the numbers that they are given; a number that comes a second time is a restart, and a mark tells it to all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
from pathlib import Path


class Restarts:
    """What is noted of one server.

    Args:
        address: of the server, with the prefix of its paths.
    """

    def __init__(self, address: str) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openrlhf-agentprm" / "agentgym"
        where = f"{socket.gethostname()} {_network()} {address}"  # 127.0.0.1 is another server on another machine or in another container
        self._given = base / f"{hashlib.sha256(where.encode()).hexdigest()[:24]}.given"
        self._marks = self._given.with_suffix(".restarts")

    def count(self) -> int:
        """Restarts that were seen so far: a byte each."""
        try:
            return self._marks.stat().st_size
        except OSError:
            return 0

    def note(self, session: int | str) -> int:
        """A new session's number was given; returns the count. Where nothing can be written, none is ever seen."""
        with contextlib.suppress(OSError):
            self._given.parent.mkdir(parents=True, exist_ok=True)
            with open(self._given, "a+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                if str(session) in file.read().split("\n"):
                    with open(self._marks, "ab") as marks:
                        marks.write(b".")
                    file.truncate(0)
                file.write(f"{session}\n")
                file.flush()
                return self.count()
        return self.count()


def _network() -> str:
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""
