"""One recorded episode, as text, of each format: what is right becomes an `Episode` without tokens, what is not is told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.episode import Episode, Status, Turn

Row = Mapping[str, Any]
_OUTCOMES = ("outcome", "reward", "score", "success")
_TASKS = ("task_id", "item_id", "id")
_SEEN = ("user", "tool", "function")


@dataclass(frozen=True)
class About:
    """What rows do not tell.

    Args:
        env: name of the environment; None: as the row says.
        split: of the tasks.
        outcome: of rows that have none.
        policy: who played.
        sampling: settings of the new episodes, part of their identity.
    """

    env: str | None
    split: str
    outcome: float | None
    policy: str
    sampling: dict[str, Any]


class RowError(ValueError):
    """A row is not what its format says."""


# --- formats ---


def agentgym(row: Row, where: str, about: About) -> Episode:
    """`{"item_id": "babyai_23", "conversations": [{"from": "human" or "gpt", "loss": …, "value": …}, …]}`.

    Pairs before the first answer that is learned (`loss` true) are the instruction; without any such mark the first pair is, which the
    published files begin with.
    """
    said = [(_text(turn, "from"), _text(turn, "value"), turn.get("loss")) for turn in _list(row, "conversations")]
    if unknown := {who for who, _, _ in said} - {"human", "gpt"}:
        raise RowError(f"a turn is from {sorted(unknown)[0]!r}, not human or gpt")
    marked = any(loss is True for who, _, loss in said if who == "gpt")
    start, count = 0, 0
    for number, (who, _, loss) in enumerate(said):
        if who == "gpt":
            count += 1
            if loss is True or (not marked and count == 2):
                break
            start = number + 1
    told = [text for who, text, _ in said[:start] if who == "human"]
    task = _first(row, _TASKS)
    env = about.env or _name(row, "env") or task.rpartition("_")[0]
    if not env:
        raise RowError(f"its item_id {task!r} names no environment; give --import.env")
    turns, last = _turns([("user" if who == "human" else "assistant", text) for who, text, _ in said[start:]])
    return _episode(row, about, env, task, "\n".join(told), turns, last)


def messages(row: Row, where: str, about: About) -> Episode:
    """`{"messages": [{"role": …, "content": …}, …], "task_id": …, "outcome": …}`; system messages become the instruction, tool calls text."""
    said = [(_text(message, "role"), _content(message)) for message in _list(row, "messages")]
    if unknown := {who for who, _ in said} - {"system", "developer", "assistant", *_SEEN}:
        raise RowError(f"a message has the role {sorted(unknown)[0]!r}")
    told = [text for who, text in said if who in ("system", "developer")]
    turns, last = _turns([("user" if who in _SEEN else who, text) for who, text in said if who not in ("system", "developer")])
    task = _first(row, _TASKS) if any(name in row for name in _TASKS) else where.replace(" ", "-")
    return _episode(row, about, about.env or _name(row, "env") or "messages", task, "\n".join(told), turns, last)


def agent_prm(row: Row, where: str, about: About) -> Episode:
    """`{"gamefile": …, "task": …, "trajectory": [{"observation": …, "reason": …, "action": …, "score": …}, …]}`; the last score is the outcome."""
    steps = _list(row, "trajectory")
    turns = []
    for step in steps:
        reason, action = " ".join(_name(step, "reason").split()), _text(step, "action")
        text = f"Thought: {reason}\nAction: {action}" if reason else action
        turns.append(Turn(_text(step, "observation"), text, 0, 0))
    last = steps[-1].get("score") if steps else None
    return _episode({"outcome": last, **row}, about, about.env or "alfworld", _first(row, ("gamefile",)), _text(row, "task"), turns, "")


# --- their parts ---


def _turns(said: list[tuple[str, str]]) -> tuple[list[Turn], str]:
    """Turns of "user" and "assistant" texts, and what is seen behind the last one; several that are seen in a row are one observation."""
    turns: list[Turn] = []
    seen: list[str] = []
    for number, (who, text) in enumerate(said):
        if who == "user":
            seen.append(text)
        elif number and said[number - 1][0] == "assistant":
            raise RowError(f"two actions follow one another (message {number + 1})")
        else:
            turns.append(Turn("\n".join(seen), text, 0, 0))
            seen = []
    return turns, "\n".join(seen)


def _episode(row: Row, about: About, env: str, task: str, instruction: str, turns: list[Turn], last: str) -> Episode:
    if not turns:
        raise RowError("it has no action")
    outcome = _outcome(row, about)
    status = Status.SUCCESS if outcome >= 1 else Status.FAILURE
    turns[-1].reward = outcome
    return Episode(
        env=env, task_id=task, split=about.split, seed=0, sample=0, policy=about.policy, policy_digest=f"recorded-{about.policy}",
        sampling=about.sampling, status=status, outcome=outcome, terminated=True, truncated=False, token_ids=[], turns=turns,
        instruction=instruction, final_observation=last,
    )  # fmt: skip


def _outcome(row: Row, about: About) -> float:
    value = next((row[name] for name in _OUTCOMES if row.get(name) is not None), about.outcome)
    if value is None:
        raise RowError(f"it tells no outcome ({', '.join(_OUTCOMES)}); give --import.outcome")
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise RowError(f"its outcome is {value!r}; wanted a number from 0 to 1")
    return float(value)


def _first(row: Row, names: tuple[str, ...]) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise RowError(f"it has no {' or '.join(names)}")
    return _storable(str(value))


def _name(row: Row, name: str) -> str:
    """A text that may be absent."""
    return _text(row, name) if row.get(name) is not None else ""


def _list(row: Row, name: str) -> list[dict[str, Any]]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowError(f"its {name!r} is no list of objects")
    return value


def _text(item: Row, name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RowError(f"its {name!r} is {type(value).__name__}, not text")
    return _storable(value)


def _storable(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError("a text has half of a surrogate pair, which no file can hold")
    return text


def _content(message: Row) -> str:
    """A message's text: a string, the text parts of a list, and each tool call as Hermes and Qwen write it."""
    value = message.get("content")
    if isinstance(value, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in value):
            raise RowError("a message has parts that are not text")
        value = "".join(_text(part, "text") for part in value)
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowError("its 'tool_calls' is no list")
    if not isinstance(value, str) and not (value is None and calls):
        raise RowError(f"its 'content' is {type(value).__name__}, not text")
    return _storable("\n".join(filter(None, [value or "", *map(_call, calls)])))


def _call(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("a tool call names no function")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # a model's slip is kept as it is
            arguments = json.loads(arguments)
    return f"<tool_call>\n{json.dumps({'name': function['name'], 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
