"""JSON over HTTP to one address: no proxy, no redirect, a limit on the whole exchange, and retries that say what was answered last."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...core.errors import UserError

T = TypeVar("T")
_ANSWER = 256 << 20  # bytes that are read of an answer
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # of which the same request may fare better later


class WrongAnswer(Exception):
    """An answer that is not what was asked for."""


@dataclass
class Address:
    """Where a scorer answers.

    Args:
        url: http or https, without credentials.
        timeout_s: for connecting, sending and the whole answer together.
        retries: after the first attempt, waiting 0.5 s, 1 s, 2 s, … between them, or what the server asks for.
        headers: sent with each request.
    """

    url: str
    timeout_s: float = 60.0
    retries: int = 4
    headers: Mapping[str, str] = field(default_factory=dict)
    first_wait_s: float = 0.5

    def ask(self, what: str, payload: Any, read: Callable[[Any], T], *, path: str | None = None) -> T:
        """The answer to a request, as `read` makes it of the JSON.

        Args:
            what: is asked for, in words that identify it.
            payload: of a POST; None: a GET.
            read: raises `WrongAnswer` where the answer is none.
            path: in place of the URL's.

        Raises:
            UserError: every attempt failed, or one in a way that another would too; names what, the address and the last answer.
        """
        body = None if payload is None else json.dumps(payload).encode()
        told = ""
        for attempt in range(self.retries + 1):
            wait = self.first_wait_s * 2**attempt
            try:
                status, raw, after = self._exchange(body, path)
            except (OSError, http.client.HTTPException) as error:
                told = _cause(error, self.timeout_s)
            else:
                if status == 200:
                    try:
                        return read(_parsed(raw))
                    except WrongAnswer as error:
                        told = f"a wrong answer: {error}"
                else:
                    told = f"HTTP {status}: {raw[:300].decode(errors='replace')}"
                    if status not in _AGAIN:
                        raise UserError(f"{what}: {self._shown(path)} refused it: {told}{_redirect(status)}")
                    wait = max(wait, after)
            if attempt < self.retries:
                time.sleep(min(wait, 30.0))
        raise UserError(f"{what}: {self._shown(path)} gave no score in {self.retries + 1} attempt(s); the last answer: {told}")

    def _shown(self, path: str | None) -> str:
        return self.url if path is None else urlsplit(self.url)._replace(path=path, query="").geturl()

    def _exchange(self, body: bytes | None, path: str | None) -> tuple[int, bytes, float]:
        """(status, body, seconds that the server asks to wait)."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
        target = path or (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        late = threading.Event()

        def end() -> None:  # a socket's own limit counts from byte to byte: one that drips would never end
            late.set()
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close", **self.headers}
            connection.request("GET" if body is None else "POST", target, body, headers)
            answer = connection.getresponse()
            raw = answer.read(_ANSWER + 1)
            if len(raw) > _ANSWER:
                raise http.client.HTTPException(f"the answer has more than {_ANSWER} bytes")
            if late.is_set():
                raise TimeoutError
            after = answer.headers.get("Retry-After", "")
            return answer.status, raw, float(after) if after.isdigit() else 0.0
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()
            connection.close()


def check_url(url: str) -> list[str]:
    """What is wrong with an address."""
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well = False
    if not well:
        return [f"{url!r} is no address; wanted http://HOST:PORT or https://HOST:PORT, with a path where there is one"]
    return [f"{parts.scheme}://{parts.hostname} holds a user's name; keys are given by api_key_env"] if parts.username else []


def is_url(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WrongAnswer(f"no JSON ({error}): {raw[:200].decode(errors='replace')!r}") from error


def _cause(error: BaseException, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"none within {seconds:g} seconds"
    return f"none: {type(error).__name__}: {error}"


def _redirect(status: int) -> str:
    return "; it leads elsewhere, and only the address given is asked" if 300 <= status < 400 else ""
