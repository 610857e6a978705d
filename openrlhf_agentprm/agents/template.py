"""A chat template as pieces of text that are only appended to one another.

A conversation is

    head + first user text + tail, [opening] answer, closing + user text + tail, answer, …

where an answer that calls a tool is followed by a message of the role `tool` in place of the user's. All pieces are what the template itself
renders. Where it treats a text as it is, a piece is read off once; where it does something to it (strips blanks, writes it as JSON), each text is
rendered. Whether the template keeps earlier turns as they were is asked in `rewrites.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from ..core.errors import UserError
from .calls import Call

Message = dict[str, Any]
HISTORIES = ("template", "as_sampled")
USER, ANSWER = "⟦user{}⟧", "⟦assistant{}⟧"
VALUE = "value-of-a-call"  # plain letters, so that JSON writes it as it is
_ODD = ' \n "odd" <é> & \\ \' {x}\t \n'  # what a template might strip, quote or escape
_NO_ID = "000000000"  # nine letters or digits, as Mistral's template wants them


class Template:
    """What a tokenizer's chat template makes of messages.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        preamble: messages before the first observation: the system's, examples.
        tools: JSON schemas, for the template's `tools`.
        args: more of the template's variables. Of `strftime_now` a day such as "2025-01-31" may be given: what the template takes for today.
        history: "template": earlier turns are what the template makes of them, which has to be what they were. "as_sampled": they are what they
            were, whatever the template would make of them.

    Raises:
        UserError: the template cannot render the messages, or loses their text.
    """

    def __init__(
        self,
        tokenizer: Any,
        preamble: Sequence[Message] = (),
        tools: Sequence[Message] = (),
        args: Mapping[str, Any] | None = None,
        history: str = "template",
    ) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise UserError(f"{name_of(tokenizer)} has no chat template; give one with --env.chat_template FILE")
        self.tokenizer = tokenizer
        self.preamble = list(preamble)
        self.tools = list(tools)
        self.args = _with_day(dict(args or {}))
        self.history = history
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self._read()
        self.takes_tools = bool(self.tools) and self._takes_tools()

    # --- pieces of an episode ---

    def first(self, text: str) -> str:
        """Up to the first answer."""
        return self.head + text + self.tail if self._as_is_first else self.render([_user(text)])

    def following(self, observation: str, call: Call | None = None) -> str:
        """From the closing of an answer up to the next answer.

        Args:
            call: what the answer called; its result is told in the role `tool`.
        """
        if call is not None and self.takes_tools:
            return self._behind_call(call, observation)
        if self._as_is_later:
            return self.between + observation + self.next_tail
        return self._behind_answer(observation)

    def call(self, call: Call) -> str:
        """The text of an answer that calls a tool, without what closes it; the call itself where the template knows none."""
        if not self.takes_tools:
            return self.opening + call.text()
        whole = self.render([_user(USER.format(0)), calling(call), told(call, USER.format(1))], bare=self._bare)
        return whole.removeprefix(self.begun).removesuffix(self._behind_call(call, USER.format(1)))

    def answer(self, text: str) -> str:
        """The text of an answer, behind what the template writes before it; one that was sampled, with its own marks or blank, as it is."""
        own = text.startswith(self.opening) or (self.opening.strip() and self._special.search(text))
        return text if own else self.opening + text

    def closing(self) -> str:
        """The special token that ends an answer in an earlier turn; empty where there is none."""
        found = self._special.match(self.between)
        return found[0] if found else ""

    # --- reading them off ---

    def render(self, messages: Sequence[Message], *, bare: bool = False, prompt: bool = True, tools: bool = True) -> str:
        """
        Args:
            bare: without preamble and tools.
            prompt: with the beginning of the next answer.
            tools: with the tools.
        """
        said = [*([] if bare else self.preamble), *messages]
        given = self.tools if tools and not bare else []
        try:
            return self.tokenizer.apply_chat_template(said, tools=given or None, tokenize=False, add_generation_prompt=prompt, **self.args)
        except Exception as error:
            roles = "alternating user and assistant messages"
            before = {message["role"] for message in said[:1]} & {"system", "developer"}
            raise UserError(
                f"the chat template of {name_of(self.tokenizer)} cannot render {'a system message and ' if before else ''}{roles}: {error}"
            ) from error

    def _read(self) -> None:
        user, answer = USER.format, ANSWER.format
        self._bare = self.history == "as_sampled"
        self.head, shown, self.tail = self.render([_user(user(0))]).partition(user(0))
        whole = self.render([_user(user(0)), _answer(answer(0)), _user(user(1))], bare=self._bare)
        before, kept, rest = whole.partition(answer(0))
        self.between, shown_too, self.next_tail = rest.partition(user(1))
        if not (shown and kept and shown_too):
            lost = (
                "does not show a user message"
                if kept or not shown
                else "rewrites earlier turns when turns are added (it does not show their text)"
            )
            raise UserError(f"the chat template of {name_of(self.tokenizer)} {lost}; give another one with --env.chat_template FILE")
        prompted = self.render([_user(user(0))], bare=self._bare)
        self.begun = os.path.commonprefix([before, prompted])  # up to where an answer begins in an earlier turn
        self.opening = before[len(self.begun) :]
        self.dropped = prompted[len(self.begun) :]  # with what the prompt for it ends besides
        self.end = self._end()
        self._as_is_first = self.render([_user(_ODD)]) == self.head + _ODD + self.tail
        self._as_is_later = self._behind_answer(_ODD) == self.between + _ODD + self.next_tail

    def _end(self) -> str:
        """The special token that ends an answer as long as it is the last message; empty where there is none."""
        last = self.render([_user(USER.format(0)), _answer(ANSWER.format(0))], bare=self._bare, prompt=False)
        found = self._special.match(last.partition(ANSWER.format(0))[2])
        return found[0] if found else ""

    def _behind_answer(self, observation: str) -> str:
        said = [_user(USER.format(0)), _answer(ANSWER.format(0)), _user(observation)]
        return self.render(said, bare=self._bare).partition(ANSWER.format(0))[2]

    def _behind_call(self, call: Call, observation: str) -> str:
        probe = Call(call.name, {"key": VALUE}, call.id)
        rest = self.render([_user(USER.format(0)), calling(probe), told(call, observation)], bare=self._bare).partition(VALUE)[2]
        closing = self._special.search(rest)
        return rest[closing.start() :] if closing else ""

    def _takes_tools(self) -> bool:
        """Whether the template shows tools, calls and their results."""
        plain = [_user(USER.format(0))]
        if self.render(plain) == self.render(plain, tools=False):
            return False
        probe = Call(tool_names(self.tools)[0], {"key": VALUE})
        try:
            shown = self._behind_call(probe, USER.format(1))
        except UserError:
            return False
        return USER.format(1) in shown and self._special.match(shown) is not None


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def calling(call: Call) -> Message:
    """The assistant's message with a call."""
    function = {"name": call.name, "arguments": dict(call.arguments)}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": _id(call), "type": "function", "function": function}]}


def told(call: Call, result: str) -> Message:
    """The message with a call's result."""
    return {"role": "tool", "name": call.name, "tool_call_id": _id(call), "content": result}


def _id(call: Call) -> str:
    return call.id if len(call.id) == 9 and call.id.isalnum() else _NO_ID


def tool_names(tools: Sequence[Message]) -> list[str]:
    return [str(tool.get("function", tool).get("name")) for tool in tools]


def name_of(tokenizer: Any) -> str:
    return repr(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)


def _with_day(args: dict[str, Any]) -> dict[str, Any]:
    if isinstance(day := args.get("strftime_now"), str):
        try:
            args["strftime_now"] = date.fromisoformat(day).strftime
        except ValueError as error:
            raise UserError(f"--env.chat_template_args: strftime_now is {day!r}; wanted a day such as '2025-01-31' ({error})") from error
    return args
