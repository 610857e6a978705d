"""The names of searches: `2x2`, `bon:16`, `mcts:8`, `lookahead:1x4x2`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from ..core.errors import UserError, did_you_mean
from .options import Options

FORMS = "N×M (such as 2x2; 1x4 is greedy by Q), bon:N, mcts:S or lookahead:N×M×D"
_RANKED = frozenset({"margin", "policy_margin", "logprob_weight", "pav_alpha"})
TAKES = {
    "beam": _RANKED,
    "lookahead": _RANKED | {"lookahead_temperature"},
    "bon": frozenset({"margin"}),
    "mcts": frozenset({"mcts_rule", "mcts_prior", "mcts_actions", "exploration", "rollout_weight"}),
}
"""Which options have a part in which kind of method; seed, retries, budget and restore have one in all."""


@dataclass(frozen=True)
class Method:
    """A search and its sizes.

    Args:
        kind: "beam" (greedy by Q with one beam), "bon", "mcts" or "lookahead".
        beams, actions: N and M of beam and look-ahead.
        depth: D of look-ahead.
        count: N of best-of-N, S of MCTS.
    """

    kind: str
    beams: int = 0
    actions: int = 0
    depth: int = 0
    count: int = 0

    @property
    def name(self) -> str:
        if self.kind == "beam":
            return f"{self.beams}x{self.actions}"
        if self.kind == "lookahead":
            return f"lookahead:{self.beams}x{self.actions}x{self.depth}"
        return f"{self.kind}:{self.count}"

    def at_once(self, mcts_actions: int) -> int:
        """Actions that one task samples at once."""
        return {"bon": self.count, "mcts": mcts_actions}.get(self.kind, self.beams * self.actions)


def parse_method(text: str) -> Method:
    """A method by its name; × may stand for x.

    >>> parse_method("2x4")
    Method(kind='beam', beams=2, actions=4, depth=0, count=0)

    Raises:
        UserError: no method is written so.
    """
    kind, colon, sizes = text.lower().replace("×", "x").partition(":")
    if not colon:
        kind, sizes = "beam", kind
    if colon and kind not in ("bon", "mcts", "lookahead"):
        raise UserError(f"unknown search method {text!r}{did_you_mean(kind, ('bon', 'mcts', 'lookahead'))} (allowed: {FORMS})")
    numbers = [int(n) for n in sizes.split("x")] if re.fullmatch(r"\d+(x\d+)*", sizes) else []
    wanted = {"beam": 2, "lookahead": 3}.get(kind, 1)
    if len(numbers) != wanted or min(numbers[:2]) < 1:
        raise UserError(f"search method {text!r} is not {FORMS}, in whole numbers of 1 or more (D may be 0)")
    if kind == "beam":
        return Method(kind, *numbers)
    return Method(kind, *numbers) if kind == "lookahead" else Method(kind, count=numbers[0])


def without_part(methods: Iterable[Method], given: Sequence[str]) -> list[str]:
    """Options among those given in which none of the methods has a part."""
    taken = frozenset().union(*(TAKES[m.kind] for m in methods))
    optional = frozenset().union(*TAKES.values())
    return [name for name in given if name in optional and name not in taken]


def changed(options: Options) -> list[str]:
    """Names of the options that are not as they are by default."""
    return [f.name for f in fields(Options) if getattr(options, f.name) != f.default]
