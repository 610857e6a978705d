"""One session on a server, held by one environment: opened, kept from episode to episode, given up after any error, closed where that exists."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .http import Server, ServerError
from .profile import TASK, Profile
from .reading import read_session
from .restarts import Restarts

_CLOSE_S = 5.0
_free: dict[
    tuple[Any, ...], list[tuple[int | str, int]]
] = {}  # by process and server: sessions that no environment holds, where none is closed
_free_lock = threading.Lock()


class Session:
    """Requests of one environment, which has at most one session at a time.

    Args:
        server: which one.
        profile: how it is spoken to.
    """

    def __init__(self, server: Server, profile: Profile) -> None:
        self.server = server
        self.profile = profile
        self.restarts = Restarts(server.url + profile.prefix)
        self._id: int | str | None = None
        self._process = 0
        self._born = 0  # restarts that were seen when it was opened

    @property
    def key(self) -> tuple[Any, ...]:
        return os.getpid(), self.server, self.profile.prefix, self.profile.name

    def is_open(self) -> bool:
        """Whether there is a session of this process, of a server that was not started again since."""
        return self._id is not None and self._process == os.getpid() and self._born == self.restarts.count()

    def open(self, task: int) -> None:
        """A session that was given back, else a new one."""
        self._process = os.getpid()
        with _free_lock:
            free = _free.get(self.key, [])
            while free:
                self._id, self._born = free.pop()
                if self.is_open():
                    return
        self._id = read_session(self.profile, self._ask("POST", "/create", filled(self.profile.create, task), self.profile.reset_s))
        self._born = self.restarts.note(self._id) if self.profile.ids_come_once else self.restarts.count()

    def reset(self, task: int) -> Any:
        """The answer to a reset."""
        body = {self.profile.id_key: self._id, **filled(self.profile.reset, task)}
        return self._ask("POST", "/reset", body, self.profile.reset_s)

    def step(self, action: str) -> Any:
        """The answer to a step, which is sent once, whatever comes.

        Raises:
            ServerError: no answer, or the server was started again.
        """
        if self.is_open():
            answer = self._ask("POST", "/step", {self.profile.id_key: self._id, "action": action}, self.profile.step_s)
            if self.is_open():
                return answer
        raise ServerError(f"{self.server.url}: the server was started again, and the episode with it is gone")

    def get(self, name: str) -> Any:
        """The answer to a GET about the session."""
        return self._ask("GET", f"/{name}?{self.profile.id_key}={quote(str(self._id))}", None, self.profile.step_s)

    def drop(self) -> None:
        """Give it up after an error; it is closed if it can be."""
        self._end(broken=True)

    def release(self) -> None:
        """End it, or keep it for the next environment where none can be closed."""
        self._end(broken=False)

    def _end(self, broken: bool) -> None:
        held, mine = self._id, self.is_open()
        self._id = None
        if not mine or held is None:
            return  # a forked copy's, or one that a restart has ended
        if self.profile.close:
            with contextlib.suppress(ServerError):
                self._ask("POST", "/close", {self.profile.id_key: held}, _CLOSE_S)
        elif not broken:
            with _free_lock:
                _free.setdefault(self.key, []).append((held, self._born))

    def _ask(self, method: str, path: str, body: Any, limit_s: float) -> Any:
        return self.server.ask(method, self.profile.prefix + path, body, limit_s)


def filled(body: Mapping[str, Any] | None, task: int) -> Any:
    """A request's body with the number of the task where it belongs."""
    return None if body is None else {key: task if value == TASK else value for key, value in body.items()}
