"""How an action is read from a model's text: one small class a format, called with the text.

What a model thinks first is no part of its action: what stands before the last `</think>`, and the channels of gpt-oss other than its final one.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.errors import UserError, did_you_mean
from .calls import Call, read_call

_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>")


class ActionOnly:
    """The whole answer is the action."""

    def __call__(self, text: str) -> str:
        return answer_of(text).strip()


class ReAct:
    """ReAct (arXiv 2210.03629): what follows the last `Action:`, up to the line's end; empty where there is none."""

    def __call__(self, text: str) -> str:
        _, marker, action = answer_of(text).rpartition("Action:")
        return action.strip().partition("\n")[0].strip() if marker else ""


class ToolCall:
    """A call of one of the environment's tools, in the syntax of the model's chat template; the action is the call as JSON.

    Empty where there is no call, more than one, or one that is broken: the environment answers that by its own message.
    """

    def __call__(self, text: str) -> str:
        call = self.read(text)
        return call.text() if call else ""

    def read(self, text: str) -> Call | None:
        return read_call(text if _MESSAGE in text else answer_of(text))


action_only, react, tool_call = ActionOnly(), ReAct(), ToolCall()
ACTION_FORMATS: dict[str, Callable[[str], str]] = {"action_only": action_only, "react": react, "tool_call": tool_call}


def parser_for(name: str) -> Callable[[str], str]:
    if name not in ACTION_FORMATS:
        raise UserError(f"unknown action format {name!r}{did_you_mean(name, ACTION_FORMATS)} (known: {', '.join(ACTION_FORMATS)})")
    return ACTION_FORMATS[name]


def answer_of(text: str) -> str:
    """A text without what was thought before it; empty where a thought was begun and not ended.

    >>> answer_of("<think>which one?</think>go"), answer_of("<think>which"), answer_of("go")
    ('go', '', 'go')
    >>> answer_of("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>go")
    'go'
    """
    if _CHANNEL in text and _MESSAGE in text:
        _, final, said = text.rpartition(f"{_CHANNEL}final{_MESSAGE}")
        return min((said.partition(end)[0] for end in _ENDS), key=len) if final else ""
    _, ended, rest = text.rpartition("</think>")
    if ended:
        return rest
    return "" if "<think>" in text else text
