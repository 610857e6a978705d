"""The public checker in a process of its own, for environments that end their process or hang where no signal reaches Python.

The process runs one check after the other and sends each result as it has it, and the name of each call to the environment before it is
made. When it ends or stays silent, the check that it was at has failed, and a fresh process goes on with the next one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from typing import Any

from ..core.errors import UserError
from .checker import CHECKS, Result, name_of, run_check
from .subject import Env, Subject

_SPAWN = multiprocessing.get_context("spawn")
_START_LIMIT = 120.0  # seconds for our own part: starting Python and importing
_GRACE = 5.0  # seconds after a call's limit, in which the process can report the breach itself


def check_env_isolated(make: Callable[[], Env], time_limit: float = 30.0, **options: Any) -> Iterator[Result]:
    """`check_env`, whatever the environment does to its process; each result is given out as its check ends.

    Args:
        make: builds a fresh environment; it must be picklable (no lambda).
        time_limit: seconds that one call may take.
        options: other fields of `Subject`.

    Raises:
        UserError: the environment cannot be built; told before any check.
    """
    done = 0
    while done < len(_STEPS):
        with contextlib.closing(_results(make, options | {"time_limit": time_limit}, done)) as results:
            for result in results:
                if done:
                    yield result
                elif result.problem:
                    raise UserError(result.problem.splitlines())
                done += 1


def _build(s: Subject) -> None:
    try:
        s.new().close()
    except UserError as error:
        raise AssertionError(str(error)) from error
    except Exception as error:
        raise AssertionError(f"the environment cannot be built: {type(error).__name__}: {error}") from error


_STEPS = [_build, *CHECKS]


def _results(make: Callable[[], Env], options: dict[str, Any], first: int) -> Generator[Result, None, None]:
    """Results of the steps from `first` on, by one process; if it ends or falls silent, the last result tells so."""
    ours, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_run_steps, args=(theirs, make, options, first))
    process.start()
    theirs.close()
    at, doing, limit = first, "its start", _START_LIMIT
    try:
        while ours.poll(limit):
            message = ours.recv()
            limit = options["time_limit"] + _GRACE
            if isinstance(message, str):
                doing = message
                continue
            yield message
            at += 1
            if at == len(_STEPS):
                return
        yield Result(name_of(_STEPS[at]), f"{doing} had not returned after {limit:g} s, and its process was killed")
    except (EOFError, ConnectionResetError):
        process.join(_GRACE)
        yield Result(name_of(_STEPS[at]), f"the environment's process ended during {doing} ({_ending(process.exitcode)})")
    finally:
        process.kill()
        process.join()
        ours.close()


def _ending(exitcode: int | None) -> str:
    return signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else f"exit status {exitcode}"


def _run_steps(connection: Connection, make: Callable[[], Env], options: dict[str, Any], first: int) -> None:
    """Body of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides what Ctrl-C means
    subject = Subject(make, announce=connection.send, **options)
    with contextlib.suppress(BrokenPipeError):  # the owner is gone
        for step in _STEPS[first:]:
            connection.send(run_check(step, subject))
