"""What one server of AgentGym's family says and wants, as data: a `Profile`. A user's own is a JSON object with the same fields.

A *place* names a part of an answer: a key of an object, a number in a list, or "" for the answer itself. "{task}" in a body stands for the
number of the task.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import UserError, did_you_mean
from ..base import SPLITS

TASK = "{task}"
Place = str | int
Tasks = int | Mapping[str, tuple[int, int]]
_ACTIONS = ("", "reply", "text", "fixed", "webshop")


@dataclass(frozen=True)
class Profile:
    """How one server is spoken to and what its answers mean.

    Args:
        name: of the server; task ids are `NAME_NUMBER`, as in AgentGym's data.
        prefix: of every path but `/`.
        id_key: under which requests name the session.
        create: body of POST /create; none: no body.
        id_at: place of the session in the answer to it.
        reset: body of POST /reset beside the session.
        first: places in the answer to it whose texts, one a line, are the first observation.
        first_get: path of a GET whose answer is the first observation in place of these.
        observation: place of a step's text.
        reward: place of its reward.
        score: place of its running score; none: "".
        done: place of the flag that ends the episode.
        truncated: place of the flag that a limit has; none: "".
        running: the reward is the sum so far; else what the step brought.
        scale: what reward and score are divided by.
        success_by: "done": whoever gets done has succeeded; "reward" or "score": done with at least `success_at` of it.
        success_at: see there, before it is divided.
        success_text: text in an observation that is a success beside a reward that is not 0, whatever `done` says.
        loss_is_limit: done without success is the server's step limit, hence truncated.
        outcome: what grades an episode: "reward", "score", or "" for success alone.
        actions: whence the admissible actions: "reply" (its `available_actions`), "text" (a list at the observation's end), "fixed", "webshop"
            (a GET when they are asked for), or "".
        fixed: those of "fixed".
        any_case: the server takes them in capitals too.
        shown_actions: whether they are written below an observation: "none", "first" (below the first alone) or "all".
        invalid: texts that an observation begins with where the action was not carried out.
        unchanged_is_invalid: an observation that is the one before tells the same.
        action: regular expression; the last match of its group 1 is sent in place of the whole action.
        broken: first observations with which the server tells of an error.
        close: whether there is POST /close.
        ids_come_once: no two sessions have the same number until the server is started again.
        verify: the same task has the same first observation each time.
        lines_in_any_order: for the fingerprint of the first observation.
        tasks: how many, dealt to the splits by tens; or each split's first number and the one behind its last.
        reset_s, step_s: seconds that the server may take.
        at_once: instances that a server serves well.
        turns: of AgentGym's own evaluation.
        instruction: what the agent is told.
    """

    name: str
    prefix: str = ""
    id_key: str = "id"
    create: Mapping[str, Any] | None = None
    id_at: Place = "id"
    reset: Mapping[str, Any] = field(default_factory=lambda: {"data_idx": TASK})
    first: tuple[Place, ...] = ("observation",)
    first_get: str = ""
    observation: Place = "observation"
    reward: Place = "reward"
    score: Place = ""
    done: Place = "done"
    truncated: Place = ""
    running: bool = False
    scale: float = 1.0
    success_by: str = "done"
    success_at: float = 1.0
    success_text: str = ""
    loss_is_limit: bool = False
    outcome: str = ""
    actions: str = ""
    fixed: tuple[str, ...] = ()
    any_case: bool = False
    shown_actions: str = "none"
    invalid: tuple[str, ...] = ()
    unchanged_is_invalid: bool = False
    action: str = ""
    broken: tuple[str, ...] = ()
    close: bool = False
    ids_come_once: bool = True
    verify: bool = True
    lines_in_any_order: bool = False
    tasks: Tasks = 100
    reset_s: float = 120.0
    step_s: float = 120.0
    at_once: int = 16
    turns: int = 20
    instruction: str = ""


def read_profile(given: str | Mapping[str, Any], known: Mapping[str, Profile]) -> Profile:
    """A known server's by its name, a JSON file's, or an object's; `base` in an object names a known one whose fields it changes.

    Raises:
        UserError: all that is wrong with it.
    """
    if isinstance(given, str) and given in known:
        return known[given]
    if isinstance(given, str) and not given.endswith(".json"):
        raise UserError(
            f"profile is {given!r}{did_you_mean(given, known)} (known: {', '.join(sorted(known))}; or a *.json file, or a JSON object)"
        )
    fields = dict(_file(given)) if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else None
    if fields is None:
        raise UserError(f"profile is {given!r}; wanted a name, a *.json file or a JSON object")
    base = fields.pop("base", None)
    if base is not None and base not in known:
        raise UserError(f"a profile's base is {base!r} (known: {', '.join(sorted(known))})")
    names = {f.name: f for f in dataclasses.fields(Profile)}
    problems = [f"a profile has no field {key!r}{did_you_mean(str(key), names)}" for key in fields if key not in names]
    start = dataclasses.asdict(known[base]) if base else {}
    whole = start | {key: _frozen(value) for key, value in fields.items() if key in names}
    if "name" not in whole:
        problems.append("a profile needs a name: the one before the number in its task ids")
    if problems:
        raise UserError(problems)
    profile = Profile(**whole)
    if problems := _problems(profile):
        raise UserError(problems)
    return profile


def _file(path: str) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the profile {path!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"the profile {path!r} holds {type(found).__name__}; wanted an object")
    return found


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _problems(p: Profile) -> list[str]:
    """What is wrong with the fields of a profile."""
    told = []
    allowed = {
        "success_by": ("done", "reward", "score"),
        "outcome": ("", "reward", "score"),
        "actions": _ACTIONS,
        "shown_actions": ("none", "first", "all"),
    }
    for f in dataclasses.fields(Profile):
        value, kind = getattr(p, f.name), str(f.type)
        if f.name in allowed and value not in allowed[f.name]:
            told.append(f"{f.name} is {value!r} (allowed: {', '.join(map(repr, allowed[f.name]))})")
        elif f.name == "tasks":
            told += _task_problems(value)
        elif not _fits(value, kind):
            told.append(f"{f.name} is {value!r}; wanted {kind}")
    if told:
        return [f"profile {p.name!r}: {text}" for text in told]
    if not re.fullmatch(r"[\w-]+", p.name):
        told.append(f"name is {p.name!r}; wanted letters, digits, - and _")
    if p.prefix and not re.fullmatch(r"(/[\w.~-]+)+", p.prefix):
        told.append(f"prefix is {p.prefix!r}; wanted a path such as /maze")
    if p.first_get and not re.fullmatch(r"[\w.~-]+", p.first_get):
        told.append(f"first_get is {p.first_get!r}; wanted a name such as observation")
    if (p.success_by == "score" or p.outcome == "score") and p.score == "":
        told.append("success_by or outcome is 'score', and no place of a score is given")
    if p.actions == "fixed" and not p.fixed:
        told.append("actions is 'fixed', and fixed lists none")
    if min(p.scale, p.reset_s, p.step_s) <= 0 or not (p.first or p.first_get):
        told.append("scale, reset_s and step_s are more than 0, and first or first_get tells where the first observation is")
    try:
        if p.action and re.compile(p.action).groups < 1:
            told.append(f"action is {p.action!r}, which has no group")
    except re.error as error:
        told.append(f"action is {p.action!r}, no regular expression: {error}")
    return [f"profile {p.name!r}: {text}" for text in told]


def _fits(value: Any, kind: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    place = isinstance(value, str) or whole
    listed = isinstance(value, tuple)
    return {
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int": whole and value >= 1,
        "float": number,
        "Place": place,
        "tuple[str, ...]": listed and all(isinstance(v, str) for v in value),
        "tuple[Place, ...]": listed and all(isinstance(v, str | int) for v in value),
        "Mapping[str, Any]": isinstance(value, Mapping),
        "Mapping[str, Any] | None": value is None or isinstance(value, Mapping),
    }[kind]


def _task_problems(tasks: Any) -> list[str]:
    whole = lambda n: isinstance(n, int) and not isinstance(n, bool)  # noqa: E731
    if whole(tasks):
        return [] if tasks >= 10 else [f"tasks is {tasks}; 10 or more can be dealt to three splits, or give each split's range"]
    if not isinstance(tasks, Mapping) or set(tasks) != set(SPLITS):
        return [f"tasks is {tasks!r}; wanted a number, or a range [first, behind the last] for each of {', '.join(SPLITS)}"]
    told, ranges = [], []
    for split, span in tasks.items():
        if isinstance(span, list | tuple) and len(span) == 2 and all(map(whole, span)) and 0 <= span[0] < span[1]:
            ranges.append((*span, split))
        else:
            told.append(f"tasks of {split} are {span!r}; wanted [first, behind the last]")
    ranges.sort()
    return told + [f"tasks of {a} and {b} overlap" for (_, end, a), (first, _, b) in itertools.pairwise(ranges) if end > first]
