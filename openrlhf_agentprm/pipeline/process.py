"""A stage's process: followed to its end, and never left running, whatever becomes of the runner."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

_HELD_OPEN = 3.0  # seconds that more may come from what a stage has left behind


def run_process(command: list[str], log: FileIO, on_line: Callable[[str], None], *, lock: int) -> tuple[int, list[str]]:
    """Run a command to its end, in a process group of its own.

    Args:
        log: takes the output.
        on_line: told each line of it.
        lock: a file descriptor that stays open as long as the process's guard lives.

    Returns:
        The exit code and the last lines of the output. On any error of the runner's own the process is stopped first.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "openrlhf_agentprm.pipeline.guard", str(os.getpid()), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        pass_fds=(lock,),
    )
    try:
        tail = _follow(process, log, on_line)
        return process.wait(), tail
    except BaseException:
        _stop(process, log)
        raise


@contextlib.contextmanager
def signals_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP do what Ctrl-C does. One that is ignored, as under nohup, stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)}
    before = {sign: handler for sign, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    ctrl_c = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: Any) -> None:
        for sign in before:  # `timeout` and a closing terminal send theirs twice; the second is to disturb no saving
            signal.signal(sign, signal.SIG_IGN)
        (ctrl_c if callable(ctrl_c) else signal.default_int_handler)(number, frame)

    for sign in before:
        signal.signal(sign, interrupt)
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _follow(process: subprocess.Popen[bytes], log: FileIO, on_line: Callable[[str], None]) -> list[str]:
    """Copy the output to the log; the last lines of it. A progress bar's carriage returns count as line ends.

    The output of a stage that has ended may be held open by what it has left behind, a server in a session of its own, say.
    """
    tail: list[str] = []
    rest = b""
    assert process.stdout is not None
    ended = 0.0  # when it was first seen to have, with nothing left to read
    while True:
        if not select.select([process.stdout], [], [], 0.5)[0]:
            ended = (ended or time.monotonic()) if process.poll() is not None else 0.0
            if ended and time.monotonic() - ended > _HELD_OPEN:
                return tail
            continue
        if not (chunk := os.read(process.stdout.fileno(), 1 << 16)):
            return tail
        log.write(chunk)
        *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for raw in lines:
            if text := raw.decode(errors="replace").strip():
                tail = [*tail[-200:], text]
                on_line(text)


def _stop(process: subprocess.Popen[bytes], log: FileIO) -> None:
    """Ctrl-C for the stage and its children; harder after a while, or at once on a further Ctrl-C."""
    for sign, patience in ((signal.SIGINT, 20), (signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
            if _ended(process, log, patience):
                return
        except KeyboardInterrupt:
            continue
        except ProcessLookupError:
            return


def _ended(process: subprocess.Popen[bytes], log: FileIO, patience: float) -> bool:
    """Whether the stage and its children end in time. Their output is taken meanwhile: a full pipe would block a stage that saves."""
    assert process.stdout is not None
    end = time.monotonic() + patience
    while (left := end - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], min(left, 0.1))[0]:
            if chunk := os.read(process.stdout.fileno(), 1 << 16):
                with contextlib.suppress(OSError):  # the log may be what failed
                    log.write(chunk)
                continue
            while not (process.poll() is not None and not _group_lives(process.pid)):  # a child may have closed its output
                if time.monotonic() > end:
                    return False
                time.sleep(0.02)
            return True
        elif process.poll() is not None and not _group_lives(process.pid):
            return True
    return False


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
