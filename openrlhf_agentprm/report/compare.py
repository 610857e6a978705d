"""Success rates and differences between them, each with its 95 % interval over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..prm.evaluation import with_interval


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, in [0, 1]; the interval is None where one task or fewer was played.

    Args:
        by_task: the mean of each task, where it is known; it makes differences paired.
    """

    mean: float
    low: float | None
    high: float | None
    tasks: int | None = None
    by_task: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Gain:
    """A difference of two success rates.

    Args:
        paired: measured task by task; otherwise made from two separate intervals as if they were independent, which is too wide
            where both played the same tasks.
    """

    mean: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def verdict(self) -> str:
        """ "better", "worse", "unclear" where the interval contains zero, or "unknown" where there is none."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low <= 0 <= self.high:
            return "unclear"
        return "better" if self.low > 0 else "worse"


def of_tasks(by_task: Mapping[str, float]) -> Estimate | None:
    """The mean over tasks; None without a task."""
    if not by_task:
        return None
    entry = with_interval(torch.tensor(list(by_task.values()), dtype=torch.float64))
    return Estimate(entry["mean"], _finite(entry["low"]), _finite(entry["high"]), len(by_task), by_task)


def of_entry(entry: Mapping[str, float | None], tasks: int | None = None) -> Estimate | None:
    """From the {"mean", "low", "high"} of an evaluation; None where the mean is missing."""
    if entry.get("mean") is None:
        return None
    return Estimate(float(entry["mean"] or 0.0), _finite(entry.get("low")), _finite(entry.get("high")), tasks)


def gain(new: Estimate, reference: Estimate) -> Gain | None:
    """New minus reference: task by task over the tasks of both, or from the two intervals; None where they share no task."""
    if new.by_task is not None and reference.by_task is not None:
        return _paired(new.by_task, reference.by_task)
    mean = new.mean - reference.mean
    if None in (new.low, new.high, reference.low, reference.high):
        return Gain(mean, None, None, paired=False)
    below = math.hypot(new.mean - new.low, reference.high - reference.mean)  # type: ignore[operator]
    above = math.hypot(new.high - new.mean, reference.mean - reference.low)  # type: ignore[operator]
    return Gain(mean, mean - below, mean + above, paired=False)


def _paired(new: Mapping[str, float], reference: Mapping[str, float]) -> Gain | None:
    shared: Sequence[str] = [task for task in new if task in reference]
    if not shared:
        return None
    entry = with_interval(torch.tensor([new[t] - reference[t] for t in shared], dtype=torch.float64))
    return Gain(entry["mean"], _finite(entry["low"]), _finite(entry["high"]), paired=True)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
