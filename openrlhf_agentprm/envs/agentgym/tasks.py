"""Task ids `NAME_NUMBER`: dealt to the splits by a profile, or read from AgentGym's files of rows `{"item_id": "webshop_5238"}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..base import SPLITS, LazyTasks
from .profile import Profile

_TENTHS: Mapping[str, tuple[int, ...]] = {"train": tuple(range(8)), "validation": (8,), "test": (9,)}


def number_of(profile: Profile, task_id: str) -> int:
    """The number of a task.

    Raises:
        UserError: it is no task of this server's.
    """
    name, _, number = str(task_id).rpartition("_")
    if name != profile.name or not (number.isascii() and number.isdigit()) or len(number) > 15:
        raise UserError(f"task {task_id!r} is no '{profile.name}_NUMBER', such as '{profile.name}_7'")
    return int(number)


def tasks_of(profile: Profile, split: str) -> Sequence[str]:
    """The tasks that a profile deals to a split."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
    return _Numbers(profile, split)


class _Numbers(LazyTasks):
    """Of every ten numbers eight train, the ninth validates and the tenth tests; or a range of them."""

    def __init__(self, profile: Profile, split: str) -> None:
        self._name, tasks = profile.name, profile.tasks
        self._range, self._tenths = None, _TENTHS[split]
        if isinstance(tasks, int):
            count = sum(len(range(tenth, tasks, 10)) for tenth in self._tenths)
        else:
            self._range = range(*tasks[split])
            count = len(self._range)
        super().__init__(count)

    def task(self, index: int) -> str:
        ten, place = divmod(index, len(self._tenths))
        return f"{self._name}_{10 * ten + self._tenths[place] if self._range is None else self._range[index]}"


def read_item_ids(profile: Profile, given: str | Mapping[str, str]) -> dict[str, list[str]]:
    """The splits from files: one for each split that is named, or one whose rows are dealt by tens.

    Raises:
        UserError: a file cannot be read, a row is of another server, or a task is in two splits.
    """
    if isinstance(given, str):
        rows = _rows(profile, given)
        return {split: [row for n, row in enumerate(rows) if n % 10 in tenths] for split, tenths in _TENTHS.items()}
    if not isinstance(given, Mapping) or not given or set(given) - set(SPLITS):
        raise UserError(f"item_ids is {given!r}; wanted a *.json file, or one for each of {', '.join(SPLITS)}")
    found = {split: _rows(profile, given[split]) if split in given else [] for split in SPLITS}
    seen: dict[str, str] = {}
    for split, rows in found.items():
        for row in rows:
            if seen.setdefault(row, split) != split:
                raise UserError(f"item_ids: {row!r} is in {given[seen[row]]!r} and in {given[split]!r}; splits must be disjoint")
    return found


def _rows(profile: Profile, path: Any) -> list[str]:
    """The ids in a file, each once: of a JSON list, or of a JSON object a line."""
    if not isinstance(path, str):
        raise UserError(f"item_ids names {path!r}; wanted a file")
    try:
        text = Path(path).read_text(encoding="utf-8")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"item_ids: {path!r} cannot be read: {error}") from error
    found: dict[str, None] = {}
    for place, row in enumerate(rows):
        task = row.get("item_id") if isinstance(row, dict) else row
        try:
            number_of(profile, task if isinstance(task, str) else "")
        except UserError as error:
            more = "; a profile with that name and the base of this one takes them" if isinstance(task, str) and "_" in task else ""
            raise UserError(f"item_ids: {path!r}, row {place}: {error}{more}") from error
        found[str(task)] = None
    if not found:
        raise UserError(f"item_ids: {path!r} has no rows")
    return list(found)
