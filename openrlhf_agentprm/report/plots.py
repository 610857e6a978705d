"""Line charts and reliability diagrams as inline SVG.

matplotlib draws with placeholder colours, which become CSS variables, so that one picture serves the light and the dark theme. Text stays
text. The output depends on the data alone: no dates, no random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

COLOURS = 8  # --series-1 … --series-8 of style.css
_PLACEHOLDERS = {"#010101": "--ink", "#020202": "--muted", "#030303": "--line"} | {
    f"#0404{n:02x}": f"--series-{n}" for n in range(1, COLOURS + 1)
}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agentprm",
    "text.parse_math": False,  # a name such as "$x$" is no formula
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#020202",
    "axes.labelcolor": "#020202",
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#030303",
    "grid.linewidth": 0.6,
    "xtick.color": "#020202",
    "ytick.color": "#020202",
    "text.color": "#010101",
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}


@dataclass(frozen=True)
class Series:
    """One line.

    Args:
        colour: 1 to 8, the same for one thing in all charts; 0 is the muted colour of baselines.
        band: (low, high) at each x, or None.
        sizes: area of each marker, where it tells something.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: int
    style: str = "-"
    marker: str = ""
    faint: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None
    sizes: Sequence[float] | None = None


@dataclass(frozen=True)
class Chart:
    """A chart and how to read it; `description` is read out in place of the picture."""

    title: str
    hint: str
    description: str
    series: list[Series]
    x_label: str
    percent: bool = False
    log2_x: bool = False
    integer_x: bool = False
    y_range: tuple[float, float] | None = None
    level: float | None = None  # a horizontal line, such as chance
    diagonal: bool = False
    ticks: Sequence[float] = field(default_factory=tuple)
    marks: Sequence[float] = field(default_factory=tuple)  # vertical lines, such as where an alarm rang


def colour_of(names: Sequence[str], name: str) -> int:
    """A thing's colour number: its place among all things of its kind."""
    return list(names).index(name) % COLOURS + 1


def svg(chart: Chart, number: int) -> Markup:
    """The chart as an <svg> element; its number on the page keeps its ids apart from those of other charts."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if chart.diagonal:
            axes.plot([0, 1], [0, 1], color="#020202", linestyle=":", linewidth=1)
        if chart.level is not None:
            axes.axhline(chart.level, color="#020202", linestyle=":", linewidth=1)
        for mark in chart.marks:
            axes.axvline(mark, color="#010101", linestyle=":", linewidth=1)
        for series in chart.series:
            _draw(axes, series)
        _set_axes(axes, chart)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(file.getvalue(), chart, number)


def _draw(axes: Any, series: Series) -> None:
    colour = f"#0404{series.colour:02x}" if series.colour else "#020202"
    if series.band is not None:
        axes.fill_between(series.x, *series.band, color=colour, alpha=0.13, linewidth=0)
    if series.sizes is not None:
        axes.scatter(series.x, series.y, s=series.sizes, color=colour, alpha=0.75, linewidth=0, zorder=3)
    width, alpha = (0.9, 0.35) if series.faint else (1.8, 1.0)  # a faint line stays behind the one that is read
    axes.plot(series.x, series.y, color=colour, linestyle=series.style, marker=series.marker, linewidth=width, alpha=alpha)


def _set_axes(axes: Any, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel(chart.x_label)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    if chart.log2_x:
        axes.set_xscale("log", base=2)
    if chart.ticks:
        axes.set_xticks(chart.ticks, [f"{tick:g}" for tick in chart.ticks])
        axes.minorticks_off()
    elif chart.integer_x and len(places := {x for series in chart.series for x in series.x}) == 1:
        axes.set_xticks(sorted(places))
    elif chart.integer_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    if chart.y_range:
        axes.set_ylim(*chart.y_range)
    if chart.diagonal:
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    if chart.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))


def _inline(text: str, chart: Chart, number: int) -> Markup:
    """Cut to the element, with theme colours, ids of its own, the page's font, and a description."""
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for placeholder, variable in _PLACEHOLDERS.items():
        text = text.replace(placeholder, f"var({variable})")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1chart{number}-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    opening = re.match(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', text)
    assert opening is not None
    head = Markup('<svg class="chart" viewBox="{}" role="img" aria-label="{}">').format(opening[1], chart.description)
    return head + Markup(text[opening.end() :])
