"""Token-exact chat: a template rendered piece by piece, so that nothing the engine saw or sampled is ever encoded again.

An episode's tokens are

    head + first user text + tail, action tokens, between + user text + tail, action tokens, …

where head, between and tail are what the tokenizer's own chat template writes (`template.py`). Each piece around an observation is encoded by
itself; action tokens are kept as they were sampled. This needs a template with the prefix property: rendering more turns only appends. One that
rewrites earlier turns is refused, and told what it rewrites (`rewrites.py`), unless the history is to be what was sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import UserError, did_you_mean
from .calls import Call
from .parsing import ToolCall, parser_for
from .rewrites import check_appends_only, first_difference
from .template import HISTORIES, Message, Template, name_of, tool_names


class ChatFormat:
    """Prompts and actions of one tokenizer.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        system_prompt: put before the first observation, as the template's system message.
        action_format: how an action is read from the model's text ("action_only", "react", "tool_call").
        stop_token_ids: tokens that end an action, besides the template's own end of turn.
        tools: JSON schemas of what the environment's tools take; for "tool_call".
        few_shot: messages between the system's and the first observation.
        template_args: more variables of the template.
        history: "template": earlier turns are what the template makes of them, and one that rewrites them is refused; "as_sampled": they are
            what was sampled.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_prompt: str = "",
        action_format: str = "action_only",
        stop_token_ids: Sequence[int] = (),
        tools: Sequence[Message] = (),
        few_shot: Sequence[Message] = (),
        template_args: Mapping[str, Any] | None = None,
        history: str = "template",
    ) -> None:
        if history not in HISTORIES:
            raise UserError(f"unknown history {history!r}{did_you_mean(history, HISTORIES)} (known: {', '.join(HISTORIES)})")
        self.tokenizer = tokenizer
        self.parse = parser_for(action_format)
        self._action_format = action_format
        self._before = [*([{"role": "system", "content": system_prompt}] if system_prompt else []), *few_shot]
        more = {"tools": list(tools), "template_args": template_args, "history": history}
        self._more = {name: value for name, value in more.items() if value and value != "template"}
        self._template = Template(tokenizer, self._before, tools, template_args, history)
        if isinstance(self.parse, ToolCall):
            self._check_tools(system_prompt, tools)
        if history == "template":
            check_appends_only(self._template)
        self._ends = self._ending()
        self.end_token_id = self._ends[0]
        self.stop_token_ids = list(dict.fromkeys([*self._ends, *stop_token_ids]))
        self._marked = isinstance(self.parse, ToolCall) or bool(self._template.opening.strip())  # special tokens are part of what was said
        self._special_stops = {i for i in stop_token_ids if (token := tokenizer.added_tokens_decoder.get(i)) and token.special}
        self._check_tokens()

    def identity(self) -> str:
        """Everything that decides tokens and actions, as text: vocabulary, template, messages before the first observation, how an action is
        read, what ends it."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        told = (vocabulary, self.tokenizer.chat_template, self._before, self._action_format, self.stop_token_ids)
        return repr((*told, self._more) if self._more else told)

    def first(self, instruction: str, observation: str) -> list[int]:
        """Tokens up to the first action."""
        return self._encode(self._template.first(f"{instruction}\n{observation}" if instruction else observation))

    def following(self, observation: str, *, closed: bool, action_tokens: Sequence[int] = ()) -> list[int]:
        """Tokens between an action and the next.

        Args:
            closed: the action's last token is the template's end of turn; else it is supplied here, as part of the observation.
            action_tokens: the action, whose call of a tool is answered in the role `tool`.
        """
        call = self._call(self.action_text(action_tokens)) if self._template.takes_tools else None
        tokens = self._encode(self._template.following(observation, call))
        return tokens[1:] if closed else tokens

    def encode_action(self, text: str) -> list[int]:
        """A demonstrated action as the policy should sample it, with its end of turn."""
        call = self._call(text)
        if call is not None and text == call.text():  # the environment's own form of a call
            text = self._template.call(call)
        elif call is None:
            text = self._template.answer(text)
        before = self._encode(self._template.tail)  # for tokenizers that put a space before whatever comes first
        both = self._encode(self._template.tail + text)
        action = both[len(before) :] if both[: len(before)] == before else self._encode(text)
        return [*action, self._ends[-1 if call else 0]]

    def is_closed(self, action_tokens: Sequence[int]) -> bool:
        return bool(action_tokens) and action_tokens[-1] in self._ends

    def action_text(self, action_tokens: Sequence[int]) -> str:
        """What was sampled, as text: without special tokens, or, where they are part of a call or of a channel, without the one that ends it."""
        tokens = list(action_tokens)
        if self._marked and tokens and (tokens[-1] in self._ends or tokens[-1] in self._special_stops):
            del tokens[-1]
        return self.tokenizer.decode(tokens, skip_special_tokens=not self._marked)

    def _call(self, text: str) -> Call | None:
        return self.parse.read(text) if isinstance(self.parse, ToolCall) else None

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _check_tools(self, system_prompt: str, tools: Sequence[Message]) -> None:
        """A template that shows no tools leaves it to the system message to tell of them."""
        names = tool_names(tools)
        if not names:
            raise UserError("the action format tool_call needs an environment with tools(); see docs/chat.md")
        untold = [name for name in names if name not in system_prompt]
        if untold and not self._template.takes_tools:
            raise UserError(
                f"the chat template of {name_of(self.tokenizer)} shows no tools and their results; give one that does with --env.chat_template "
                f"FILE, or a --env.system_prompt_file that tells of {', '.join(untold)}: results are user messages then"
            )

    def _ending(self) -> list[int]:
        """What ends an action, and what ends one that calls a tool where that is another."""
        closing = self._encode(self._template.following(""))
        if not closing:
            raise UserError("the chat template puts nothing after an assistant message, so an action's end could not be told")
        kept = self._template.history == "as_sampled" and self._template.end
        ends = [self._encode(self._template.end)[0] if kept else closing[0]]
        if self._template.takes_tools:
            ends.append(self._encode(self._template.following("", self._some_call()))[0])
        return list(dict.fromkeys(ends))

    def _some_call(self) -> Call:
        return Call(tool_names(self._template.tools)[0], {"key": "go to door"})

    def _check_tokens(self) -> None:
        """The pieces, each encoded by itself, have to be the tokens of the conversation as a whole."""
        template, seen, done = self._template, "you see {} doors.", "go to door {}"
        whole, pieces = template.first(seen.format(0)), self.first("", seen.format(0))
        for k in range(4 if template.takes_tools else 2):
            call = self._some_call() if k > 1 else None
            action = self.encode_action(call.text() if call else done.format(k))
            whole += (template.call(call) if call else template.opening + done.format(k)) + template.following(seen.format(k + 1), call)
            pieces += action[:-1] + self.following(seen.format(k + 1), closed=False, action_tokens=action)
        if pieces != (tokens := self._encode(whole)):
            at = first_difference(tokens, pieces)
            raise UserError(
                f"the tokenizer {name_of(self.tokenizer)} has no prefix property: text encoded turn by turn is not what it is as a whole (at token "
                f"{at}: {self.tokenizer.decode(tokens[at : at + 5])!r} became {self.tokenizer.decode(pieces[at : at + 5])!r}); use one that adds "
                "no space before text (add_prefix_space, add_dummy_prefix), or a template with special tokens around messages "
                "(--env.chat_template FILE)"
            )


def load_tokenizer(path: str, chat_template: str | None = None) -> Any:
    """A transformers tokenizer, with a chat template from a file if one is given."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer could be loaded from {path!r}: {error}") from error
    if chat_template:
        try:
            with open(chat_template, encoding="utf-8") as file:
                tokenizer.chat_template = file.read()
        except OSError as error:
            raise UserError(f"the chat template {chat_template!r} cannot be read: {error}") from error
    return tokenizer
