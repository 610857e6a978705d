"""One session on a server, held by one environment: opened, kept from episode to episode, given up after any error, closed where that exists."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .http import Server, ServerError
from .notes import Held, Notes
from .profile import TASK, Profile
from .reading import read_session

_CLOSE_S = 5.0


class Session:
    """Requests of one environment, which has at most one session at a time.

    Args:
        server: which one.
        profile: how it is spoken to.
    """

    def __init__(self, server: Server, profile: Profile) -> None:
        self.server = server
        self.profile = profile
        self.notes = Notes(server.url + profile.prefix)
        self._held: Held | None = None

    def is_open(self) -> bool:
        """Whether there is a session of this process, of a server that was not started again since."""
        held = self._held
        return held is not None and held.process == os.getpid() and held.born == self.notes.count()

    def open(self, task: int, new: bool) -> bool:
        """Take a session that nobody plays in any more, unless a new one is wanted; else a new one. Tells whether it is an old one."""
        self._held = None if new else self.notes.found()
        if self._held is None:
            answer = self._ask("POST", "/create", filled(self.profile.create, task), self.profile.reset_s)
            self._held = self.notes.given(read_session(self.profile, answer), self.profile.ids_come_once)
            return False
        return True

    def reset(self, task: int) -> Any:
        """The answer to a reset."""
        return self._send("/reset", filled(self.profile.reset, task), self.profile.reset_s)

    def step(self, action: str) -> Any:
        """The answer to a step, which is sent once, whatever comes."""
        return self._send("/step", {"action": action}, self.profile.step_s)

    def get(self, name: str) -> Any:
        """The answer to a GET about the session."""
        assert self._held is not None
        return self._ask("GET", f"/{name}?{self.profile.id_key}={quote(str(self._held.session))}", None, self.profile.step_s)

    def drop(self) -> None:
        """Give it up after an error; it is closed if it can be."""
        self._end(broken=True)

    def release(self) -> None:
        """Close it, or leave it to the next environment where none can be closed."""
        self._end(broken=False)

    def _end(self, broken: bool) -> None:
        mine, held = self.is_open(), self._held
        self._held = None
        if held is None:
            return
        if mine and self.profile.close:
            with contextlib.suppress(ServerError):
                self._ask("POST", "/close", {self.profile.id_key: held.session}, _CLOSE_S)
        if held.process == os.getpid():  # else a forked copy's: it is played in elsewhere
            held.leave(to_others=mine and not broken and not self.profile.close)

    def _send(self, path: str, body: Mapping[str, Any], limit_s: float) -> Any:
        """The answer to a request of the session.

        Raises:
            ServerError: none, or the server was started again.
        """
        held = self._held
        if held is not None and self.is_open():
            with held.busy():
                answer = self._ask("POST", path, {self.profile.id_key: held.session, **body}, limit_s)
            if self.is_open():
                return answer
        raise ServerError(f"{self.server.url}: the server was started again, and the session with it is gone")

    def _ask(self, method: str, path: str, body: Any, limit_s: float) -> Any:
        return self.server.ask(method, self.profile.prefix + path, body, limit_s)


def filled(body: Mapping[str, Any] | None, task: int) -> Any:
    """A request's body with the number of the task where it belongs."""
    return None if body is None else {key: task if value == TASK else value for key, value in body.items()}
