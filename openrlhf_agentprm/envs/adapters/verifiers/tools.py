"""Tools of verifiers' environments: their schemas, calls as text, and which calls failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def noting(formatter: Callable[[Exception], str], noted: list[Exception]) -> Callable[[Exception], str]:
    """A formatter of errors that keeps what it is given."""

    def format(error: Exception) -> str:
        noted.append(error)
        return formatter(error)

    return format


def schema_of(tool: Any) -> dict[str, Any]:
    """A tool of the library's as chat templates take it."""
    parameters = {"type": "object", "properties": {}} | dict(tool.parameters)
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": parameters}}


def answer_schema(name: str) -> dict[str, Any]:
    text = {"type": "string", "description": "What to say."}
    about = "Say something without calling another tool, such as the answer at the end."
    parameters = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def call_in(action: str) -> tuple[str | None, dict[str, Any]]:
    """The name and the arguments of a call; no name where there is none."""
    try:
        value = json.loads(action)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None, {}
    if isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict):
        return value["name"], value["arguments"]
    return None, {}
