"""The report: one HTML file that needs nothing else.

Whatever comes from environments, policies, recipes or file names is untrusted: Jinja escapes all of it, and the page's own policy forbids
every script but the one whose hash it names, and every connection.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from . import charts, headlines, monitors, tables
from .artifacts import Artifacts, Evaluated, gather
from .board import make_boards
from .charts import Key
from .load import load_run
from .plots import Chart, colour_of, svg
from .trajectories import make_viewer


@dataclass(frozen=True)
class Gallery:
    """Charts with their pictures, and the legend that they share."""

    charts: list[tuple[Chart, Markup]]
    keys: list[Key]


def build_report(run_dir: str | Path, output: str | None = None) -> Path:
    """Write the report of a run.

    Args:
        run_dir: folder of the run.
        output: file to write; RUN_DIR/report.html if None.

    Returns:
        The file that was written. A reader never sees half of it.

    Raises:
        UserError: the folder is no run, or nothing in it has finished.
    """
    found = gather(load_run(run_dir))
    path = Path(output) if output else Path(run_dir) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        half.write_bytes(render(found).encode("utf-8", "replace"))
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path


def render(found: Artifacts) -> str:
    """The page; the same artifacts give the same text."""
    environment = Environment(
        loader=PackageLoader("openrlhf_agentprm", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": headlines.percent,
        "interval": headlines.interval,
        "signed": headlines.signed,
        "duration": tables.duration,
        "decimal": decimal,
    }
    return environment.get_template("template.html").render(_context(found))


def decimal(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with a true minus sign; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "+" if sign else "")


def _context(found: Artifacts) -> dict[str, Any]:
    boards = make_boards(found)
    viewer = make_viewer(found, boards)
    prms = charts.prm_names(found)
    numbers = itertools.count(1)

    def drawn(parts: tuple[list[Chart], list[Key]]) -> Gallery:
        return Gallery([(chart, svg(chart, next(numbers))) for chart in parts[0]], parts[1])

    def evaluation(e: Evaluated) -> dict[str, Any]:
        quality = drawn(charts.quality_charts(e, prms))
        of = {"of": e, "choice": drawn(charts.choice_charts(e, prms)), "quality": quality, "rows": _quality_rows(e)}
        return of | {name: e.result.get(name) or {} for name in ("verdicts", "aggregates", "monte_carlo")}

    style, script = _asset("style.css"), _asset("viewer.js")
    return {
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "run": found.run,
        "facts": tables.facts(found),
        "missing": tables.missing(found, boards=bool(boards), viewer=viewer is not None),
        "boards": [(board, headlines.headlines(board)) for board in boards],
        "evaluations": [evaluation(e) for e in found.evaluated],
        "selected": found.selected,
        "ppo": drawn(charts.ppo_charts(found.ppo)),
        "monitors": drawn(monitors.monitor_charts(found.watched)),
        "alarms": monitors.alarm_lines(found.watched),
        "learning": drawn(charts.learning_charts(found, prms)),
        "viewer": viewer,
        "prm_colour": {name: colour_of(prms, name) for name in prms},
        "statuses": tables.status_rows(found),
        "status_words": tables.STATUS_WORDS,
        "step_times": tables.step_times(found),
        "launch_lines": tables.launch_lines(found.run),
        "longest": max((stage.seconds or 0.0 for stage in found.run.stages), default=0.0) or 1.0,
    }


def _quality_rows(e: Evaluated) -> list[dict[str, Any]]:
    """Turn by turn, the PRMs beside each other."""
    quality: dict[str, Any] = e.result.get("prm_quality", {})
    by_turn: dict[int, dict[str, Any]] = {}
    for name, found in quality.items():
        for row in found["by_turn"]:
            by_turn.setdefault(row["turn"], {"row": row, "prms": {}})["prms"][name] = row
    return [by_turn[turn] for turn in sorted(by_turn)]


def _asset(name: str) -> str:
    return resources.files("openrlhf_agentprm").joinpath("report", "templates", name).read_text(encoding="utf-8")
