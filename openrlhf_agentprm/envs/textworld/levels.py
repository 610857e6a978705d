"""Levels: which kind of game TextWorld makes, and how hard. `coin_collector:level=5`, `cooking:recipe=2,take=1,go=6`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...core.errors import UserError, did_you_mean

Value = int | str
# Settings of each kind, with what is allowed and, first, what is taken where none is given. A `level` is TextWorld's own measure.
_YES_OR_NO = (0, 1)
SETTINGS: Mapping[str, Mapping[str, Sequence[Value]]] = {
    "custom": {"rooms": (3, *range(1, 51)), "objects": (6, *range(1, 101)), "length": (3, *range(1, 31))},
    "coin_collector": {"level": (5, *range(1, 151), *range(201, 234))},
    "treasure_hunter": {"level": (11, *range(1, 31))},
    "cooking": {
        "recipe": (1, *range(1, 6)),
        "take": (1, *range(1, 6)),
        "go": (1, 6, 9, 12),
        "open": _YES_OR_NO,
        "cook": _YES_OR_NO,
        "cut": _YES_OR_NO,
        "drop": _YES_OR_NO,
    },
    "simple": {"rewards": ("sparse", "balanced", "dense"), "goal": ("brief", "detailed", "none")},
}
DEFAULT = ("custom:rooms=3,objects=6,length=3", "coin_collector:level=5", "treasure_hunter:level=11", "cooking:open=1,cook=1")


@dataclass(frozen=True)
class Level:
    """A kind of game, and its settings other than the defaults, in the order of `SETTINGS`."""

    kind: str
    given: tuple[tuple[str, Value], ...]

    @property
    def settings(self) -> dict[str, Value]:
        """All of them."""
        return {name: values[0] for name, values in SETTINGS[self.kind].items()} | dict(self.given)

    def __str__(self) -> str:
        return self.kind + ":" * bool(self.given) + ",".join(f"{name}={value}" for name, value in self.given)

    @classmethod
    def parse(cls, text: str) -> Level:
        """A level by its name.

        Raises:
            UserError: every fault of it.
        """
        kind, _, rest = text.partition(":")
        if kind not in SETTINGS:
            raise UserError(
                f"unknown kind of TextWorld game in level {text!r}{did_you_mean(kind, SETTINGS)} (known: {', '.join(SETTINGS)})"
            )
        allowed, given, problems = SETTINGS[kind], dict[str, Value](), []
        for part in filter(None, rest.split(",")):
            name, _, value = (word.strip() for word in part.partition("="))
            values = {str(v): v for v in allowed.get(name, ())}
            if name not in allowed:
                problems.append(
                    f"level {text!r}: {kind} has no setting {name!r}{did_you_mean(name, allowed)} (known: {', '.join(allowed)})"
                )
            elif value not in values:
                problems.append(f"level {text!r}: {name} is {value!r} (allowed: {_told(allowed[name])})")
            else:
                given[name] = values[value]
        level = cls(kind, tuple((name, given[name]) for name in allowed if name in given))
        if kind == "cooking" and not problems and int(level.settings["take"]) > int(level.settings["recipe"]):
            problems.append(f"level {text!r}: take may not be more than recipe, the number of ingredients")
        if problems:
            raise UserError(problems)
        return level


def _told(values: Sequence[Value]) -> str:
    """Allowed values, runs of numbers as `1 to 5`.

    >>> _told((3, 1, 2, 3, 5)), _told(("a", "b"))
    ('1 to 3, 5', 'a, b')
    """
    numbers = sorted({v for v in values if isinstance(v, int)})
    if not numbers:
        return ", ".join(map(str, values))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
