"""Tool calls as models write them, read as data: nothing of what was sampled is run.

Qwen, Hermes     <tool_call>{"name": …, "arguments": {…}}</tool_call>
Llama 3          {"name": …, "parameters": {…}}
Mistral          [TOOL_CALLS][{"name": …, "arguments": {…}, "id": …}], and [TOOL_CALLS]name[ARGS]{…}
gpt-oss          <|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>
Gemma            ```tool_code, a line name(key=value), ```

A call has a name and arguments that are a JSON object. A turn with several calls, or with one that is broken, has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

_JSON = json.JSONDecoder(parse_constant=lambda name: _refuse(f"{name} is no JSON"))
_HARMONY = re.compile(
    r"to=functions\.([\w.-]+)[^<]*(?:<\|(?:channel|constrain)\|>[^<]*)*<\|message\|>(.*?)(?=<\|call\|>|<\|end\|>|<\|start\|>|$)", re.S
)
_BLOCK = re.compile(r"```(?:tool_code|tool_call|json)[ \t]*\n(.*?)```", re.S)
_NAMED = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\](\w*))?(?:\[ARGS\])?\s*(?=\{)")
_PYTHON = re.compile(r"\s*([A-Za-z_][\w.]*)\s*\(\s*")
_KEY = re.compile(r"([A-Za-z_]\w*)\s*=\s*")
_WORDS = {"True": True, "False": False, "None": None}


@dataclass(frozen=True)
class Call:
    """One call of a tool.

    Args:
        id: where the syntax has one (Mistral's).
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def text(self) -> str:
        """What an environment is given: `{"name": …, "arguments": {…}}`."""
        return json.dumps({"name": self.name, "arguments": dict(self.arguments)}, ensure_ascii=False)


def read_call(text: str) -> Call | None:
    """The call of a turn; None where there is none, more than one, or one that is broken.

    >>> read_call('<tool_call>\\n{"name": "add", "arguments": {"a": 1}}\\n</tool_call>').text()
    '{"name": "add", "arguments": {"a": 1}}'
    """
    for read in _READERS:
        try:
            found = read(text)
        except (ValueError, RecursionError):
            return None
        if found is not None:
            return found[0] if len(found) == 1 else None
    return None


def call_of(value: Any) -> Call:
    """A call from its JSON.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = {"id": value.get("id"), **value["function"]}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        _refuse("no name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _whole(arguments)
    if not isinstance(arguments, dict):
        _refuse("the arguments are no object")
    call = Call(value["name"], arguments, value["id"] if isinstance(value.get("id"), str) else "")
    call.text().encode()  # half of a surrogate pair is a ValueError: no environment could show it
    return call


# --- one reader a syntax: None where the text does not use it ---


def _harmony(text: str) -> list[Call] | None:
    found = _HARMONY.findall(text)
    return [call_of({"name": name, "arguments": _whole(arguments)}) for name, arguments in found] if found else None


def _hermes(text: str) -> list[Call] | None:
    mark, close = "<tool_call>", "</tool_call>"
    if mark not in text:
        return None
    found, at = [], text.find(mark)
    while at >= 0:
        value, end = _first(text, at + len(mark))
        if not text[end:].lstrip().startswith(close):
            _refuse("it is not closed")
        found.append(call_of(value))
        at = text.find(mark, text.find(close, end))
    return found


def _mistral(text: str) -> list[Call] | None:
    _, mark, rest = text.partition("[TOOL_CALLS]")
    if not mark:
        return None
    if rest.lstrip().startswith("["):
        listed = _whole(rest)
        return [call_of(value) for value in listed]
    found = []
    for part in rest.split("[TOOL_CALLS]"):
        if not (named := _NAMED.match(part)):
            _refuse("no name")
        found.append(call_of({"name": named[1], "id": named[2], "arguments": _whole(part[named.end() :])}))
    return found


def _block(text: str) -> list[Call] | None:
    blocks = _BLOCK.findall(text)
    return [call_of(_whole(b)) if b.lstrip().startswith("{") else _python(b) for b in blocks] if blocks else None


def _bare(text: str) -> list[Call] | None:
    rest = text.strip().removeprefix("<|python_tag|>")
    return [call_of(_whole(rest))] if rest.startswith("{") else None


_READERS: tuple[Callable[[str], list[Call] | None], ...] = (_harmony, _hermes, _mistral, _block, _bare)


# --- their parts ---


def _python(text: str) -> Call:
    """`name(key=value, …)` with JSON's values, or Python's True, False, None and 'text'."""
    if not (named := _PYTHON.match(text)):
        _refuse("no name(")
    arguments: dict[str, Any] = {}
    at = named.end()
    while text[at : at + 1] != ")":
        if not (key := _KEY.match(text, at)):
            _refuse("no key=")
        arguments[key[1]], at = _value(text, key.end())
        at = _past_blanks(text, at)
        if text[at : at + 1] == ",":
            at = _past_blanks(text, at + 1)
        elif text[at : at + 1] != ")":
            _refuse("no comma")
    if text[at + 1 :].strip():
        _refuse("more than a call")
    return call_of({"name": named[1], "arguments": arguments})


def _value(text: str, at: int) -> tuple[Any, int]:
    for word, value in _WORDS.items():
        if text.startswith(word, at):
            return value, at + len(word)
    if quoted := re.compile(r"'([^'\\\n]*)'").match(text, at):
        return quoted[1], quoted.end()
    return _JSON.raw_decode(text, at)


def _past_blanks(text: str, at: int) -> int:
    return at + len(text[at:]) - len(text[at:].lstrip())


def _first(text: str, at: int) -> tuple[Any, int]:
    return _JSON.raw_decode(text, _past_blanks(text, at))


def _whole(text: str) -> Any:
    value, end = _first(text, 0)
    if text[end:].strip():
        _refuse("more than JSON")
    return value


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
