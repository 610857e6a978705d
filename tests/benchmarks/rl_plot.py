"""The curves of tests/benchmarks/rl_study.py as a picture: success against environment steps and against minutes, means over seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

Curves = dict[int, dict[str, dict[str, list[float]]]]
AXES = ("environment steps", "minutes")
POINTS = 60


def mean_curve(parts: list[tuple[list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds of (spent, success) at equal spending, where all of them have points."""
    grid = np.linspace(max(spent[0] for spent, _ in parts), min(spent[-1] for spent, _ in parts), POINTS)
    return grid, np.mean([np.interp(grid, spent, success) for spent, success in parts], axis=0)


def plot(curves: Curves, titles: dict[str, str], smooth: Callable[[list[float]], list[float]], window: int, output: Path) -> None:
    """Write the picture; its format follows from the name of `output`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), AXES, strict=True):
        for colour, (arm, title) in enumerate(titles.items()):
            parts = [by_arm[arm] for by_arm in curves.values() if arm in by_arm and len(by_arm[arm]["success"]) >= window]
            if parts:
                spent, success = mean_curve([(c[name][window - 1 :], smooth(c["success"])) for c in parts])
                style = "--" if arm == "outcome" else "-"
                axes.plot(spent, 100 * success, style, color=f"C{colour}", linewidth=1.8, label=title)
        axes.set_xlabel(f"{name} of training")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel(f"success in %, mean of {window} steps and {len(curves)} seeds")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)
