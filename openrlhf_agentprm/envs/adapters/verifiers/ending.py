"""What is left to do when nobody holds an environment any more is done between calls of others.

A garbage collection comes anywhere: within a loop that runs, or under a lock that is held. Who runs a loop there may wait for ever.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # registered before us, it gives its threads up behind us  # noqa: F401
import contextlib
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable

_numbers = itertools.count()
_to_do: dict[int, Callable[[], None]] = {}  # of those that have not ended
_dropped: deque[int] = deque()


class Ending:
    """The end of an environment. It is called by whoever closes it, else by `end_dropped` or at the process's end, and does its work once.

    Args:
        owner: the environment.
        end: what is to be done; it does not hold `owner`.
    """

    def __init__(self, owner: object, end: Callable[[], None]) -> None:
        self._number = next(_numbers)
        _to_do[self._number] = end
        weakref.finalize(owner, _dropped.append, self._number).atexit = False

    def __call__(self) -> None:
        if end := _to_do.pop(self._number, None):
            end()


def end_dropped() -> None:
    """End those that were dropped; what goes wrong in that is none of the caller's business."""
    while True:
        try:
            number = _dropped.popleft()
        except IndexError:  # all is done, by another thread perhaps
            return
        if end := _to_do.pop(number, None):
            with contextlib.suppress(Exception):
                end()


def _end_all() -> None:
    _dropped.extend(list(_to_do))
    end_dropped()


# An end may need a thread, which the interpreter has none of any more when it comes to `atexit`.
getattr(threading, "_register_atexit", atexit.register)(_end_all)
