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
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _ABOUT).unlink(missing_ok=True)  # of labels that were here before, and are no longer whole from now on
        half = folder / ".labels.tmp"
        try:
            pq.write_table(self.rows.cast(SCHEMA), half, compression="zstd")
            half.replace(folder / "labels.parquet")
        finally:
            half.unlink(missing_ok=True)
        write_whole(folder / _ABOUT, json.dumps({**about, "cost": self.cost, "figures": self.figures}, indent=1) + "\n")


def read_about(folder: str | Path) -> dict[str, Any]:
    """How the labels of a folder were made.

    Raises:
        UserError: there are none, or they were not finished.
    """
    path = Path(folder) / _ABOUT
    if not path.is_file():
        raise UserError(f"{folder} holds no finished labels ({_ABOUT} is not there); make them with cli.label")
    return json.loads(path.read_text(encoding="utf-8"))


def read_labels(folder: str | Path) -> dict[str, tuple[list[float], list[float]]]:
    """By episode: target and weight of every turn from 0, NaN where a turn has no label.

    Raises:
        UserError: the file is torn, or a kept target is no number.
    """
    read_about(folder)
    path = Path(folder) / "labels.parquet"
    try:
        columns = [pq.read_table(path, schema=SCHEMA).column(name).to_pylist() for name in SCHEMA.names]
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as labels ({error}); make them again with cli.label") from error
    found: dict[str, tuple[list[float], list[float]]] = {}
    for episode, turn, target, keep, weight in zip(*columns, strict=True):
        targets, weights = found.setdefault(episode, ([], []))
        missing = turn + 1 - len(targets)
        targets += [math.nan] * missing
        weights += [0.0] * missing
        if keep:
            if not (math.isfinite(target) and math.isfinite(weight) and weight >= 0):
                raise UserError(f"{path}: episode {episode}, turn {turn} has the target {target} and the weight {weight}")
            targets[turn], weights[turn] = target, weight
    return found


def table_of(episode_ids: Sequence[str], turns: Sequence[int], targets: Any, keep: Any, weights: Any) -> pa.Table:
    """Columns of equal length as a table of `SCHEMA`."""
    columns = (episode_ids, turns, targets, keep, weights)
    return pa.table([pa.array(c, type=f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
