"""Token-exact chat: a template rendered piece by piece, so that nothing the engine saw or sampled is ever encoded again.

An episode's tokens are

    head + first user text + tail, action tokens, between + user text + tail, action tokens, …

where head, between and tail are read off the tokenizer's own chat template once. Each piece around an observation is encoded by itself;
action tokens are kept as they were sampled. This needs a template with the prefix property: rendering more turns only appends. A template
that rewrites earlier turns (one that strips their thinking, say) is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import UserError
from .parsing import parser_for

_USER, _ASSISTANT = "⟦user{}⟧", "⟦assistant{}⟧"


@dataclass(frozen=True)
class _Pieces:
    head: str
    between: str
    tail: str


class ChatFormat:
    """Prompts and actions of one tokenizer.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        system_prompt: put before the first observation, as the template's system message.
        action_format: how an action is read from the model's text ("action_only", "react").
        stop_token_ids: tokens that end an action, besides the template's own end of turn.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_prompt: str = "",
        action_format: str = "action_only",
        stop_token_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.parse = parser_for(action_format)
        self._action_format = action_format
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._pieces = self._read_template()
        closing = self._encode(self._pieces.between)
        if not closing:
            raise UserError("the chat template puts nothing after an assistant message, so an action's end could not be told")
        self.end_token_id = closing[0]
        self.stop_token_ids = list(dict.fromkeys([self.end_token_id, *stop_token_ids]))
        self._check_tokens()

    def identity(self) -> str:
        """Everything that decides tokens and actions, as text: vocabulary, template, system message, how an action is read, what ends it."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return repr((vocabulary, self.tokenizer.chat_template, self._system, self._action_format, self.stop_token_ids))

    def first(self, instruction: str, observation: str) -> list[int]:
        """Tokens up to the first action."""
        text = f"{instruction}\n{observation}" if instruction else observation
        return self._encode(self._pieces.head + text + self._pieces.tail)

    def following(self, observation: str, *, closed: bool) -> list[int]:
        """Tokens between an action and the next.

        Args:
            closed: the action's last token is the template's end of turn; else it is supplied here, as part of the observation.
        """
        tokens = self._encode(self._pieces.between + observation + self._pieces.tail)
        return tokens[1:] if closed else tokens

    def encode_action(self, text: str) -> list[int]:
        """A demonstrated action as the policy should sample it, with its end of turn."""
        before = self._encode(self._pieces.tail)  # for tokenizers that put a space before whatever comes first
        both = self._encode(self._pieces.tail + text)
        action = both[len(before) :] if both[: len(before)] == before else self._encode(text)
        return [*action, self.end_token_id]

    def is_closed(self, action_tokens: Sequence[int]) -> bool:
        return bool(action_tokens) and action_tokens[-1] == self.end_token_id

    def action_text(self, action_tokens: Sequence[int]) -> str:
        """What was sampled, as text without special tokens."""
        return self.tokenizer.decode(list(action_tokens), skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return self.tokenizer.apply_chat_template([*self._system, *messages], tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise UserError(
                f"the chat template of {_name(self.tokenizer)} cannot render "
                f"{'a system message and ' if self._system else ''}alternating user and assistant messages: {error}"
            ) from error

    def _read_template(self) -> _Pieces:
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise UserError(f"{_name(self.tokenizer)} has no chat template; give one with --env.chat_template FILE")
        user, assistant = _USER.format, _ASSISTANT.format
        messages = [{"role": "user", "content": user(0)}]
        head, _, tail = self._render(messages).partition(user(0))
        messages += [{"role": "assistant", "content": assistant(0)}, {"role": "user", "content": user(1)}]
        rest = self._render(messages).removeprefix(head + user(0) + tail + assistant(0))
        pieces = _Pieces(head, rest.partition(user(1))[0], tail)
        messages += [{"role": "assistant", "content": assistant(1)}, {"role": "user", "content": user(2)}]
        expected = pieces.head + user(0) + tail
        for k in (0, 1):
            expected += assistant(k) + pieces.between + user(k + 1) + tail
        if (found := self._render(messages)) != expected:
            raise UserError(_no_prefix_property(self.tokenizer, expected, found))
        return pieces

    def _check_tokens(self) -> None:
        """The pieces, each encoded by itself, have to be the tokens of the conversation as a whole."""
        user, assistant = "you see {} doors.", "go to door {}"
        messages = [{"role": "user", "content": user.format(0)}]
        pieces = self.first("", user.format(0))
        for k in (0, 1):
            messages += [{"role": "assistant", "content": assistant.format(k)}, {"role": "user", "content": user.format(k + 1)}]
            pieces += self.encode_action(assistant.format(k)) + self.following(user.format(k + 1), closed=True)
        if pieces != (whole := self._encode(self._render(messages))):
            at = _first_difference(whole, pieces)
            raise UserError(
                f"the tokenizer {_name(self.tokenizer)} has no prefix property: text encoded turn by turn is not what it is as a whole (at token "
                f"{at}: {self.tokenizer.decode(whole[at : at + 5])!r} became {self.tokenizer.decode(pieces[at : at + 5])!r}); use one that adds "
                "no space before text (add_prefix_space, add_dummy_prefix), or a template with special tokens around messages "
                "(--env.chat_template FILE)"
            )


def _no_prefix_property(tokenizer: Any, expected: str, found: str) -> str:
    at = _first_difference(expected, found)
    return (
        f"the chat template of {_name(tokenizer)} rewrites earlier turns when turns are added (at character {at}: "
        f"{expected[at : at + 30]!r} became {found[at : at + 30]!r}), so the tokens trained on would not be those sampled; "
        "give a template that only appends with --env.chat_template FILE"
    )


def _first_difference(a: Sequence[Any], b: Sequence[Any]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _name(tokenizer: Any) -> str:
    return repr(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)


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
