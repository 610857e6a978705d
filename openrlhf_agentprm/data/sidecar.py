"""Labels made beforehand: a folder of Parquet rows (episode_id, turn, target, keep, weight) beside what they were made of and at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import UserError
from .files import write_whole

SCHEMA = pa.schema(
    [("episode_id", pa.string()), ("turn", pa.int32()), ("target", pa.float32()), ("keep", pa.bool_()), ("weight", pa.float32())]
)
_ABOUT = "labels.json"
_KIND = "targets"  # a target for each turn; of an older folder, which does not say its kind, too
_FILES = {"targets": "labels.parquet"} | {kind: f"{kind}.parquet" for kind in ("pairs", "episode_pairs", "next_actions", "selection")}
_ALIKE: dict[str, Any] = {"method": "unknown", "kind": _KIND, "scale": "probability", "step_delimiter": []}  # and what an absent key means
_NAMES = {
    "targets": "targets of turns",
    "pairs": "preference pairs",
    "episode_pairs": "pairs of episodes",
    "next_actions": "sampled actions",
    "selection": "selected turns",
}


@dataclass
class Sidecar:
    """Labels of a store.

    Args:
        rows: a table of `SCHEMA`; a turn without a row has no label.
        cost: what making them took beyond the store: sampled_tokens, environment_steps, seconds.
        figures: what a reader would ask of them, by name.
    """

    rows: pa.Table
    cost: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Write the labels, then `labels.json`, which says that they are whole."""
        write_rows(folder, _KIND, self.rows, SCHEMA, {**about, "cost": self.cost, "figures": self.figures})


def write_rows(folder: str | Path, kind: str, rows: pa.Table, schema: pa.Schema, about: Mapping[str, Any]) -> None:
    """Write `rows` as the one thing that the folder holds, then `labels.json`, which says that they are whole and of what kind."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)  # of labels that were here before, and are no longer whole from now on
    for other in set(_FILES.values()) - {_FILES[kind]}:
        (folder / other).unlink(missing_ok=True)
    half = folder / ".labels.tmp"
    try:
        pq.write_table(rows.cast(schema), half, compression="zstd")
        half.replace(folder / _FILES[kind])
    finally:
        half.unlink(missing_ok=True)
    write_whole(folder / _ABOUT, json.dumps({**about, "kind": kind}, indent=1) + "\n")


def read_rows(folder: str | Path, kind: str, schema: pa.Schema) -> pa.Table:
    """The rows of a folder of this kind, or of several folders divided by commas.

    Raises:
        UserError: there are none, they are of another kind, were not finished, or the file is torn.
    """
    found = read_about(folder).get("kind", _KIND)
    if found != kind:
        raise UserError(f"{folder} holds {_NAMES[found]}, where {_NAMES[kind]} are wanted")
    return pa.concat_tables([_table(path / _FILES[kind], schema) for path in _folders(folder)])


def _table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path, schema=schema)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as labels ({error}); make them again with cli.label") from error


def read_about(folder: str | Path) -> dict[str, Any]:
    """How the labels of a folder were made; `method` is "unknown" where their maker does not say it.

    Several folders, divided by commas, are to be alike in method, kind, scale and steps; what the first one says is returned.

    Raises:
        UserError: there are none, they were not finished, this is no JSON object, or the folders are unlike.
    """
    first, *others = _folders(folder)
    about = _about(first)
    for other in others:
        if unlike := [key for key, value in _ALIKE.items() if _about(other).get(key, value) != about.get(key, value)]:
            raise UserError(
                f"the labels of {first} and of {other} differ in {', '.join(unlike)}; labels that are read together are made alike"
            )
    return about


def _folders(text: str | Path) -> list[Path]:
    """One folder, or those that commas divide."""
    parts = [part.strip() for part in str(text).split(",") if part.strip()]
    return [Path(text)] if Path(text).is_dir() or len(parts) < 2 else [Path(part) for part in parts]


def _about(folder: Path) -> dict[str, Any]:
    path = folder / _ABOUT
    if not path.is_file():
        raise UserError(f"{folder} holds no finished labels ({_ABOUT} is not there); make them with cli.label")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(about, dict):
        raise UserError(f"{path} is no JSON object, which tells how the labels were made")
    return {"method": "unknown", **about}


def read_labels(folder: str | Path) -> dict[str, tuple[list[float], list[float]]]:
    """By episode: target and weight of every turn from 0, NaN where a turn has no label.

    Raises:
        UserError: the folder holds no finished targets, the file is torn, or a kept target is no number.
    """
    columns = [column.to_pylist() for column in read_rows(folder, _KIND, SCHEMA).columns]
    found: dict[str, tuple[list[float], list[float]]] = {}
    for episode, turn, target, keep, weight in zip(*columns, strict=True):
        targets, weights = found.setdefault(episode, ([], []))
        missing = turn + 1 - len(targets)
        targets += [math.nan] * missing
        weights += [0.0] * missing
        if keep:
            if not (math.isfinite(target) and math.isfinite(weight) and weight >= 0):
                raise UserError(f"{folder}: episode {episode}, turn {turn} has the target {target} and the weight {weight}")
            targets[turn], weights[turn] = target, weight
    return found


def targets_outside(labels: Mapping[str, tuple[Sequence[float], Sequence[float]]], low: float, high: float) -> list[str]:
    """Which targets leave [low, high], in words: the first ten, and how many more.

    Args:
        labels: from `read_labels`.
    """
    found = [
        f"episode {episode}, turn {turn} has the target {target:g}; wanted {low:g} to {high:g}"
        for episode, (targets, _) in labels.items()
        for turn, target in enumerate(targets)
        if target < low or target > high  # NaN, no label, is neither
    ]
    return found[:10] + ([f"… and {len(found) - 10} more"] if len(found) > 10 else [])


def table_of(episode_ids: Sequence[str], turns: Sequence[int], targets: Any, keep: Any, weights: Any) -> pa.Table:
    """Columns of equal length as a table of `SCHEMA`."""
    columns = (episode_ids, turns, targets, keep, weights)
    return pa.table([pa.array(c, type=f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
