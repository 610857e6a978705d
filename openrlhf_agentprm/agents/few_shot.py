"""Examples from a file: messages that stand between the system message and the first observation."""

from __future__ import annotations

import json
from typing import Any

from ..core.errors import UserError
from .template import Message

_ROLES = ("user", "assistant", "tool")


def read_few_shot(path: str) -> list[Message]:
    """A line is a message (`{"role": …, "content": …}`) or an episode (`{"messages": […]}`, as `agentprm episodes export` writes it).

    An episode's system message is put before its first user message, as the instruction of an episode that is played; what the environment said
    behind its last answer is left out, since the first observation of the episode that is played comes there.

    Raises:
        UserError: the file cannot be read, or the messages are not user's (or a tool's) and assistant's in turn; names the line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"--env.few_shot_file {path!r} cannot be read: {error}") from error
    found: list[Message] = []
    for number, line in lines:
        try:
            row = json.loads(line)
            found += _episode(row["messages"]) if isinstance(row, dict) and "messages" in row else [_message(row)]
        except (ValueError, RecursionError) as error:
            raise UserError(f"--env.few_shot_file {path!r}, line {number}: {error}") from error
    if problem := _order(found):
        raise UserError(f"--env.few_shot_file {path!r}: {problem}")
    return found


def _episode(rows: Any) -> list[Message]:
    if not isinstance(rows, list):
        raise ValueError("'messages' is no list")
    told, rest = "", rows
    if rows and isinstance(rows[0], dict) and rows[0].get("role") in ("system", "developer"):
        told, rest = str(rows[0].get("content") or ""), rows[1:]
    said = [_message(row) for row in rest]
    if told and said and said[0]["role"] == "user":
        said[0] = {**said[0], "content": f"{told}\n{said[0]['content']}"}
    while said and said[-1]["role"] != "assistant":
        said.pop()
    return said


def _message(row: Any) -> Message:
    if not isinstance(row, dict) or row.get("role") not in _ROLES:
        raise ValueError(f"it is no message with a role of {', '.join(_ROLES)}")
    content = row.get("content")
    if not isinstance(content, str) and not (content is None and row.get("tool_calls")):
        raise ValueError("its 'content' is no text")
    message = {name: row[name] for name in ("role", "name", "tool_call_id", "tool_calls") if row.get(name) is not None}
    return {**message, "content": content or ""}


def _order(said: list[Message]) -> str:
    """What is wrong with the roles; empty if nothing is."""
    if not said:
        return "it holds no message"
    for k, message in enumerate(said):
        answer = message["role"] == "assistant"
        if answer != bool(k % 2):
            wanted = "assistant" if k % 2 else "user, or tool behind a call"
            return f"message {k + 1} has the role {message['role']!r}; wanted {wanted}"
    return "" if said[-1]["role"] == "assistant" else "the last message is not the assistant's"
