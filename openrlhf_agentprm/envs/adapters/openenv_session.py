"""A session on an OpenEnv server: one WebSocket, one question at a time, limits on time and size."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from ...core.errors import UserError
from .common import brief

INSTALL = "pip install 'openrlhf-agentprm[openenv]'"
_AGAIN = 0.25  # seconds between two attempts to connect
_GOODBYE = 2.0  # seconds for closing


class Refused(Exception):
    """The server says that an action is not of the form it takes; the episode stands where it stood.

    Args:
        errors: of pydantic, as the server has sent them.
    """

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(brief(error.get("msg", "it is not of the form wanted")) for error in errors))
        self.wrong_fields = [".".join(map(str, e.get("loc", ()))) for e in errors if e.get("type") in ("missing", "extra_forbidden")]


class Session:
    """Connects when it is asked something, and again where the connection is gone and nothing is lost by it.

    Args:
        url: of the server.
        timeout_s: for connecting, in which a server may still be starting, and for an answer.
        max_reply: bytes of an answer.
    """

    def __init__(self, url: str, timeout_s: float, max_reply: int) -> None:
        self.url = url
        self._timeout = timeout_s
        self._max_reply = max_reply
        self._socket: Any = None
        self._kept = contextlib.ExitStack()  # closes it
        self._process = os.getpid()  # a forked one must not speak on its parent's connection
        self._connect = _connector()

    def ask(self, kind: str, data: dict[str, Any], *, anew: bool = False) -> dict[str, Any]:
        """The data of the server's answer.

        Args:
            kind: "reset" or "step".
            data: that goes with it.
            anew: nothing is lost with an old connection, so that where it turns out to be gone another one is asked.

        Raises:
            Refused: by a check of the action's form.
            RuntimeError: whatever else went wrong; the connection is given up.
        """
        if self._process != os.getpid():
            self._socket, self._kept, self._process = None, contextlib.ExitStack(), os.getpid()
        kept = self._socket is not None
        if not kept and not anew:
            raise RuntimeError(f"{self.url}: the session of this episode is gone")
        try:
            if not kept:
                self._open()
            return self._read(kind, self._exchange(kind, data))
        except (Refused, UserError):
            raise
        except ConnectionError as error:
            self.drop()
            if kept and anew:
                return self.ask(kind, data, anew=True)
            raise RuntimeError(f"{self.url}: {error}") from error
        except BaseException:
            self.drop()
            raise

    def _open(self) -> None:
        end = time.monotonic() + self._timeout
        while True:
            try:
                self._enter(max(end - time.monotonic(), 0.1))
                return
            except ConnectionRefusedError as error:  # it is starting, or not there
                if time.monotonic() + _AGAIN > end:
                    raise RuntimeError(f"nothing answers at {self.url}: is the server running there?") from error
                time.sleep(_AGAIN)
            except Exception as error:
                raise RuntimeError(f"no session at {self.url}: {type(error).__name__}: {brief(error)}") from error

    def _enter(self, limit: float) -> None:
        """Connect; over a socket of ours, which no redirect and no proxy leads elsewhere."""
        parts = urlsplit(self.url)
        secure = parts.scheme in ("https", "wss")
        address = parts._replace(scheme="wss" if secure else "ws", path=parts.path.rstrip("/").removesuffix("/ws") + "/ws").geturl()
        line = socket.create_connection((parts.hostname, parts.port or (443 if secure else 80)), timeout=limit)
        line.settimeout(None)
        kept = contextlib.ExitStack()
        self._socket = kept.enter_context(
            self._connect(
                address, sock=line, proxy=None, open_timeout=limit, close_timeout=_GOODBYE, ping_interval=None, max_size=self._max_reply
            )
        )
        self._kept = kept

    def _exchange(self, kind: str, data: dict[str, Any]) -> str | bytes:
        from websockets.exceptions import ConnectionClosed

        told: Any = None
        try:
            with contextlib.suppress(ConnectionClosed):  # what it said before it closed is still to be read
                self._socket.send(json.dumps({"type": kind, "data": data}))
            told = self._socket.recv(timeout=self._timeout)
        except TimeoutError as error:
            raise RuntimeError(f"{self.url} did not answer a {kind} within {self._timeout:g} s") from error
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == 1009:
                raise RuntimeError(f"{self.url} answered a {kind} with more than {self._max_reply} bytes (max_reply)") from error
            raise ConnectionError(f"the connection broke in a {kind}: {brief(error)}") from error
        return told

    def _read(self, kind: str, raw: str | bytes) -> dict[str, Any]:
        try:
            message = json.loads(raw)
            told, data = message["type"], message["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"{self.url} answered a {kind} with {brief(raw)}; wanted OpenEnv's JSON") from error
        if told == "observation" and isinstance(data, dict):
            return data
        code = data.get("code") if isinstance(data, dict) else None
        if told == "error" and code == "VALIDATION_ERROR" and kind == "step":
            raise Refused([error for error in data.get("errors") or [{}] if isinstance(error, dict)])
        if code == "CAPACITY_REACHED":
            raise RuntimeError(
                f"{self.url} has no room for a session ({brief(data.get('message'))}): "
                "start it with a max_concurrent_envs of at least the number of workers"
            )
        raise RuntimeError(f"{self.url} answered a {kind} with {told}: {brief(data)}")

    def drop(self) -> None:
        """Give the connection up."""
        self._socket = None
        with contextlib.suppress(Exception):
            self._kept.close()

    def __del__(self) -> None:
        if getattr(self, "_process", 0) == os.getpid():  # a server has few sessions to give
            self.drop()

    def close(self) -> None:
        """Say goodbye, let the server close, and give the connection up."""
        if self._socket is not None:
            with contextlib.suppress(Exception):
                self._socket.send('{"type": "close"}')
                self._socket.recv(timeout=_GOODBYE)
        self.drop()


def url_problems(url: object) -> list[str]:
    """What is wrong with a server's address."""
    wanted = "wanted the address of an OpenEnv server, such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        bad = parts is None or parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    return [f"url is {url!r}; {wanted}"] if bad else []


def _connector() -> Any:
    try:
        from websockets.sync.client import connect
    except ImportError as error:
        raise UserError(f"the environment 'openenv' needs websockets 15 or later: {INSTALL}") from error
    return connect
