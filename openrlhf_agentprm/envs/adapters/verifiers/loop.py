"""An event loop of an instance's own, for a library of coroutines, which connects to nothing unless it may."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

from ....core.errors import UserError

T = TypeVar("T")


class PollLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on a selector that no forked process shares: what a child's copy closes is not taken out of its parent's."""

    def __init__(self) -> None:
        super().__init__(selectors.PollSelector())


class OfflineLoop(PollLoop):
    """Looks no address up and connects to none; what was asked for is added to a list. Sockets inside the machine's file system are let be.

    Args:
        who: asks, for messages.
        refused: is added to.
    """

    def __init__(self, who: str, refused: list[str]) -> None:
        super().__init__()
        self._who, self._refused = who, refused

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        self._refuse(f"{host.decode() if isinstance(host, bytes) else host}:{port}")

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self._refuse(":".join(map(str, address[:2])))
        await super().sock_connect(sock, address)

    def _refuse(self, address: str) -> NoReturn:
        self._refused.append(f"{self._who} asked for a connection to {address}; only with the argument network true is it given one")
        raise ConnectionRefusedError(f"no connection to {address}: the network was not asked for")


class OwnLoop:
    """Runs coroutines to their end, from any thread, one that runs a loop too; a forked process gets a loop of its own.

    A coroutine in which something was refused is a `UserError`, whatever it made of the refusal.

    Args:
        who: asks for connections, for messages.
        network: connections are made; without it they are refused.

    Attributes:
        refused: what was refused while a coroutine runs; whoever else refuses something adds to it.
    """

    def __init__(self, who: str, network: bool) -> None:
        self._who = who
        self._network = network
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self.refused: list[str] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        loop = self._here()
        self.refused.clear()
        task = loop.create_task(coroutine)
        try:
            result = self._until_done(loop, task)
        except Exception as error:
            if self.refused and task.done() and not task.cancelled():
                raise UserError(dict.fromkeys(self.refused)) from error
            raise
        finally:
            if not task.done():  # a time limit or Ctrl-C came from outside
                task.cancel()
                self.close()
        if self.refused:
            raise UserError(dict.fromkeys(self.refused))
        return result

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
            self._loop = PollLoop() if self._network else OfflineLoop(self._who, self.refused)
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

        async def cancelled() -> None:
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=5)
            await loop.shutdown_asyncgens()

        with contextlib.suppress(Exception):
            self._until_done(loop, loop.create_task(cancelled()))
        loop.close()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
