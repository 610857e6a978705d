"""JSON over HTTP to one address: a connection for each request, nothing repeated, no redirect, and limits on size and on the whole exchange.

A server of AgentGym's drops a connection that is idle for five seconds, which is less than a turn of a language model: so none is kept.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ...core.errors import UserError

MAX_ANSWER = 8 << 20  # bytes
_MAX_HEADERS = 64 << 10
_CONNECT_S = 10.0


class ServerError(RuntimeError):
    """The server failed, or what came is no answer: the episode is broken, and has no reward."""


class LateError(ServerError):
    """No whole answer came in time."""


@dataclass(frozen=True)
class Server:
    """Where it answers.

    Args:
        url: http or https, with a path where there is one.
        proxy: through which it is reached; none: "".
    """

    url: str
    proxy: str = ""

    def ask(self, method: str, path: str, body: Any, limit_s: float) -> Any:
        """The JSON of the answer to one request.

        Args:
            path: from the server's own path on.
            body: is sent as JSON; None: none.
            limit_s: seconds for all of it.

        Raises:
            ServerError: no answer in time, one that is not 200, or one that is no JSON.
        """
        raw = self.fetch(method, path, body, limit_s)
        try:
            return parse(raw)
        except ServerError as error:
            raise ServerError(f"{method} {self.url}{path}: {error}") from None

    def fetch(self, method: str, path: str, body: Any, limit_s: float) -> bytes:
        """As `ask`, the bytes of the answer."""
        what = f"{method} {self.url}{path}"
        try:
            status, raw = self._exchange(method, path, body, limit_s)
        except TimeoutError as error:
            raise LateError(f"{what}: no whole answer within {limit_s:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(f"{what}: {type(error).__name__}: {_brief(str(error))}") from error
        if status != 200:
            more = "; it leads elsewhere, and only the address given is asked" if 300 <= status < 400 else ""
            raise ServerError(f"{what}: HTTP {status}{more}: {_brief(raw.decode(errors='replace'))}")
        return raw

    def _exchange(self, method: str, path: str, body: Any, limit_s: float) -> tuple[int, bytes]:
        end = time.monotonic() + limit_s
        parts = urlsplit(self.url)
        through = urlsplit(self.proxy) if self.proxy else parts
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(through.hostname or "", through.port, timeout=min(limit_s, _CONNECT_S))
        sock: socket.socket | None = None
        try:
            connection.connect()
            sock = connection.sock
            connection.sock = _Limited(sock, end)  # type: ignore[assignment]
            headers = {"Accept": "application/json", "Connection": "close", "Host": parts.netloc}
            if body is not None:
                headers["Content-Type"] = "application/json"
            sent = b"" if body is None and method == "POST" else None if body is None else json.dumps(body).encode()
            target = f"{self.url}{path}" if self.proxy else f"{parts.path}{path}"
            connection.request(method, target, sent, headers)
            return _read(connection.getresponse())
        finally:
            connection.close()
            if sock is not None:
                sock.close()


def _read(answer: http.client.HTTPResponse) -> tuple[int, bytes]:
    """Status and body; one that may be cut short, or is too long, is none."""
    with answer:
        if answer.length is not None and answer.length > MAX_ANSWER:
            raise http.client.HTTPException(f"an answer of {answer.length} bytes; at most {MAX_ANSWER} are taken")
        if answer.status == 200 and answer.length is None and not answer.chunked:
            raise http.client.HTTPException("an answer that does not tell its length, so that half of it would look whole")
        return answer.status, answer.read()


class _Limited:
    """A connected socket as http.client uses it, with a limit on all the bytes that come and on the time of everything.

    A socket's own limit counts from byte to byte, and would wait for ever on one that drips.
    """

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock, self._end = sock, end

    def _wait_no_longer(self) -> None:
        if (left := self._end - time.monotonic()) <= 0:
            raise TimeoutError
        self._sock.settimeout(left)

    def sendall(self, data: bytes) -> None:
        self._wait_no_longer()
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def close(self) -> None:
        """http.client closes a connection before it has read the answer; whoever opened it closes it behind that."""


class _Incoming(io.RawIOBase):
    """The bytes that come."""

    def __init__(self, limited: _Limited) -> None:
        self._limited = limited
        self._left = MAX_ANSWER + _MAX_HEADERS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._limited._wait_no_longer()
        count = self._limited._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER} bytes")
        return count


def parse(raw: bytes) -> Any:
    """The JSON of an answer, which has neither NaN nor infinities nor a key twice.

    Raises:
        ServerError: it is none.
    """
    try:
        return json.loads(raw.decode(), parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"no JSON ({_brief(str(error))}): {_brief(raw[:300].decode(errors='replace'))!r}") from error


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _brief(text: str) -> str:
    text = " ".join(text.encode(errors="backslashreplace").decode().split())
    return text if len(text) <= 200 else text[:197] + "..."


def server_of(url: str, proxy: str = "") -> Server:
    """The server at an address; the proxy "environment" is the one that `http_proxy` names.

    Raises:
        UserError: what is wrong with the addresses.
    """
    problems = _url_problems("server", url, ("http", "https"))
    if proxy == "environment":
        proxy = getproxies().get("http", "")
    if proxy and not problems:
        problems += _url_problems("proxy", proxy, ("http",))
        if url.startswith("https:"):
            problems.append("an https server is not reached through a proxy; wanted an http server, or no proxy")
    if problems:
        raise UserError(problems)
    return Server(url.rstrip("/"), proxy)


def _url_problems(what: str, url: Any, schemes: tuple[str, ...]) -> list[str]:
    wanted = f"wanted {' or '.join(f'{scheme}://HOST:PORT' for scheme in schemes)}, with a path where there is one"
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        parts = urlsplit(url)
        if parts.username is not None or parts.query or parts.fragment:
            return [f"{what} at {parts.hostname!r}: an address has no user's name, ? or #; {wanted}"]
        if parts.scheme in schemes and parts.hostname and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url:
            return []
    return [f"{what} is {url!r}; {wanted}"]
