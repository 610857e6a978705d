"""An evaluation in the terminal: tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..prm.evaluation.verdict import LEVEL

WIDTH = 100


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what was found, what to trust first."""
    console = console or Console(width=WIDTH, highlight=False)
    console.print(Text(_head(result)))
    if result["verdicts"]:
        console.print(Text(f"\nVerdicts, with {100 * LEVEL:.0f} % intervals (all others 95 %):"))
    for line in _verdict_lines(result):
        console.print(line)
    for table in (_best_of_n(result), _aggregates(result), _scorers(result), *_quality(result), *_truth(result)):
        if table.row_count:
            console.print(table)


def _head(result: Mapping[str, Any]) -> str:
    leak = result["length_leak"]["auc_within_task"]
    greedy = result.get("greedy")
    told = [f"{result['tasks']} tasks × {result['samples_per_task']} samples", f"single sample {_share(result['single_sample'])} %"]
    told.append(f"greedy {_share(greedy)} % on {greedy['tasks']} tasks" if greedy else "greedy decoding not given (--eval.greedy_dataset)")
    return f"{', '.join(told)}; fewer turns alone tell success with AUC {_two(leak)} within a task (0.50 is nothing)"


def _verdict_lines(result: Mapping[str, Any]) -> list[Text]:
    lines = []
    for name, verdict in result["verdicts"].items():
        line = Text.assemble((name, "bold"), f" {verdict['sentence']}")
        if "over_greedy" in verdict:
            line.append(f"; over greedy decoding {_gain(verdict['over_greedy'])}")
        line.append(".")
        lines.append(line)
    return lines


def _table(title: str, first: str, columns: Sequence[str], caption: str | None = None, min_width: int = 12) -> Table:
    table = Table(
        box=SIMPLE,
        pad_edge=False,
        title=Text(f"\n{title}", "bold"),
        title_justify="left",
        caption=Text(caption) if caption else None,
        caption_justify="left",
    )
    table.add_column(Text(first), overflow="fold", min_width=min_width, max_width=30)
    for name in columns:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _best_of_n(result: Mapping[str, Any]) -> Table:
    sizes = list(result["best_of_n"]["random"])
    table = _table(
        "Best of N: success in %",
        "chosen by",
        [*sizes, f"95 % at {sizes[-1]}"],
        "lowest: of the lowest score; votes: the answer with the most votes by score",
    )
    rows = dict(result["best_of_n"])
    rows |= {f"{name}, lowest": curve for name, curve in result["lowest_of_n"].items()}
    key = result["weighted_majority"]["key"].replace("_", " ")
    rows |= {f"{name}, votes by {key}": curve for name, curve in result["weighted_majority"]["curves"].items()}
    for name, curve in rows.items():
        table.add_row(Text(name), *(_percent(curve[n]["mean"]) for n in sizes), _interval(curve[sizes[-1]]))
    table.add_row("sampled tokens a task", *(f"{result['tokens_per_task'][n]:.0f}" for n in sizes), "")
    return table


_CROSS = "* the best here; cross-fitted: each half of the tasks by the aggregate that is best on the other half"


def _aggregates(result: Mapping[str, Any]) -> Table:
    """Best-of-N and verdict by aggregate, and what the choice of the best one is worth where it was not chosen."""
    found = result["aggregates"]
    n = str(next(iter(found.values()))["best"]["n"]) if found else ""
    table = _table(
        f"Aggregates of turn scores, best of {n}: success in %", "PRM", ["", f"best of {n}", "over length", "AUC\nalive", "finding"], _CROSS
    )
    for name, own in found.items():
        for place, (how, of) in enumerate(own["by"].items()):
            star = "*" if how == own["best"]["here"] else ""
            cells = (_share(of["best_of_n"][n]), _gain(of["gain"]).replace(" points", ""), _two(of["alive_auc"]["mean"]))
            table.add_row(Text("" if place else name), how + star, *cells, of["finding"].replace("_", " "))
        table.add_row("", "cross-fitted", _share(own["best"]["cross_fitted"]), "", "", "", end_section=True)
    return table


def _scorers(result: Mapping[str, Any]) -> Table:
    table = _table("At the end of an episode: AUC for success", "scored by", ["in a task", "and equal length", "all", "Brier", "ECE"])
    for name, row in result["free_quality"].items():
        table.add_row(Text(name), _two(row["auc_within_task"]), "", _two(row["auc"]), "", "")
    for name, quality in result["prm_quality"].items():
        row = quality["last"]
        cells = (row["auc_within_task"], row["auc_within_task_and_length"], row["auc"], row["brier"], row["ece"])
        table.add_row(Text(name), *map(_two, cells))
    return table


def _quality(result: Mapping[str, Any]) -> list[Table]:
    """Every PRM by turn and by turns left, side by side in the rows of one table."""
    figures = ["AUC in\na task", "AUC\nall", "Brier", "ECE"]
    columns = ["alive", *figures, "turns\nleft", "epi-\nsodes", *figures]
    tables = []
    for name, quality in result["prm_quality"].items():
        table = _table(f"{name} by turn, among episodes that go on; by turns left, where length shows", "turn", columns, min_width=4)
        turns, lefts = quality["by_turn"], quality["by_turns_left"]
        for place in range(max(len(turns), len(lefts))):
            cells = [""] * 6
            if place < len(turns):
                row = turns[place]
                cells = [str(row["turn"]), str(row["alive"]), *_figures(row)]
            left = [""] * 6
            if place < len(lefts):
                row = lefts[place]
                left = [str(row["turns_left"]), str(row["episodes"]), *_figures(row)]
            table.add_row(*cells, *left)
        tables.append(table)
    return tables


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [_two(row[name]) for name in ("auc_within_task", "auc", "brier", "ece")]


def _truth(result: Mapping[str, Any]) -> list[Table]:
    found = result.get("monte_carlo")
    if not found:
        return []
    columns = ["Spear-\nman", "in task,\nat turn", "first\nfatal F1", "failed", "sound", "sibling\nactions", "pairs"]
    title = f"Against Monte-Carlo values ({found['method']}); siblings whose values differ by more than {found['margin']:g}"
    table = _table(title, "scored by", columns, "failed, sound: accuracy in % on episodes with and without a fatal turn")
    for name, row in found["of"].items():
        rho, fatal, siblings = row["spearman"], row["first_fatal"], row["siblings"]
        table.add_row(
            Text(name),
            _two(rho["overall"]),
            _two(rho["within_task_and_turn"]["mean"]),
            f"{_percent(fatal['f1'])} {_interval(fatal)}".strip(),
            _percent(fatal["accuracy_failed"]),
            _percent(fatal["accuracy_sound"]),
            f"{_percent(siblings['mean'])} {_interval(siblings)}".strip(),
            str(siblings["pairs"]),
        )
    return [table]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(entry: Mapping[str, Any]) -> str:
    return "" if entry["low"] is None or entry["high"] is None else f"[{100 * entry['low']:.0f}, {100 * entry['high']:.0f}]"


def _share(entry: Mapping[str, Any]) -> str:
    return f"{_percent(entry['mean'])} {_interval(entry)}".strip()


def _gain(entry: Mapping[str, Any]) -> str:
    told = f"{100 * entry['mean']:+.1f} points"
    return told if entry["low"] is None else f"{told} [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
