"""What a policy would do at the states of an episode store: sampled actions, kept beside the store by episode and turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import UserError
from .files import write_whole
from .sidecar import read_about

METHOD = "next_actions"
SCHEMA = pa.schema([("episode_id", pa.string()), ("turn", pa.int32()), ("sample", pa.int32()), ("token_ids", pa.list_(pa.int32()))])
_FILE = "next_actions.parquet"
Actions = dict[str, list[list[list[int]]]]
"""By episode: for every turn from 0 the sampled actions, each its token ids."""


@dataclass
class NextActions:
    """Sampled actions of a store.

    Args:
        actions: by episode.
        cost: sampled_tokens, seconds.
        figures: what a reader would ask of them, by name.
    """

    actions: Actions
    cost: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Write the actions, then `labels.json`, which says that they are whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "labels.json").unlink(missing_ok=True)
        rows = [
            {"episode_id": episode, "turn": turn, "sample": n, "token_ids": token_ids}
            for episode, turns in self.actions.items()
            for turn, samples in enumerate(turns)
            for n, token_ids in enumerate(samples)
        ]
        half = folder / ".next_actions.tmp"
        try:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), half, compression="zstd")
            half.replace(folder / _FILE)
        finally:
            half.unlink(missing_ok=True)
        write_whole(folder / "labels.json", json.dumps({**about, "cost": self.cost, "figures": self.figures}, indent=1) + "\n")


def read_next_actions(folders: Sequence[str]) -> tuple[Actions, str | None]:
    """The actions of all folders, and the digest of the one policy that sampled them (None without a folder).

    Raises:
        UserError: a folder holds other labels or a torn file, or they are of several policies.
    """
    found: Actions = {}
    policies: dict[str, str] = {}
    for folder in folders:
        about = read_about(folder)
        if about["method"] != METHOD:
            raise UserError(
                f"{folder} holds labels by {about['method']}, not sampled actions; make them with cli.label --label.name {METHOD}"
            )
        policies.setdefault(about["policy_digest"], folder)
        try:
            rows = pq.read_table(Path(folder) / _FILE, schema=SCHEMA).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{Path(folder) / _FILE} cannot be read as sampled actions ({error}); make them again with cli.label"
            ) from error
        for row in sorted(rows, key=lambda r: (r["episode_id"], r["turn"], r["sample"])):
            turns = found.setdefault(row["episode_id"], [])
            turns += [[] for _ in range(row["turn"] + 1 - len(turns))]
            turns[row["turn"]].append(row["token_ids"])
    if len(policies) > 1:
        raise UserError(
            f"actions were sampled from {len(policies)} policies ({', '.join(policies.values())}); next actions are of one, π_(i−1)"
        )
    return found, next(iter(policies), None)
