"""textworld's parsers and memory, which its games and ALFWorld's engine use, are one for a whole process and not safe for threads.

Whoever calls into textworld does it in turn.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

_LOCK = threading.RLock()
_PROPOSITIONS_KEPT = 20_000


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that no two threads of this process run at once, nor any other such method."""

    @functools.wraps(method)
    def locked(*args: Any) -> Any:
        with _LOCK:
            return method(*args)

    return locked


def forget_propositions() -> None:
    """textworld remembers every proposition ever made, about 1 MB a game; they compare by value, so they can be forgotten."""
    import mementos.core
    from textworld.logic import Proposition

    kept = getattr(mementos.core, "_memento_cache", {})
    if len(kept) > _PROPOSITIONS_KEPT:
        for key in [key for key in kept if key[0] is Proposition]:
            del kept[key]
