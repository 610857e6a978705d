"""The comparison on one set of held-out tasks: every way of playing them, beside the baselines that need no PRM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .artifacts import Artifacts, Collected, Evaluated, Searched
from .compare import Estimate, Gain, gain, of_entry, of_tasks

BEST_OF = 8  # samples that a choice is made from, or the most below it that were evaluated
FREE = ("fewest turns", "most turns", "length regression", "log-probability per turn")
_JUDGES = {  # what evaluations compare PRMs with: kind, label, note
    "fewest turns": ("baseline", "fewest turns", "no PRM; wins where failures are long"),
    "most turns": ("baseline", "most turns", "no PRM; wins where failures are short"),
    "length regression": (
        "baseline",
        "length regression",
        "no PRM; success regressed on turns and sampled tokens, on the other half of the tasks",
    ),
    "log-probability per turn": (
        "baseline",
        "log-probability per turn",
        "no PRM; what the policy finds likeliest",
    ),
    "random": ("baseline", "random choice", "no PRM; the same as one sample"),
    "oracle": ("oracle", "oracle", "knows the outcomes: the upper bound"),
}


@dataclass
class Row:
    """One way of playing.

    Args:
        kind: "policy", "baseline", "prm", "oracle", "control", "search" or "ppo"; it decides the colour.
        actions: actions that were sampled for a task.
        collected: the store that the number comes from, where it is of one.
        gain: over the board's reference; None for the reference itself, and where they share no task.
    """

    label: str
    kind: str
    estimate: Estimate
    note: str = ""
    actions: float | None = None
    collected: Collected | None = None
    gain: Gain | None = None
    is_reference: bool = False


@dataclass
class Group:
    """Rows of one idea about one policy: "policy", "choice" (the best of `samples`) or "search"."""

    idea: str
    policy: str
    rows: list[Row]
    samples: int = 1

    @property
    def title(self) -> str:
        if self.idea == "choice":
            return f"Best of {self.samples} samples of {self.policy}, chosen by"
        return f"Search over turns with {self.policy}, guided by" if self.idea == "search" else f"Policy: {self.policy}"

    def said(self, row: Row) -> str:
        """A row of this group inside a sentence."""
        if self.idea == "choice":
            return f"the best of {self.samples} samples by {row.label}"
        return f"search by {row.label}" if self.idea == "search" else f"{row.label} of {self.policy}"


@dataclass
class Board:
    """All rows about one environment and split. The reference is one sample of the policy before PPO."""

    title: str
    env: str = ""
    env_args: str = ""
    split: str = ""
    groups: list[Group] = field(default_factory=list)
    collected: list[Collected] = field(default_factory=list)
    evaluated: list[Evaluated] = field(default_factory=list)
    reference: Row | None = None

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]

    def of_kind(self, *kinds: str) -> list[Row]:
        return [row for row in self.rows if row.kind in kinds]

    @property
    def best(self) -> Row:
        """The highest success, the oracle apart; of equals the first."""
        return max((row for row in self.rows if row.kind != "oracle"), key=lambda row: row.estimate.mean)


def make_boards(found: Artifacts) -> list[Board]:
    """One board for each environment and held-out split; that of the first evaluation comes first.

    A run that never leaves the training split gets boards of it.
    """
    finished = [c for c in found.collected if c.finished and c.success is not None and c.temperature is not None]
    held_out = [c for c in finished if c.split != "train"] or finished
    boards: dict[tuple[str, str, str], Board] = {}
    for c in held_out:
        key = (c.env, c.env_args, c.split)
        boards.setdefault(key, Board(f"{c.tasks_of}, {c.split} split", *key)).collected.append(c)
    for e in found.evaluated:
        for board in boards.values():
            if any(c.stage.output == e.dataset for c in board.collected):
                board.evaluated.append(e)
    for board in boards.values():
        _fill(board, found)
    placed = [e for board in boards.values() for e in board.evaluated]
    for e in found.evaluated:
        if e not in placed:
            boards[str(e.dataset), "", e.stage.name] = _board_of(e, found)
    return sorted((b for b in boards.values() if b.rows), key=lambda b: not b.evaluated)


def _fill(board: Board, found: Artifacts) -> None:
    reference = _reference(board)
    for origin in _by_maker(board.collected):
        board.groups.append(Group("policy", policy_name(origin[0]), [_policy_row(c) for c in origin]))
        for e in board.evaluated:
            if judged := next((c for c in origin if c.stage.output == e.dataset), None):
                board.groups += _choices(e, policy_name(judged), found)
    for s in found.searched:
        if rows := list(_search_rows(s, board)):
            board.groups.append(Group("search", s.maker.label if s.maker else "the policy", rows))
    board.groups.sort(key=lambda group: group.rows[0].kind == "ppo")
    board.reference = next((row for row in board.rows if row.collected is reference), None)
    _add_gains(board)


def _board_of(e: Evaluated, found: Artifacts) -> Board:
    """A board from an evaluation alone, whose episodes another run collected."""
    result = e.result
    rows = []
    for key, label, note in (
        ("single_sample", "one sample", "mean of all samples"),
        ("greedy", "greedy decoding", "always the likeliest token"),
    ):
        estimate = of_entry(result.get(key, {}), result.get("tasks"))
        if estimate is not None:
            rows.append(Row(label, "policy", estimate, note, result.get("mean_turns") if key == "single_sample" else None))
    policy = e.dataset.name
    board = Board(f"the episodes in {policy}", groups=[Group("policy", policy, rows)] if rows else [], evaluated=[e])
    board.groups += _choices(e, policy, found)
    board.reference = rows[0] if rows else None
    _add_gains(board)
    return board


def _add_gains(board: Board) -> None:
    for row in board.rows:
        row.is_reference = row is board.reference
        if board.reference and row.estimate is not board.reference.estimate:
            row.gain = gain(row.estimate, board.reference.estimate)


def _reference(board: Board) -> Collected:
    """One sample of the policy that was evaluated first; else of the first that was sampled."""
    for e in board.evaluated:
        for c in board.collected:
            if c.stage.output == e.dataset:
                return c
    return next((c for c in board.collected if c.temperature), board.collected[0])


def _by_maker(collected: list[Collected]) -> list[list[Collected]]:
    groups: dict[str, list[Collected]] = {}
    for c in collected:
        groups.setdefault(c.maker.name if c.maker else c.policy, []).append(c)
    return list(groups.values())


def policy_name(c: Collected) -> str:
    """The stage that made the policy, or the name of a policy from outside."""
    return c.maker.label if c.maker else Path(c.policy).name


def _policy_row(c: Collected) -> Row:
    assert c.success is not None and c.temperature is not None
    kind = "ppo" if c.maker and c.maker.command == "train_ppo_ray" else "policy"
    if c.temperature == 0:
        label, note = "greedy decoding", "always the likeliest token"
    else:
        label, note = "one sample", f"temperature {c.temperature:g}" + (f", mean of {c.samples} a task" if c.samples > 1 else "")
    return Row(label, kind, c.success, note, c.mean_turns, c)


def _choices(e: Evaluated, policy: str, found: Artifacts) -> list[Group]:
    """Best of N by each PRM, then by what needs none, then the oracle; nothing is left out."""
    curves = e.result["best_of_n"]
    sizes = [int(n) for n in curves.get("random", {}) if int(n) <= BEST_OF]
    if not sizes or max(sizes) < 2:
        return []
    n = max(sizes)
    tasks = e.result.get("tasks")
    actions = n * float(e.result["mean_turns"]) if "mean_turns" in e.result else None
    rows = []
    for name in sorted(curves, key=lambda name: (name == "oracle", name == "random", name in FREE)):
        values = e.result.get("by_task", {}).get(name, {}).get(str(n))
        if values is not None:
            estimate = of_tasks(dict(zip(e.result["task_ids"], values, strict=True)))
        else:
            estimate = of_entry(curves[name].get(str(n), {}), tasks)
        if estimate is None:
            continue
        kind, label, note = _JUDGES.get(name) or ("prm", name, _prm_note(e, name, found))
        rows.append(Row(label, kind, estimate, note, actions))
    return [Group("choice", policy, rows, n)]


def _prm_note(e: Evaluated, name: str, found: Artifacts) -> str:
    """How the PRM's labels were made, where this run trained it, and what its scores must differ by."""
    how = e.result.get("aggregate", "last")
    note = "highest score on the last turn" if how == "last" else f"highest {how} of the turns' scores"
    for trained in found.prms:
        stage = trained.stage
        if e.prms.get(name) == found.run.checkpoint(stage):
            made = f"those of {stage.flag('label.sidecar')}" if stage.flag("label.sidecar") else "td_gae"
            note = f"highest {how} score; labels: {stage.flag('label.name', made)}"
    margin = e.result.get("tie_margin") or 0
    return note + (f"; scores within {margin:g} count as equal" if margin else "")


def _method_note(method: str, actions: int | None) -> str:
    """A search's name in words."""
    kind, _, sizes = method.rpartition(":")
    numbers = sizes.split("x")
    if kind == "bon":
        return f"best of {sizes} episodes by the last score"
    if kind == "mcts":
        return f"{sizes} simulations each turn, {actions} actions at a new state"
    note = f"best of {actions} actions each turn" if numbers[0] == "1" else f"{numbers[0]} paths kept, {actions} actions at each"
    return note + (f", judged {numbers[2]} turn{'s' * (numbers[2] != '1')} ahead" if kind == "lookahead" else "")


_OPTIONS = {
    "tie_margin": "scores within {:g} count as equal",
    "policy_margin": "the policy's own action has to be beaten by {:g}",
    "logprob_weight": "{:g} of the mean log-probability added",
    "pav_alpha": "Q + {:g}·A of a prover",
    "rollout_weight": "rollouts' outcomes weigh {:g}",
    "budget_tokens": "at most {:g} sampled tokens a task",
    "budget_turns": "at most {:g} environment steps a task",
    "budget_seconds": "at most {:g} s",
}


def _search_options(entry: dict[str, Any]) -> list[str]:
    """What was not left as it is by default, in words."""
    return [text.format(entry[name]) for name, text in _OPTIONS.items() if entry.get(name)]


def _search_rows(s: Searched, board: Board) -> Iterator[Row]:
    for entry in s.entries:
        if (s.env or board.env, s.env_args, entry.get("split", board.split)) != (board.env, board.env_args, board.split):
            continue
        outcomes = {str(task): float(outcome) for task, outcome in entry["outcomes"].items() if outcome is not None}
        estimate = of_tasks(outcomes)
        if estimate is None:
            continue
        control = not entry.get("prm_digest")
        method = entry.get("method", f"{entry['beams']}x{entry['actions']}")
        label = f"{'random scores' if control else entry['prm']}, {method.replace('x', '×')}"
        note = "; ".join([_method_note(method, entry["actions"]), *_search_options(entry), *(["control"] if control else [])])
        yield Row(label, "control" if control else "search", estimate, note, entry.get("sampled_actions_per_task"))
