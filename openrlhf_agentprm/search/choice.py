"""Choosing the best-scored of several, where scores that are nearly equal say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Scored(Protocol):
    """Whatever a search ranks."""

    @property
    def score(self) -> float: ...


S = TypeVar("S", bound=Scored)


def choose(entries: Sequence[S], count: int, margin: float = 0.0) -> list[S]:
    """`count` entries, one after the other: of those whose score is at most `margin` below the highest left, the first in order.

    The order is that of sampling, so where a scorer cannot tell actions apart the policy's own choice stands.
    """
    left = list(entries)
    chosen: list[S] = []
    while left and len(chosen) < count:
        floor = max(entry.score for entry in left) - margin
        chosen.append(left.pop(next(i for i, entry in enumerate(left) if entry.score >= floor)))
    return chosen
