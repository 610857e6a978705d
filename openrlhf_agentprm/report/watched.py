"""What a PPO run wrote as it was watched."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .load import RunFolder, Stage

FILE = "monitor.jsonl"


@dataclass
class Watched:
    """A PPO stage's monitors: rows by step of training batches and of held-out evaluations, and the alarms that rang."""

    stage: Stage
    training: dict[int, dict[str, Any]] = field(default_factory=dict)
    held_out: dict[int, dict[str, Any]] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)


def read_monitor(run: RunFolder, stage: Stage) -> Watched | None:
    """What a run wrote as it was watched; of steps that it did twice, since it was resumed, the later row counts."""
    path = run.checkpoint(stage) / FILE
    if not path.is_file():
        return None
    found = Watched(stage)
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > 1 and not lines[-1].endswith("}"):  # what a full disk has left of a row
        lines.pop()
    for line in lines:
        row = json.loads(line)
        if row["kind"] == "alarm":
            found.alarms = [alarm for alarm in found.alarms if alarm["step"] < row["step"]] + [row]
        else:
            getattr(found, "held_out" if row["kind"] == "held_out" else "training")[int(row["step"])] = row
    return found if found.training or found.held_out else None
