"""An event loop of an instance's own, for a library of coroutines, which connects to nothing unless it may."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

from ...core.errors import UserError

T = TypeVar("T")


class OfflineLoop(asyncio.SelectorEventLoop):
    """Looks no address up and connects to none; what was asked for is kept in `refused`. Sockets inside the machine's file system are let be."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        self._refuse(f"{host.decode() if isinstance(host, bytes) else host}:{port}")

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self._refuse(":".join(map(str, address[:2])))
        await super().sock_connect(sock, address)

    def _refuse(self, address: str) -> NoReturn:
        self.refused.append(address)
        raise ConnectionRefusedError(f"no connection to {address}: the network was not asked for")


class OwnLoop:
    """Runs coroutines to their end, from any thread, one that runs a loop too; a forked process gets a loop of its own.

    Args:
        who: asks for connections, for messages.
        network: connections are made; without it a coroutine that asked for one is a `UserError`, whatever it made of the refusal.
    """

    def __init__(self, who: str, network: bool) -> None:
        self._who = who
        self._network = network
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        loop = self._here()
        task = loop.create_task(coroutine)
        try:
            return self._until_done(loop, task)
        finally:
            if not task.done():  # a time limit or Ctrl-C came from outside
                task.cancel()
                self.close()
            if refused := getattr(loop, "refused", None):
                asked = ", ".join(dict.fromkeys(refused))
                refused.clear()
                raise UserError(f"{self._who} asked for a connection to {asked}; only with the argument network true is it given one")

    def _until_done(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[T]) -> T:
        if not _in_a_loop():
            return loop.run_until_complete(task)
        with ThreadPoolExecutor(1) as other:  # in a thread that runs a loop, no second one can
            running = other.submit(loop.run_until_complete, task)
            try:
                return running.result()
            finally:
                if not running.done():
                    loop.call_soon_threadsafe(task.cancel)

    def _here(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._process != os.getpid():
            self._loop = asyncio.new_event_loop() if self._network else OfflineLoop()
            self._process = os.getpid()
        return self._loop

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end, parts of asyncio are gone
            if self._loop is not None and self._process == os.getpid():
                self._loop.close()

    def close(self) -> None:
        """Cancel what still runs and close the loop; the next coroutine gets another."""
        loop, self._loop = self._loop, None
        if loop is None or self._process != os.getpid() or loop.is_running():
            return
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        with contextlib.suppress(Exception):
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=5))
            loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
