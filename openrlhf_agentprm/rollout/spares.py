"""Environment workers as their pool holds them, and those that wait with a built environment to take another's place."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from dataclasses import dataclass, field

from .nursery import Child, Nursery
from .wire import encode

LONGEST = 1 << 28  # bytes of one answer: what sends more without an end to its line fills our memory


@dataclass(eq=False)
class Worker:
    child: Child
    connection: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    deadline: float | None = None  # of the request that is out, if one is
    what: str = ""
    lost: bool = False  # it died while nothing was asked of it

    @property
    def pid(self) -> int:
        return self.child.pid

    def send(self, line: bytes, limit: float) -> None:
        """A worker that is dead, or reads nothing within the limit, shows at the next poll."""
        self.connection.settimeout(limit)
        with contextlib.suppress(OSError):
            self.connection.sendall(line)
        self.connection.settimeout(None)

    def end(self) -> None:
        self.child.kill()
        self.connection.close()


class Spares:
    """Workers beyond a pool's size; those that have built their environment have no `deadline`.

    Args:
        nursery: forks them.
        selector: of the pool, in which they are registered with themselves as data.
        count: how many there are to be.
        limit: seconds that building an environment may take.
    """

    def __init__(self, nursery: Nursery, selector: selectors.BaseSelector, count: int, limit: float) -> None:
        self.workers: list[Worker] = []
        self._nursery = nursery
        self._selector = selector
        self._count = count
        self._limit = limit

    def warm(self) -> None:
        """Have new ones build their environment, which nobody waits for; those that take longer than they may are given up."""
        for spare in [s for s in self.workers if s.deadline is not None and s.deadline <= time.monotonic()]:
            self._drop(spare)
        while len(self.workers) < self._count:
            spare = Worker(*self._nursery.spawn(), deadline=time.monotonic() + self._limit)
            self._selector.register(spare.connection, selectors.EVENT_READ, spare)
            self.workers.append(spare)
            spare.send(encode({"do": "warm_up"}), self._limit)

    def take(self, index: int) -> Worker | None:
        """One that is ready and alive, which becomes the worker of that number."""
        for spare in [s for s in self.workers if s.deadline is None]:
            if _is_gone(spare.connection):
                self._drop(spare)
                continue
            self.workers.remove(spare)
            self._selector.modify(spare.connection, selectors.EVENT_READ, index)
            return spare
        return None

    def read(self, spare: Worker) -> None:
        """It has built its environment, or it is of no use."""
        if spare not in self.workers:  # another thread has taken it, or given it up
            return
        chunk = received(spare.connection)
        spare.buffer += chunk
        told = spare.buffer.endswith(b"\n")
        if not chunk or len(spare.buffer) > LONGEST or (told and not spare.buffer.startswith(b'{"ok"')):
            self._drop(spare)
        elif told:
            spare.buffer.clear()
            spare.deadline = None

    def _drop(self, spare: Worker) -> None:
        self._selector.unregister(spare.connection)
        spare.end()
        self.workers.remove(spare)


def received(connection: socket.socket) -> bytes:
    """What has come; nothing where the other side is gone."""
    try:
        return connection.recv(1 << 16)  # a buffer of a MiB costs as much as the rest of a call
    except ConnectionResetError:
        return b""


def _is_gone(connection: socket.socket) -> bool:
    """Whether the other side of an idle connection has died, though nobody has read it yet."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
