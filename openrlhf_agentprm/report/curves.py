"""Training curves: scalars of TensorBoard event files, and what to show of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

Points = list[tuple[int, float]]
Scalars = dict[str, Points]


def read_scalars(folder: Path) -> Scalars:
    """Every scalar below a folder, by step.

    A resumed run leaves several event files. Where two hold the same step, the one written later counts: the run went back to its last
    checkpoint and did those steps again.
    """
    from tensorboard.backend.event_processing import event_accumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    latest: dict[str, dict[int, tuple[float, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")) if folder.is_dir() else []:
        events = event_accumulator.EventAccumulator(str(file), size_guidance={event_accumulator.SCALARS: 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                at = latest.setdefault(tag, {})
                if event.step not in at or event.wall_time >= at[event.step][0]:
                    at[event.step] = (event.wall_time, event.value)
    return {tag: [(step, at[step][1]) for step in sorted(at) if math.isfinite(at[step][1])] for tag, at in sorted(latest.items())}


def first_of(scalars: Scalars, names: Sequence[str]) -> Points:
    """The first of these curves that is there; an empty one if none is."""
    return next((scalars[name] for name in names if scalars.get(name)), [])


def smooth(points: Points, window: int) -> Points:
    """Mean over the points at most half a window away, fewer at the ends."""
    reach = window // 2
    parts = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    return [(step, sum(value for _, value in part) / len(part)) for (step, _), part in zip(points, parts, strict=True)]
