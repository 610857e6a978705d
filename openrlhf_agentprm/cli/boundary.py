"""The one place where errors become messages and exit codes: 0 done, 2 the user can mend it, 1 anything else, 130 interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from ..core.errors import StoppedError, UserError


def run_command(command: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave the process. `--debug` among the arguments shows stack traces."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    with _noting_ctrl_c() as interrupts:
        try:
            code = command(arguments) or 0
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, SystemExit) and not interrupts:
                raise
            code, lines = _judge(KeyboardInterrupt() if interrupts else error)
            if debug:
                traceback.print_exc()
            print("\n".join(lines), file=sys.stderr, flush=True)
    sys.stdout.flush()
    sys.exit(code)


def _judge(error: BaseException) -> tuple[int, list[str]]:
    """(exit code, what to tell)."""
    if isinstance(error, UserError):
        return 2, [f"error: {problem}" for problem in error.problems]
    if isinstance(error, StoppedError) and not _is_full_disk(error):
        return 1, [f"error: {error}"]
    if isinstance(error, KeyboardInterrupt):
        return 130, ["interrupted; what was finished is kept, and the same command goes on from there"]
    if _is_full_disk(error):
        return 2, ["error: the disk is full: make room, then run the same command again; what was finished is kept", f"({error})"]
    if isinstance(error, OSError):
        return 2 if error.errno in (errno.EACCES, errno.EROFS, errno.EADDRINUSE, errno.ENOENT) else 1, [f"error: {error}"]
    if "EADDRINUSE" in str(error):
        return 2, [f"error: a port is in use already; give another (deepspeed --master_port N, ray start --port N): {error}"]
    return 1, [f"error: {type(error).__name__}: {error}", "(--debug shows where)"]


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the disk, of a quota, of the limit on a file's size (ulimit -f)
_FULL = re.compile("|".join([*map(os.strerror, _NO_ROOM), "PytorchStreamWriter failed writing", r"unexpected pos \d"]))
"""What safetensors and torch, which raise no OSError, say of a write that did not fit; a Ray worker's error carries its text."""


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _NO_ROOM) or _FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _noting_ctrl_c() -> Iterator[list[int]]:
    """A list that Ctrl-C adds to on its way: a library that meets the KeyboardInterrupt may make any error of it."""
    interrupts: list[int] = []

    def note(number: int, frame: Any) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # whoever ignores Ctrl-C goes on doing so
        yield interrupts
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
