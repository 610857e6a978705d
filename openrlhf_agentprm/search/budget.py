"""What a search may cost: sampled tokens and environment steps of a task, seconds of the whole search.

Tokens and steps are ceilings. A step of the search is taken only if, at its worst, the budget then still holds what plain play to the end of the
episode may need; where it does not, fewer actions are sampled, and in the end none. The best path is then played on by greedy decoding, which
the reserve is for; a budget below that is used up, and the path returned as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Need(NamedTuple):
    """Sampled tokens and environment steps."""

    tokens: int = 0
    turns: int = 0


@dataclass(frozen=True)
class Budget:
    """Ceilings; None is no ceiling.

    Args:
        tokens: sampled tokens of one task.
        turns: environment steps of one task, those not counted that only rebuild a state.
        seconds: of a search over all its tasks, whose steps they share. Looked at between steps: what runs over is one step and plain play.
    """

    tokens: int | None = None
    turns: int | None = None
    seconds: float | None = None

    def allowed(self, spent: Need, wanted: int, each: Need, besides: Need) -> int:
        """The most n up to `wanted` with spent + n · each + besides within the budget; 0 where there is none.

        >>> Budget(tokens=100).allowed(Need(20), wanted=8, each=Need(10), besides=Need(30))
        5
        """
        count = wanted
        for ceiling, used, one, fixed in zip((self.tokens, self.turns), spent, each, besides, strict=True):
            if ceiling is not None:
                left = ceiling - used - fixed
                count = min(count, 0 if left < 0 else left // one if one else wanted)
        return max(0, count)

    def left(self, tokens: int, turns: int) -> bool:
        """Whether one more action can be sampled and played."""
        return (self.tokens is None or tokens < self.tokens) and (self.turns is None or turns < self.turns)
