"""A pool of supervised environment workers: each in a process of its own, each call under a time limit, each death noticed.

`send` never waits; `poll` gives back what has been answered, what took too long and what died. A worker that hung or died is replaced
before its reply is handed out, so the next `send` to it just works.
"""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from dataclasses import dataclass
from typing import Any

from ..core.errors import UserError
from . import spares
from .nursery import Nursery, Provision
from .spares import Spares, Worker, received
from .wire import decode, encode


@dataclass(frozen=True)
class Timeouts:
    """Seconds that the environment may take. The first call of a worker also builds its environment."""

    reset: float = 60.0
    step: float = 30.0


@dataclass(frozen=True)
class Reply:
    """What became of a request. `kind`: "ok" with `value`, or "error" | "timeout" | "died" with `message`."""

    worker: int
    kind: str
    value: Any = None
    message: str = ""
    user_error: bool = False


class EnvPool:
    """Workers 0 … size − 1 of one environment. One thread may `send` while another is in `poll`.

    Args:
        name: registered environment.
        kwargs: its arguments.
        size: number of workers.
        timeouts: limits for a reset (and whatever plays whole episodes) and for a step.
        provision: limits of memory, and spare workers.

    Raises:
        UserError: the environment cannot be built, or not within the limit of a reset; told at once, not by a thousand failing episodes.
    """

    def __init__(
        self, name: str, kwargs: dict[str, Any], size: int, timeouts: Timeouts | None = None, provision: Provision | None = None
    ) -> None:
        if size < 1:
            raise UserError(f"an environment pool needs at least 1 worker, not {size}")
        self.name = name
        self.kwargs = kwargs
        self.timeouts = timeouts or Timeouts()
        self.counts = {"restarts": 0, "error": 0, "timeout": 0, "died": 0}
        self._lock = threading.RLock()  # whoever sends and whoever polls may both have to replace a worker
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        provision = provision or Provision()
        self._nursery = Nursery(name, kwargs, self.timeouts.reset, provision.max_memory)
        self._spares = Spares(self._nursery, self._selector, provision.spares, self.timeouts.reset)
        with contextlib.ExitStack() as unless_started:
            unless_started.callback(self.close)
            for index in range(size):
                self._workers.append(self._spawn(index))
            self._spares.warm()
            self.description: dict[str, Any] = self.call(0, {"do": "describe"})
            unless_started.pop_all()

    def __len__(self) -> int:
        return len(self._workers)

    def send(self, worker: int, request: dict[str, Any]) -> None:
        """Hand a request to an idle worker."""
        line = encode(request)
        with self._lock:
            if self._workers[worker].lost and request["do"] != "step":  # nothing hangs on the dead process
                self._replace(worker)
            w = self._workers[worker]
            assert w.deadline is None, f"worker {worker} is still at {w.what}"
            limit = self.timeouts.step if request["do"] == "step" else self.timeouts.reset
            w.deadline = time.monotonic() + (0.0 if w.lost else limit)
            w.what = f"{request['do']} within {limit:g} s"
            w.send(line, limit)

    def poll(self, timeout: float | None = 0.0) -> list[Reply]:
        """Replies that are ready; waits at most `timeout` seconds for the first (None: until there is one)."""
        started = time.monotonic()
        while True:
            deadlines = [w.deadline for w in self._workers if w.deadline is not None]
            if not deadlines:
                return []
            now = time.monotonic()
            wait = min(deadlines) - now
            if timeout is not None:
                wait = min(wait, started + timeout - now)
            ready = self._selector.select(max(0.0, wait))
            with self._lock:
                for key, _ in ready:
                    if isinstance(key.data, Worker):
                        self._spares.read(key.data)
                replies = [self._read(key.data) for key, _ in ready if not isinstance(key.data, Worker)]
                found = [reply for reply in replies if reply is not None] + self._expired()
            if found or (timeout is not None and time.monotonic() - started >= timeout):
                return found

    def call(self, worker: int, request: dict[str, Any]) -> Any:
        """One request and its answer, on an otherwise idle pool.

        Raises:
            UserError: the environment reported a problem that the user can mend.
            RuntimeError: it failed in another way.
        """
        self.send(worker, request)
        while True:
            for reply in self.poll(None):
                if reply.worker == worker:
                    if reply.kind == "ok":
                        return reply.value
                    if reply.user_error:
                        raise UserError(reply.message.partition(": ")[2])
                    raise RuntimeError(f"environment {self.name!r}: {reply.kind}: {reply.message}")

    def tasks(self, split: str, first: int = 0, count: int | None = None) -> list[str]:
        """Task ids of a split."""
        return self.call(0, {"do": "tasks", "split": split, "first": first, "count": count})

    def close(self) -> None:
        """End every process."""
        for w in [*self._workers, *self._spares.workers]:
            w.end()
        self._nursery.close()
        self._selector.close()
        self._workers, self._spares.workers = [], []

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _replace(self, index: int) -> None:
        w = self._workers[index]
        if not w.lost:
            self._selector.unregister(w.connection)
        w.end()
        self.counts["restarts"] += 1
        self._workers[index] = self._spares.take(index) or self._spawn(index)
        self._spares.warm()

    def _spawn(self, index: int) -> Worker:
        worker = Worker(*self._nursery.spawn())
        self._selector.register(worker.connection, selectors.EVENT_READ, index)
        return worker

    def _read(self, index: int) -> Reply | None:
        w = self._workers[index]
        chunk = received(w.connection)
        if not chunk and w.deadline is None:
            w.lost = True  # told at the next step
            self._selector.unregister(w.connection)
            return None
        if not chunk:
            return self._lost(index, "died", f"the environment's process ended during {w.what}")
        w.buffer += chunk
        if len(w.buffer) > spares.LONGEST:
            return self._lost(index, "died", f"the environment's process answered {w.what} by more than {spares.LONGEST >> 20} MiB")
        if not w.buffer.endswith(b"\n"):
            return None
        line = bytes(w.buffer)
        w.buffer.clear()
        w.deadline = None
        try:
            answer = decode(line)
        except ValueError:
            return self._lost(index, "died", "the environment's process broke the protocol")
        if "error" in answer:
            self.counts["error"] += 1
            return Reply(index, "error", message=answer["error"], user_error=answer.get("user_error", False))
        return Reply(index, "ok", answer["ok"])

    def _expired(self) -> list[Reply]:
        now = time.monotonic()
        late = [i for i, w in enumerate(self._workers) if w.deadline is not None and w.deadline <= now]
        return [self._late(i) for i in late]

    def _late(self, index: int) -> Reply:
        w = self._workers[index]
        if w.lost:
            return self._lost(index, "died", f"the environment's process ended before {w.what.partition(' within')[0]}")
        return self._lost(index, "timeout", f"the environment did not answer {w.what}")

    def _lost(self, index: int, kind: str, message: str) -> Reply:
        self.counts[kind] += 1
        self._replace(index)
        return Reply(index, kind, message=message)
