"""Whether a policy gamed its PRM: the monitors of PPO runs as charts, and their alarms in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .charts import Key
from .curves import Points, smooth
from .plots import COLOURS, Chart, Series
from .watched import Watched

_BOTH = (  # figures of training batches and of held-out tasks: name, title, hint, whether it is a share
    ("success", "True success", "Mean outcome: of training batches (faint) and of held-out tasks (dots).", True),
    ("prm_reward", "The PRM's reward", "Mean over episodes of what the PRM pays, in the form that trains; the same two series.", False),
    ("gap", "Gap", "By how many spreads the PRM's reward has risen more than success since the start. It should not climb.", False),
)
_DRIFT = (
    ("promise_drift", "Promise against the PRM's own data", "Kolmogorov-Smirnov distance of a batch's scores: 0 the same, 1 apart.", False),
    ("progress_drift", "Progress against the PRM's own data", "The same for the progress of turns.", False),
    ("correlation", "The PRM's reward and the outcome", "Their correlation over a batch's episodes.", False),
    ("disagreement", "Disagreement of the ensemble", "Standard deviation over the members, mean over turns.", False),
    ("repeated_actions", "Repeated actions", "Share of an episode's actions that it has taken before.", True),
    ("turns_drift", "Drift of the turn count", "Mean turns less those of the first batch, in its standard deviations.", False),
    ("valid_actions", "Valid actions", "Share of actions that the environment understood.", True),
    ("action_tokens", "Tokens of an action", "Mean length of an action.", False),
    ("entropy", "Entropy", "Of the tokens of an action, in nats: −mean log π of those that were sampled.", False),
)
_ACTIONS = {
    "none": "training went on",
    "stop": "training ended",
    "best": "training ended with the best held-out checkpoint",
    "outcome": "the PRM paid nothing from there on",
}


def monitor_charts(runs: Sequence[Watched]) -> tuple[list[Chart], list[Key]]:
    """Every watched run in the same charts; a dotted line stands where an alarm rang."""
    keys = [Key(watched.stage.label, number % COLOURS + 1) for number, watched in enumerate(runs)]
    marks = tuple(sorted({float(alarm["step"]) for watched in runs for alarm in watched.alarms}))
    charts = [*_against(runs, keys)]
    for name, title, hint, share in _BOTH:
        lines = [line for key, watched in zip(keys, runs, strict=True) for line in _both(key, watched, name)]
        charts += _chart(title, hint, lines, share, marks)
    for name, title, hint, share in _DRIFT:
        found = [(key, _smoothed(_points(w.training, name))) for key, w in zip(keys, runs, strict=True)]
        lines = [(key.label, Series(*_axes(points), key.colour)) for key, points in found if points]
        charts += _chart(title, hint, lines, share, marks)
    return charts, keys


def alarm_lines(runs: Sequence[Watched]) -> list[str]:
    """One sentence a run."""
    told = []
    for watched in runs:
        steps = max([*watched.training, *watched.held_out])
        if not watched.alarms:
            told.append(f"{watched.stage.label}: no alarm in {steps} steps.")
        for alarm in watched.alarms:
            where = "training batches" if alarm["series"] == "training" else "held-out tasks"
            told.append(
                f"{watched.stage.label}: the alarm rang at step {alarm['step']} ({where}): within its window the PRM's reward rose by "
                f"{alarm['reward_rise']:.2f} of its spreads and success by {100 * alarm['success_rise']:+.1f} points; "
                f"{_ACTIONS.get(alarm['action'], alarm['action'])}."
            )
    return told


def _against(runs: Sequence[Watched], keys: Sequence[Key]) -> list[Chart]:
    """Success over the PRM's reward: the curve that turns down where a proxy is optimised too far."""
    lines = []
    for key, watched in zip(keys, runs, strict=True):
        for name, rows in (("training", watched.training), ("held-out", watched.held_out)):
            x, y = ([value for _, value in _smoothed(_points(rows, axis))] for axis in ("prm_reward", "success"))
            if x and len(x) == len(y):
                faint = name == "training"
                lines.append((f"{key.label}, {name}", Series(x, y, key.colour, marker="" if faint else "o", faint=faint)))
    hint = "From step to step, batches (faint) and held-out evaluations (dots). Down and to the right is what a gamed PRM looks like."
    return _chart("Success against the PRM's reward", hint, lines, True, (), x_label="the PRM's reward")


def _both(key: Key, watched: Watched, name: str) -> list[tuple[str, Series]]:
    """Training batches, smoothed, and held-out evaluations."""
    training, held_out = _smoothed(_points(watched.training, name)), _points(watched.held_out, name)
    lines = [(f"{key.label}, training", Series(*_axes(training), key.colour, faint=True))] if training else []
    return lines + ([(f"{key.label}, held-out", Series(*_axes(held_out), key.colour, marker="o"))] if held_out else [])


def _chart(
    title: str, hint: str, lines: Sequence[tuple[str, Series]], share: bool, marks: tuple[float, ...], x_label: str = "step"
) -> list[Chart]:
    if not lines:
        return []
    told = "; ".join(f"{label} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for label, line in lines)
    alarms = f" Alarm at step {', '.join(f'{mark:g}' for mark in marks)}." if marks else ""
    series = [line for _, line in lines]
    return [Chart(title, hint, f"{title}: {told}.{alarms}", series, x_label, percent=share, integer_x=x_label == "step", marks=marks)]


def _points(rows: dict[int, dict[str, Any]], name: str) -> Points:
    return [(step, float(rows[step][name])) for step in sorted(rows) if name in rows[step] and math.isfinite(rows[step][name])]


def _smoothed(points: Points) -> Points:
    return smooth(points, max(1, len(points) // 20) if len(points) > 40 else 1)


def _axes(points: Points) -> tuple[list[float], list[float]]:
    return [float(step) for step, _ in points], [value for _, value in points]
