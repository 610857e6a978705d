"""ScienceWorld's task types, how many variations each has, and how the package divides them."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import UserError, did_you_mean
from ..base import SPLITS

RELEASE = "1.2.3"  # of the package, whose numbers these are
VARIATIONS = {
    "boil": 30,
    "change-the-state-of-matter-of": 30,
    "chemistry-mix": 32,
    "chemistry-mix-paint-secondary-color": 36,
    "chemistry-mix-paint-tertiary-color": 36,
    "find-animal": 300,
    "find-living-thing": 300,
    "find-non-living-thing": 300,
    "find-plant": 300,
    "freeze": 30,
    "grow-fruit": 126,
    "grow-plant": 126,
    "identify-life-stages-1": 14,
    "identify-life-stages-2": 10,
    "inclined-plane-determine-angle": 168,
    "inclined-plane-friction-named-surfaces": 1386,
    "inclined-plane-friction-unnamed-surfaces": 162,
    "lifespan-longest-lived": 125,
    "lifespan-longest-lived-then-shortest-lived": 125,
    "lifespan-shortest-lived": 125,
    "measure-melting-point-known-substance": 436,
    "measure-melting-point-unknown-substance": 300,
    "melt": 30,
    "mendelian-genetics-known-plant": 120,
    "mendelian-genetics-unknown-plant": 480,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 20,
    "test-conductivity": 900,
    "test-conductivity-of-unknown-substances": 600,
    "use-thermometer": 540,
}
SIMPLIFICATIONS = ("easy", "teleportAction", "selfWateringFlowerPots", "openContainers", "openDoors", "noElectricalAction")


def variations(task_type: str, split: str) -> range:
    """The package's own division: the first half is for training, a quarter for validation, the rest for tests."""
    quarter = VARIATIONS[task_type] // 4
    return {
        "train": range(2 * quarter),
        "validation": range(2 * quarter, 3 * quarter),
        "test": range(3 * quarter, VARIATIONS[task_type]),
    }[split]


def task_ids(task_types: Sequence[str], split: str) -> list[str]:
    """`TYPE/VARIATION`: every type's first variation, then every type's second, …"""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{did_you_mean(split, SPLITS)} (known: {', '.join(SPLITS)})")
    numbers = {name: variations(name, split) for name in task_types}
    most = max(len(found) for found in numbers.values())
    return [f"{name}/{found[k]}" for k in range(most) for name, found in numbers.items() if k < len(found)]


def parse_task(task_id: str) -> tuple[str, int]:
    """Type and variation of a task id.

    Raises:
        UserError: it names none.
    """
    name, _, number = task_id.partition("/")
    if name not in VARIATIONS:
        raise UserError(
            f"no ScienceWorld task {task_id[:200]!r}{did_you_mean(name[:200], VARIATIONS)} (wanted: TYPE/VARIATION, such as boil/0)"
        )
    if not number.isdecimal() or len(number) > 6 or int(number) >= VARIATIONS[name]:
        raise UserError(f"no ScienceWorld task {task_id[:200]!r}: {name} has the variations 0 to {VARIATIONS[name] - 1}")
    return name, int(number)


def as_list(value: str | Sequence[str], what: str, known: Sequence[str]) -> list[str]:
    """A comma-separated text or a list, as a list of known names.

    Raises:
        UserError: a name is not known.
    """
    names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else list(value)
    problems = [f"unknown {what} {n!r}{did_you_mean(str(n), known)} (known: {', '.join(known)})" for n in names if n not in known]
    if problems:
        raise UserError(problems)
    return list(dict.fromkeys(names))


def takes_electricity(task_type: str) -> bool:
    """Whether a task cannot be done under the simplification `noElectricalAction`."""
    return "power-component" in task_type or "conductivity" in task_type
