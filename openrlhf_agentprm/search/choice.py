"""Choosing the best-scored of several, where scores that are nearly equal say nothing, and where the policy has a say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from .nodes import Candidate


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


def own_choice(candidates: Sequence[Candidate]) -> Candidate:
    """What the policy does at a node: the action sampled most often; of those the likeliest, and of those the first."""
    return max(candidates, key=lambda c: (c.copies, c.logprob))


def rank(candidates: Sequence[Candidate], logprob_weight: float = 0.0, policy_margin: float = 0.0) -> None:
    """Set what the candidates of one node are chosen by.

        score(a) = Q(s, a) + w · (1/|a|) Σ_i log π(a_i | s, a_<i) + m · [a is the policy's own choice]

    so an action other than the policy's own has to beat it by m. As more actions are sampled the highest of their errors grows, while the own
    choice tends to the likeliest action: with the margin m a search tends to greedy decoding where scores differ by less than m.
    """
    for candidate in candidates:
        candidate.score = candidate.q + (logprob_weight * candidate.logprob if logprob_weight else 0.0)
    if candidates and policy_margin:
        own_choice(candidates).score += policy_margin
