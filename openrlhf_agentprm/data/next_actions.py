"""What a policy would do at the states of an episode store: sampled actions, kept beside the store by episode and turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.errors import UserError
from .sidecar import read_about, read_rows, write_rows

KIND = "next_actions"
SCHEMA = pa.schema([("episode_id", pa.string()), ("turn", pa.int32()), ("sample", pa.int32()), ("token_ids", pa.list_(pa.int32()))])
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
        rows = [
            {"episode_id": episode, "turn": turn, "sample": n, "token_ids": token_ids}
            for episode, turns in self.actions.items()
            for turn, samples in enumerate(turns)
            for n, token_ids in enumerate(samples)
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        write_rows(folder, KIND, table, SCHEMA, {**about, "cost": self.cost, "figures": self.figures})


def read_next_actions(folders: Sequence[str]) -> tuple[Actions, str | None]:
    """The actions of all folders, and the digest of the one policy that sampled them (None without a folder).

    Raises:
        UserError: a folder holds labels or a torn file, its actions are at steps, or they are of several policies.
    """
    found: Actions = {}
    policies: dict[str, str] = {}
    for folder in folders:
        rows = read_rows(folder, KIND, SCHEMA).to_pylist()
        about = read_about(folder)
        if about.get("step_delimiter"):
            raise UserError(
                f"{folder} holds actions at steps of responses, and next actions are whole responses; make them again with cli.label"
            )
        policies.setdefault(about["policy_digest"], folder)
        for row in sorted(rows, key=lambda r: (r["episode_id"], r["turn"], r["sample"])):
            turns = found.setdefault(row["episode_id"], [])
            turns += [[] for _ in range(row["turn"] + 1 - len(turns))]
            turns[row["turn"]].append(row["token_ids"])
    if len(policies) > 1:
        raise UserError(
            f"actions were sampled from {len(policies)} policies ({', '.join(policies.values())}); next actions are of one, π_(i−1)"
        )
    return found, next(iter(policies), None)
