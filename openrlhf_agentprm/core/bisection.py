"""Finding the first fatal turn of a failed episode with few values (OmegaPRM, arXiv 2406.06592)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """What is known of the first turn behind which success is out of reach (MC = 0).

    Every turn before `low` has MC > 0, every turn from `high` on has MC = 0. Of a failed episode of K turns nothing more than `Bounds(0, K − 1)`
    is known: its last turn is fatal if no earlier one is. Each value halves what is between, so ⌈log2 K⌉ of them find the turn. It is the right
    one if no turn brings success back into reach.
    """

    low: int
    high: int

    @property
    def found(self) -> bool:
        return self.low >= self.high

    @property
    def probe(self) -> int:
        """The turn whose value is wanted next."""
        return (self.low + self.high) // 2

    def told(self, value: float) -> Bounds:
        """With the value of `probe`.

        >>> Bounds(0, 3).told(0.5).told(0.0)  # of four turns the second is alive and the third is fatal
        Bounds(low=2, high=2)
        """
        return Bounds(self.probe + 1, self.high) if value > 0 else Bounds(self.low, self.probe)


def selection_score(
    mc: float, length: float, visits: int, all_visits: int, *, alpha: float, beta: float, c_puct: float, scale: float
) -> float:
    """How much a failed rollout from a state is worth a search (arXiv 2406.06592, the rule of its tree).

        Q(s, r) + U(s),   Q(s, r) = α^{1 − MC(s)} · β^{len(r) / L},   U(s) = c_puct · √(Σ_s' N(s')) / (1 + N(s))

    Failures from states that mostly succeed come first, short ones before long ones, and states that were searched less.

    Args:
        mc: MC(s).
        length: len(r), tokens of the rollout behind the state.
        visits: N(s), searches from this state.
        all_visits: Σ_s' N(s'), searches in the tree.
        alpha, beta: in (0, 1].
        c_puct: weight of what was searched less.
        scale: L, tokens.

    >>> selection_score(0.5, 500, 0, 4, alpha=0.25, beta=0.5, c_puct=0.125, scale=500)  # 0.5 · 0.5 + 0.125 · 2
    0.5
    """
    return alpha ** (1 - mc) * beta ** (length / scale) + c_puct * math.sqrt(all_visits) / (1 + visits)
