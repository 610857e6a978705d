"""Checks of the public checker that take more than one instance in one thread: threads, forks, other processes, hundreds of episodes."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from .subject import Env, Subject, brief, same

_START = 60.0  # seconds for Python and the imports of another process
_MEMORY_SECONDS = 20.0
_GROWTH = 48 << 20  # bytes that caches may take


class Told(str):
    """What a check has measured, where it passed."""


def check_threads_play_apart(s: Subject) -> str | None:
    """Two instances in two threads at once."""
    task = s.tasks()[0]
    actions, alone = s.play(s.new(), task)
    quiet, found = replace(s, announce=lambda what: None), dict[int, Any]()

    def work(number: int) -> None:
        try:
            found[number] = quiet.play(quiet.new(), task, actions)[1]
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(2)]
    limit = s.time_limit * (len(actions) + 2)
    end = time.monotonic() + limit
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
        s.announce("an episode in each of two threads")
        threads[0].join(0.1)
        threads[1].join(0.1)
    for number in range(2):
        trace = found.get(number)
        assert trace is not None, f"an episode in a thread had not ended after {limit:g} s"
        assert not isinstance(trace, BaseException), f"in a thread: {type(trace).__name__}: {trace}"
        same(alone, trace, "an episode alone and in one of two threads")
    return None


def check_a_fork_plays_the_same(s: Subject) -> str | None:
    """An instance that a forked process builds, as the pool's workers are forked from one that has imported the environment."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return "this system cannot fork"
    _check_elsewhere(s, multiprocessing.get_context("fork"), "in a forked process")
    return None


def check_another_interpreter_plays_the_same(s: Subject) -> str | None:
    """One with another hash seed: what is drawn from a set's order, or from `hash`, is another episode there."""
    try:
        pickle.dumps(s.make)
    except (pickle.PicklingError, TypeError, AttributeError):
        return "what builds it cannot be sent to another process"
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "20857"
    try:
        _check_elsewhere(s, multiprocessing.get_context("spawn"), "in another interpreter, with another hash seed")
    finally:
        del os.environ["PYTHONHASHSEED"]
        if before is not None:
            os.environ["PYTHONHASHSEED"] = before
    return None


def _check_elsewhere(s: Subject, context: BaseContext, where: str) -> None:
    task = s.tasks()[0]
    actions, here = s.play(s.new(), task)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_play, args=(theirs, s.make, s.time_limit, task, actions), daemon=True)  # type: ignore[attr-defined]
    limit = _START + s.time_limit * (len(actions) + 2)
    end = time.monotonic() + limit
    try:
        process.start()
        theirs.close()
        while not ours.poll(0.2):
            s.announce(f"an episode {where}")  # it is waited for, here too where the checker runs in a process of its own
            assert time.monotonic() < end, f"an episode {where} had not ended after {limit:g} s"
        trace = ours.recv()
    except EOFError:
        process.join(5)
        raise AssertionError(f"an episode {where} ended its process (exit status {process.exitcode})") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    assert not isinstance(trace, str), f"{where}: {trace}"
    same(here, trace, f"an episode here and {where}")


def _play(connection: Connection, make: Callable[[], Env], limit: float, task: str | None, actions: list[str]) -> None:
    """Body of the other process: what came back, or an error's text."""
    try:
        subject = Subject(make, time_limit=limit)
        connection.send(subject.play(subject.new(), task, actions)[1])
    except BaseException as error:
        connection.send(f"{type(error).__name__}: {error}")


def check_memory_stays_flat(s: Subject) -> str | None:
    """Memory of the process's own between the first tenth and the end of `episodes` episodes, or of as many as 20 seconds hold."""
    try:
        _own_memory()
    except OSError:
        return "this system does not tell a process's memory"
    env, tasks, began = s.new(), s.tasks(), time.monotonic()
    first, played = 0, 0
    for number in range(s.episodes):
        s.play(env, tasks[number % len(tasks)])
        played += 1
        if not first and played >= s.episodes / 10:
            first = _own_memory()
        if time.monotonic() - began > _MEMORY_SECONDS and first:
            break
    grown = _own_memory() - first
    since = max(1, played - s.episodes // 10)
    assert grown < _GROWTH, f"{grown / 2**20:.0f} MiB more after {since} further episodes ({grown / since / 1024:.0f} KiB each)"
    return Told(f"{max(0, grown) / 2**20:.1f} MiB more after {since} further episodes")


def _own_memory() -> int:
    """Bytes that no file backs, swapped ones too. Mapped files are none of it: the kernel drops and loads their pages as it likes. Nor is what
    was freed: a leak that fills it would not be seen."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc has it
        trim(0)
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        sizes = dict(line.split(":", 1) for line in file)
    return sum(int(sizes.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem", "VmSwap")) * 1024


def check_reset_and_step_take(s: Subject) -> str | None:
    """Median times, of up to 20 resets and their first steps."""
    env, task = s.new(), s.tasks()[0]
    resets: list[float] = []
    steps: list[float] = []
    began = time.monotonic()
    while len(resets) < 20 and (not resets or time.monotonic() - began < 5):
        started = time.perf_counter()
        s.reset(env, task)
        resets.append(time.perf_counter() - started)
        action = s.some_action(env, 0)
        started = time.perf_counter()
        s.step(env, action)
        steps.append(time.perf_counter() - started)
    middle = [1000 * sorted(times)[len(times) // 2] for times in (resets, steps)]
    return Told(f"reset {middle[0]:.3g} ms, step {middle[1]:.3g} ms (medians of {len(resets)})")


def check_a_closed_one_disturbs_no_other(s: Subject) -> str | None:
    """An instance goes on while another is closed, and a closed one says so when it is stepped, or answers; it does not hang."""
    task = s.tasks()[0]
    actions, alone = s.play(s.new(), task)
    one, other = s.new(), s.new()
    s.reset(other, task)
    trace: list[Any] = [s.reset(one, task)[0]]
    with s.calling("close()"):
        other.close()
    trace += s.go_on(one, actions)[0]
    same(alone, trace, "an episode alone and beside an instance that is closed")
    try:
        s.step(other, actions[0] if actions else "look")
    except AssertionError as error:
        assert "did not return" not in str(error), f"behind close(): {brief(str(error))}"
    except Exception as error:  # refused, as it may be
        return Told(f"a closed one that is stepped raises {type(error).__name__}")
    return None
