"""How an action is read from a model's text."""

from __future__ import annotations

from collections.abc import Callable

from ..core.errors import UserError, did_you_mean


def action_only(text: str) -> str:
    """The whole text is the action."""
    return text.strip()


def react(text: str) -> str:
    """ReAct (arXiv 2210.03629): what follows the last `Action:`, up to the line's end; empty where there is none."""
    _, marker, action = text.rpartition("Action:")
    return action.strip().partition("\n")[0].strip() if marker else ""


ACTION_FORMATS: dict[str, Callable[[str], str]] = {"action_only": action_only, "react": react}


def parser_for(name: str) -> Callable[[str], str]:
    if name not in ACTION_FORMATS:
        raise UserError(f"unknown action format {name!r}{did_you_mean(name, ACTION_FORMATS)} (known: {', '.join(ACTION_FORMATS)})")
    return ACTION_FORMATS[name]
