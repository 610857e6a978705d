"""From a server's answer to what it says, by a profile; every part is checked for its type, and what does not fit is a `ServerError`."""

from __future__ import annotations

import hashlib
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base import is_finite_number, text_problem
from .http import ServerError
from .profile import Place, Profile

_LARGEST = 1e9  # of a reward or score
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlevel = 200, 2
_LISTED = re.compile(r"Available actions: \[(.*)\]\s*\Z", re.S)


@dataclass(frozen=True)
class First:
    """The answer to a reset; `text` is None where another request brings it."""

    text: str | None
    actions: list[str] | None


@dataclass(frozen=True)
class Step:
    """The answer to a step: numbers as the server counts them."""

    text: str
    reward: float
    score: float | None
    done: bool
    truncated: bool
    actions: list[str] | None


def read_session(p: Profile, answer: Any) -> int | str:
    """The session of a new environment."""
    found = part(_sound(answer), p.id_at, "the session")
    if isinstance(found, str) and found and len(found) <= 200 and not text_problem(found):
        return found
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63:
        return found
    raise ServerError(f"the session is {_shown(found)}; wanted a number or a text")


def read_first(p: Profile, answer: Any) -> First:
    """The beginning of an episode."""
    _sound(answer)
    if isinstance(answer, Mapping):
        for flag in (p.done, p.truncated):
            if flag in answer and _flag(answer[flag], str(flag)):
                raise ServerError(f"the episode is over before it begins: {flag!r} is true")
    if p.first_get and not p.broken:
        return First(None, _actions(p, answer, ""))
    texts = [text(part(answer, place, "the first observation"), "the first observation") for place in p.first]
    whole = "\n".join(texts)
    if any(whole.startswith(broken) for broken in p.broken):
        raise ServerError(f"the server could not begin the task: {_shown(whole)}")
    return First(None if p.first_get else text(whole, "the first observation"), _actions(p, answer, whole))


def read_step(p: Profile, answer: Any) -> Step:
    """What a step brought."""
    _sound(answer)
    observed = text(part(answer, p.observation, "the observation"), "the observation")
    return Step(
        text=observed,
        reward=_number(part(answer, p.reward, "the reward"), "the reward"),
        score=None if p.score == "" else _number(part(answer, p.score, "the score"), "the score"),
        done=_flag(part(answer, p.done, "the end"), str(p.done)),
        truncated=p.truncated != "" and _flag(part(answer, p.truncated, "the limit"), str(p.truncated)),
        actions=_actions(p, answer, observed),
    )


def read_text(answer: Any, what: str) -> str:
    """A text that is the whole answer."""
    return text(_sound(answer), what)


def read_shop(answer: Any) -> tuple[bool, list[str]]:
    """WebShop's answer to GET /available_actions: whether there is a search bar, and what can be clicked."""
    bar = _flag(part(_sound(answer), "has_search_bar", "the actions"), "has_search_bar")
    return bar, _texts(part(answer, "clickables", "the actions"), "clickables")


def part(answer: Any, place: Place, what: str) -> Any:
    """What stands at a place of an answer."""
    if place == "":
        return answer
    if isinstance(place, int):
        if isinstance(answer, list) and place < len(answer):
            return answer[place]
    elif isinstance(answer, Mapping) and place in answer:
        return answer[place]
    raise ServerError(f"the answer has no {place!r}, where {what} should be: {_shown(answer)}")


def text(value: Any, what: str) -> str:
    if problem := text_problem(value):
        raise ServerError(f"{what} {problem}")
    return str(value)


def fingerprint(first: str, lines_in_any_order: bool) -> str:
    """A digest of a first observation."""
    canonical = "\n".join(sorted(line.strip() for line in first.splitlines())) if lines_in_any_order else first
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _sound(answer: Any) -> Any:
    """The answer, unless it tells of an error: the key is there, whatever stands behind it."""
    if isinstance(answer, Mapping) and "error" in answer:
        raise ServerError(f"the server tells of an error: {_shown(answer['error'])}")
    return answer


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ServerError(f"{name!r} is {_shown(value)}; wanted true or false")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not is_finite_number(value) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        raise ServerError(f"{what} is {_shown(value)}; wanted a number")
    return float(value)


def _texts(value: Any, what: str) -> list[str]:
    if not isinstance(value, list):
        raise ServerError(f"{what} is {_shown(value)}; wanted a list")
    return [text(entry, f"an entry of {what}") for entry in value]


def _actions(p: Profile, answer: Any, observed: str) -> list[str] | None:
    """The admissible actions that an answer lists; none known: None."""
    if p.actions == "reply":
        return _texts(part(answer, "available_actions", "the actions"), "available_actions")
    if p.actions == "text" and (found := _LISTED.search(observed)):
        return re.findall(r'"([^"]+)"', found[1])
    return list(p.fixed) if p.actions == "fixed" else None


def _shown(value: Any) -> str:
    """A value's form, shortened, in characters that can be written."""
    return _SHORT.repr(value).encode(errors="backslashreplace").decode()[:300]
