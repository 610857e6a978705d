"""What a label method is given besides a store: numbers, and labels that were made before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..core.errors import UserError
from ..data.sidecar import Sidecar, read_about, read_labels, table_of
from ..data.store import EpisodeStore

Targets = Mapping[str, list[float]]  # by episode: the target of every turn from 0, NaN or missing at the end where there is none
NO_COST: Mapping[str, float] = {"sampled_tokens": 0, "environment_steps": 0}  # of labels that nothing was played for


def check_numbers(method: str, numbers: Mapping[str, tuple[Any, float, float]]) -> None:
    """Refuse options that are no numbers in their range, both ends of which are allowed.

    Args:
        numbers: by option: what came, least, most.

    Raises:
        UserError: all of them.
    """
    wrong = [
        f"{method}: {name} is {value!r}; wanted a number from {low:g} to {high:g}"
        for name, (value, low, high) in numbers.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high
    ]
    if wrong:
        raise UserError(wrong)


def check_flags(method: str, flags: Mapping[str, Any]) -> None:
    """Refuse options that are neither true nor false.

    Raises:
        UserError: all of them.
    """
    wrong = [f"{method}: {name} is {value!r}; allowed: true, false" for name, value in flags.items() if not isinstance(value, bool)]
    if wrong:
        raise UserError(wrong)


def check_choice(method: str, name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse an option that is none of `allowed`."""
    if value not in allowed:
        raise UserError(f"{method}: {name} is {value!r}; allowed: {', '.join(allowed)}")


def check_given(method: str, folders: Mapping[str, Any], what: str) -> None:
    """Refuse a method without the folders that it works on.

    Raises:
        UserError: names all that are missing.
    """
    wrong = {name: folder for name, folder in folders.items() if not isinstance(folder, str) or not folder}
    told = {name: "not given" if folder in (None, "") else repr(folder) for name, folder in wrong.items()}
    if wrong:
        raise UserError(
            [f'{method}: {name} is {came}; wanted {what}, as --label.options \'{{"{name}": "FOLDER"}}\'' for name, came in told.items()]
        )


def targets_in(folder: str, store: EpisodeStore) -> Targets:
    """Targets made before, of the episodes of a store.

    Raises:
        UserError: they are not whole, of none of the store's episodes, or of other steps than the store is read in.
    """
    from ..prm.steps import as_delimiters, shown

    made, wanted = as_delimiters(read_about(folder).get("step_delimiter", [])), getattr(store, "delimiters", ())
    if made != wanted:
        raise UserError(f"{folder} labels {shown(made)}, but the store is read in {shown(wanted)}; give both the same --prm.step_delimiter")
    found = {episode: targets for episode, (targets, _) in read_labels(folder).items()}
    if not found.keys() & store.ids():
        raise UserError(f"{folder} has a label for no episode of {store.path}; was it made for another store?")
    return found


def padded(targets: Targets, episode: str, turns: int) -> torch.Tensor:
    """Targets of an episode's turns, float64, NaN where there is none.

    Raises:
        UserError: there are labels behind its last turn.
    """
    own = targets.get(episode, [])
    if len(own) > turns:
        raise UserError(f"there are labels for {len(own)} turns of episode {episode}, which has {turns}; were they made for another store?")
    return torch.tensor([*own, *[math.nan] * (turns - len(own))], dtype=torch.float64)


class Rows:
    """Rows of a sidecar, gathered episode by episode."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.turns: list[int] = []
        self.targets: list[float] = []

    def add(self, episode: str, targets: torch.Tensor | list[float]) -> None:
        """Targets of all turns; NaN is no label."""
        own = targets.tolist() if isinstance(targets, torch.Tensor) else targets
        self.ids += [episode] * len(own)
        self.turns += range(len(own))
        self.targets += own

    def sidecar(self, cost: dict[str, float], figures: Mapping[str, Any], nothing: str) -> Sidecar:
        """
        Args:
            nothing: what to say where no turn has a label.

        Raises:
            UserError: no turn has one.
        """
        keep = [not math.isnan(t) for t in self.targets]
        kept = [t for t in self.targets if not math.isnan(t)]
        if not kept:
            raise UserError(nothing)
        all_figures = {
            "turns": len(self.ids),
            "labelled": len(kept),
            "mean_target": sum(kept) / len(kept),
            "targets_from_to": [min(kept), max(kept)],
        }
        return Sidecar(table_of(self.ids, self.turns, self.targets, keep, [1.0] * len(self.ids)), cost, {**all_figures, **figures})
