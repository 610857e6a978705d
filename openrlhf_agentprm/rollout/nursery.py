"""The process that an environment's workers are forked from, as the pool that owns it sees it; `rollout.zygote` is what runs in there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from ..core.errors import UserError

_OWN_LIMIT = 120.0  # seconds for our own part: starting Python, forking


@dataclass(frozen=True)
class Provision:
    """What workers may use, and how many wait behind them.

    Args:
        max_memory: GiB of data of one worker; what asks for more fails inside its process, and that episode with it.
        spares: workers beyond the pool's size with a built environment; one takes the place of a worker that hung or died.
    """

    max_memory: float | None = None
    spares: int = 0


class Child:
    """A forked worker, held so that a kill never meets another process that has got its number meanwhile: the zygote reaps it, not we."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle: int | None = None
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                self._handle = os.pidfd_open(pid)

    def kill(self) -> None:
        """End it, once; no error where it has ended."""
        if sys.platform != "linux":  # no handles: the number has to do
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            return
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)


class Nursery:
    """Forks workers of one environment; where its process is dead or hangs it is started anew, and all workers of the old one are gone with it.

    Args:
        name: registered environment.
        kwargs: its arguments.
        limit: seconds that building it may take.
        max_memory: GiB of data that one worker may have; None: any.

    Raises:
        UserError: the environment ends or hangs the process while it is built.
    """

    def __init__(self, name: str, kwargs: dict[str, Any], limit: float, max_memory: float | None = None) -> None:
        self.name = name
        self.kwargs = kwargs
        self.limit = limit
        self.max_memory = max_memory
        self._zygote: subprocess.Popen[bytes] | None = None
        self._start()

    def spawn(self) -> tuple[Child, socket.socket]:
        """A new worker, and our end of its connection."""
        try:
            return self._fork()
        except (RuntimeError, TimeoutError):
            self.close()
            self._start()
            return self._fork()

    def close(self) -> None:
        """End the process, and with it every worker."""
        if self._zygote is None:
            return
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._zygote.pid, signal.SIGKILL)
        self._zygote.wait()
        self._zygote = None

    @property
    def pid(self) -> int | None:
        return self._zygote.pid if self._zygote else None

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "openrlhf_agentprm.rollout.zygote",
            str(theirs.fileno()),
            self.name,
            json.dumps(self.kwargs),
            str(self.limit + 5),  # ours comes first, and says more
            str(self.max_memory or 0),
        ]
        self._zygote = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
        theirs.close()
        self._answers = self._control.makefile("rb")
        try:
            self._await_build()
        except BaseException:
            self.close()
            raise

    def _await_build(self) -> None:
        """Until the process has the environment's package, so that what hangs there is told instead of waited for."""
        self._answer(_OWN_LIMIT)
        try:
            self._answer(self.limit)
        except TimeoutError:
            raise UserError(
                f"environment {self.name!r} was not built within {self.limit:g} s (--env.reset_timeout): importing it or its constructor hangs; "
                "if they only need longer, raise the limit"
            ) from None
        except RuntimeError:
            raise UserError(f"environment {self.name!r} ended its process while it was being built; its messages are above") from None

    def _answer(self, limit: float) -> bytes:
        """The next line that the process says.

        Raises:
            TimeoutError: none came within `limit` seconds.
            RuntimeError: the process has died.
        """
        self._control.settimeout(limit)
        try:
            line = self._answers.readline()
        except TimeoutError:
            raise TimeoutError(f"the process that environment workers are forked from did not answer within {limit:g} s") from None
        except OSError:
            line = b""
        if not line:
            raise RuntimeError("the process that environment workers are forked from has died; its messages are above")
        return line

    def _fork(self) -> tuple[Child, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(OSError):  # a dead process shows by giving no answer
            socket.send_fds(self._control, [b"w"], [theirs.fileno()])
        try:
            return Child(int(self._answer(_OWN_LIMIT))), ours
        except BaseException:
            ours.close()
            raise
