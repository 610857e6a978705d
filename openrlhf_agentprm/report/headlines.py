"""The board in words: what each way of playing gained, against what, and whether the run can tell it from nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .board import Board, Group, Row, policy_name
from .compare import Estimate, Gain, gain


@dataclass(frozen=True)
class Statement:
    """One finding; `verdict` is that of a `Gain`, or "fact"."""

    verdict: str
    text: str


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def interval(estimate: Estimate) -> str:
    return "" if estimate.low is None or estimate.high is None else f"[{100 * estimate.low:.1f},\u00a0{100 * estimate.high:.1f}]"


def points(difference: Gain) -> str:
    """`+3.1 points [−0.4, +6.5]`."""
    if difference.low is None or difference.high is None:
        return f"{signed(difference.mean)} points"
    return f"{signed(difference.mean)} points [{signed(difference.low)},\u00a0{signed(difference.high)}]"


def signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return ("+0.0" if text == "-0.0" else text).replace("-", "−")


def headlines(board: Board) -> list[Statement]:
    """What a reader should know first; a baseline that wins is among it."""
    lines: list[Statement] = _highest(board) if len(board.rows) > 1 else []
    for group in board.groups:
        if group.idea == "choice":
            lines += _choice_lines(group)
    return [*lines, *_search_lines(board), *_ppo_lines(board), *_ranking_lines(board)]


def compared(name: str, new: Estimate, other: str, old: Estimate) -> list[Statement]:
    """What `name` solves, what `other` solves, and the difference; nothing where they share no task."""
    difference = gain(new, old)
    if difference is None:
        return []
    text = f"{name} solves {percent(new.mean)} of the tasks, {other} {percent(old.mean)}: {points(difference)}."
    return [Statement(difference.verdict, text)]


def _highest(board: Board) -> list[Statement]:
    """Who is ahead, whoever it is; whether by more than chance the other lines say."""
    best = board.best
    group = next(group for group in board.groups if best in group.rows)
    free = {"baseline": ", which needs no PRM", "control": ", a control without a PRM", "policy": ", without PRM or PPO"}
    told = f"Highest of all, the oracle apart: {group.said(best)}{free.get(best.kind, '')}, with {percent(best.estimate.mean)}."
    return [Statement("fact", told)]


def _choice_lines(group: Group) -> Iterator[Statement]:
    """Each PRM against one sample, then the best PRM against the best choice that needs none, and against the next PRM."""
    prms = [row for row in group.rows if row.kind == "prm"]
    for row in prms:
        random = next((r for r in group.rows if r.label == "random choice"), None)
        if random is not None:
            yield from compared(_capital(group.said(row)), row.estimate, "one sample", random.estimate)
    free = [row for row in group.rows if row.kind == "baseline"]
    if prms and free:
        prm, *others = sorted(prms, key=_mean, reverse=True)
        rival = max(free, key=_mean)
        name = f"Against the best choice without a PRM: {prm.label}"
        yield from compared(name, prm.estimate, f"{rival.label} among the same {group.samples} samples", rival.estimate)
        if others:
            yield from compared(f"Against the next PRM: {prm.label}", prm.estimate, others[0].label, others[0].estimate)


def _search_lines(board: Board) -> Iterator[Statement]:
    """The best search against one sample, and against random scores with the same beams and actions."""
    searches = board.of_kind("search")
    if not searches:
        return
    best = max(searches, key=_mean)
    if board.reference is not None:
        yield from compared(f"Search by {best.label}", best.estimate, "one sample", board.reference.estimate)
    method = best.label.rpartition(", ")[2]
    for control in board.of_kind("control"):
        if control.label.endswith(f", {method}"):
            name = f"Against its control: search by {best.label}"
            yield from compared(name, best.estimate, "the same search by random scores", control.estimate)
            return


def _ppo_lines(board: Board) -> Iterator[Statement]:
    """Each PPO run against the policy it started from, and runs with a PRM against runs without."""
    rows = board.of_kind("ppo")
    for row in rows:
        start = _start_of(row, board)
        if start is not None and start is not row:
            yield from compared(f"After {_policy(row)}, {row.label}", row.estimate, f"{start.label} before it", start.estimate)
    for row in (r for r in rows if _uses_prm(r)):
        for other in (r for r in rows if not _uses_prm(r) and _temperature(r) == _temperature(row)):
            name = f"PPO with a PRM against PPO without ({row.label}): {_policy(row)}"
            yield from compared(name, row.estimate, _policy(other), other.estimate)


def _ranking_lines(board: Board) -> Iterator[Statement]:
    """What the PRMs know: each one's verdict, then how they rank turn by turn, of which no interval is known, so it stays a fact."""
    for e in board.evaluated:
        for name, found in e.result.get("verdicts", {}).items():
            yield Statement({"beyond_length": "better", "reversed": "worse"}.get(found["finding"], "fact"), f"{name} {found['sentence']}.")
        told = []
        for name, quality in e.result.get("prm_quality", {}).items():
            by_turn = [row["auc_within_task"] for row in quality["by_turn"] if row["auc_within_task"] is not None]
            last = quality["last"]["auc_within_task_and_length"]
            if by_turn:
                at_end = "" if last is None else f", on the last turn at equal length {last:.2f}"
                told.append(f"{name} {min(by_turn):.2f} to {max(by_turn):.2f} by turn{at_end}")
        if told:
            yield Statement(
                "fact",
                "How often a coming success is scored above a coming failure, between samples of one task at the same turn "
                f"(chance is 0.50): {'; '.join(told)}.",
            )


def _start_of(row: Row, board: Board) -> Row | None:
    """The policy that PPO started from, played at the same temperature; the board's reference if it was not."""
    maker = row.collected.maker if row.collected else None
    source = maker.flag("actor.model_name_or_path") if maker else ""
    for other in board.rows:
        if other.collected is None or other is row or _temperature(other) != _temperature(row):
            continue
        before = other.collected
        if source and (before.policy == source or (before.maker is not None and before.maker.flag("ckpt.output_dir") == source)):
            return other
    return board.reference


def _policy(row: Row) -> str:
    assert row.collected is not None
    return policy_name(row.collected)


def _uses_prm(row: Row) -> bool:
    return bool(row.collected and row.collected.maker and row.collected.maker.flag("prm.model_name_or_path"))


def _temperature(row: Row) -> float | None:
    return row.collected.temperature if row.collected else None


def _mean(row: Row) -> float:
    return row.estimate.mean


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
