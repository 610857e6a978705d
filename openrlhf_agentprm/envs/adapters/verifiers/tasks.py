"""Rows of a verifiers environment's data sets as tasks."""

from __future__ import annotations

from ...base import LazyTasks


class RowTasks(LazyTasks):
    """`NAME/NUMBER` of the rows of a data set: "all", or of each ten of them (of all, where there are fewer) the "last", the "last but one", the
    others ("most but two"), or all but the last ("most")."""

    def __init__(self, name: str, rows: int, share: str) -> None:
        self._name = name
        self._of = max(1, min(10, rows))
        first, end = {"all": (0, 0), "last": (-1, 0), "last but one": (-2, -1), "most": (0, -1), "most but two": (0, -2)}[share]
        self._first = max(0, self._of + first) if first else 0
        self._taken = max(0, self._of + end - self._first)
        full, rest = divmod(rows, self._of)
        super().__init__(full * self._taken + max(0, min(rest - self._first, self._taken)))

    def task(self, index: int) -> str:
        block, place = divmod(index, self._taken)
        return f"{self._name}/{block * self._of + self._first + place}"
