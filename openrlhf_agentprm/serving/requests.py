"""What a request may hold: token ids with spans, texts or messages, and the host's `query`; everything else is told with a 4xx status."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..agents.chat import ChatFormat
from ..core.errors import UserError
from ..data.layout import Span
from ..data.steps import Delimiters, split_steps

_TOLD = 10  # problems of one request that are told
_FORMS = ("token_ids", "text", "messages")
_CHARACTERS_A_TOKEN = 64  # more than text has in any tokenizer, but for runs of blanks


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        problems: what was wrong, what came, what is allowed.
    """

    def __init__(self, status: int, *problems: str) -> None:
        self.status = status
        self.problems = [*problems[:_TOLD], *([f"… and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else [])]
        super().__init__("; ".join(self.problems))


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how much may wait.

    Args:
        body_bytes: of one request (413).
        episodes: of one request (422).
        tokens: of one episode (422).
        queued_tokens: of all requests that wait (429), and of one (422).
        seconds: from the first byte to the answer (504).
    """

    body_bytes: int = 32 << 20
    episodes: int = 256
    tokens: int = 16_384
    queued_tokens: int = 1_048_576
    seconds: float = 60.0


@dataclass(frozen=True)
class Item:
    """An episode to be scored."""

    name: str
    token_ids: list[int]
    spans: list[Span]


class Reader:
    """Makes episodes of request bodies.

    Args:
        tokenizer: of the checkpoint.
        vocabulary: token ids that the model knows are below this.
        limits: of one request.
        delimiters: what ends a step of a turn in texts and messages, as the model was trained; spans are taken as they are.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, limits: Limits, delimiters: Delimiters = ()) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.limits = limits
        self.delimiters = delimiters
        self._lock = threading.Lock()  # a tokenizer's Rust half is not to be borrowed twice
        self._chats: dict[str, ChatFormat] = {}

    def episodes(self, body: Any) -> list[Item]:
        """`{"episodes": [{"token_ids", "spans"} or {"text"} or {"messages"}, each with an "id" if wanted]}`.

        Raises:
            RequestError: 422 with all that is wrong.
        """
        found = self._objects(body, "episodes")
        items, problems = [], []
        for index, entry in enumerate(found):
            try:
                items.append(self._episode(index, entry))
            except RequestError as error:
                problems += [f"episodes[{index}]: {problem}" for problem in error.problems]
        if problems:
            raise RequestError(422, *problems)
        return items

    def queries(self, body: Any) -> list[Item]:
        """The host's `{"query": [text], "prompts": [text], "labels": [...]}`: a text's score is Q at its last token.

        Where the prompt begins the text, the action begins behind it and V is read there; else the last token alone is the action.
        """
        texts = self._objects(body, "query")
        prompts = body.get("prompts")
        if prompts is None or not prompts:
            prompts = [""] * len(texts)
        if not isinstance(prompts, list) or len(prompts) != len(texts):
            told = f"{len(prompts)} entries" if isinstance(prompts, list) else type(prompts).__name__
            raise RequestError(422, f'"prompts" is {told}; wanted a list of {len(texts)} texts, one for each of "query"')
        items, problems = [], []
        for index, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
            try:
                items.append(self._query(index, text, prompt))
            except RequestError as error:
                problems += [f"query[{index}]: {problem}" for problem in error.problems]
        if problems:
            raise RequestError(422, *problems)
        return items

    def _objects(self, body: Any, key: str) -> list[Any]:
        if not isinstance(body, dict):
            raise RequestError(422, f'the body is a JSON {_json_type(body)}; wanted an object with "{key}"')
        found = body.get(key)
        if not isinstance(found, list) or not found:
            raise RequestError(422, f'"{key}" is {_brief(found)}; wanted a list with at least one entry')
        if len(found) > self.limits.episodes:
            raise RequestError(422, f'"{key}" has {len(found)} entries; at most {self.limits.episodes} are taken in one request')
        return found

    def _query(self, index: int, text: Any, prompt: Any) -> Item:
        if not isinstance(text, str) or not text:
            raise RequestError(422, f"it is {_brief(text)}; wanted a text")
        self._check_length([text])
        tokens = self._encode(text)
        before = _common(tokens, self._encode(prompt)) if isinstance(prompt, str) and prompt and text.startswith(prompt) else 0
        start = before if 1 <= before < len(tokens) else len(tokens) - 1
        return self._item(str(index), tokens, [(start, len(tokens))])

    def _episode(self, index: int, entry: Any) -> Item:
        if not isinstance(entry, dict):
            raise RequestError(422, f"it is a JSON {_json_type(entry)}; wanted an object")
        given = [form for form in _FORMS if form in entry]
        unknown = sorted(entry.keys() - {*_FORMS, "spans", "id"})
        if unknown:
            raise RequestError(422, f"it has the unknown key {unknown[0]!r} (allowed: id, spans, {', '.join(_FORMS)})")
        if len(given) != 1:
            raise RequestError(422, f"it has {' and '.join(given) or 'no tokens'}; wanted one of {', '.join(_FORMS)}")
        if "spans" in entry and given != ["token_ids"]:
            raise RequestError(422, f'"spans" go with "token_ids"; with "{given[0]}" the turns are found here')
        name = str(entry.get("id", index))
        _check_text(name)
        read: dict[str, Callable[[Any], tuple[list[int], list[Span]]]] = {"text": self._pieces, "messages": self._messages}
        if given == ["token_ids"]:
            tokens, spans = entry["token_ids"], _spans(entry.get("spans"))
        else:
            tokens, turns = read[given[0]](entry[given[0]])
            spans = [step for turn in turns for step in split_steps(tokens, turn, self.delimiters)]
        return self._item(name, tokens, spans)

    def _item(self, name: str, tokens: Any, spans: list[Span]) -> Item:
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise RequestError(422, f'"token_ids" is {_brief(tokens)}; wanted a list of whole numbers')
        if len(tokens) > self.limits.tokens:
            raise RequestError(422, f"it has {len(tokens)} tokens; at most {self.limits.tokens} are taken")
        strange = [token for token in tokens if not 0 <= token < self.vocabulary]
        if strange:
            raise RequestError(422, f"it holds token {strange[0]}, but the model knows 0 to {self.vocabulary - 1}")
        end = 0
        for turn, (start, stop) in enumerate(spans):
            if not max(end, 1) <= start < stop <= len(tokens):
                raise RequestError(
                    422, f"turn {turn} spans [{start}, {stop}) of {len(tokens)} tokens; wanted {max(end, 1)} ≤ start < end ≤ {len(tokens)}"
                )
            end = stop
        return Item(name, tokens, spans)

    def _pieces(self, pieces: Any) -> tuple[list[int], list[Span]]:
        """Texts in turn, what was seen and what was done, each encoded by itself."""
        if not isinstance(pieces, list) or len(pieces) < 2 or len(pieces) % 2 or not all(isinstance(p, str) and p for p in pieces):
            raise RequestError(422, f'"text" is {_brief(pieces)}; wanted a list of texts: observation, action, observation, action, …')
        self._check_length(pieces)
        tokens: list[int] = []
        spans = []
        for number, piece in enumerate(pieces):
            start = len(tokens)
            tokens += self._encode(piece)
            if number % 2:
                spans.append((start, len(tokens)))
        return tokens, spans

    def _messages(self, messages: Any) -> tuple[list[int], list[Span]]:
        """A conversation in the checkpoint's chat template; every assistant message is a turn, encoded as collection encodes it."""
        well = isinstance(messages, list) and all(
            isinstance(m, dict) and m.keys() == {"role", "content"} and isinstance(m["content"], str) for m in messages
        )
        if not well:
            raise RequestError(422, f'"messages" is {_brief(messages)}; wanted a list of {{"role": …, "content": text}}')
        self._check_length([message["content"] for message in messages])
        for message in messages:
            _check_text(message["content"])
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
        rest = messages[1:] if system else messages
        wanted = ["user", "assistant"] * (len(rest) // 2)
        if not rest or [m["role"] for m in rest] != wanted:
            raise RequestError(
                422, f"the roles are {[m['role'] for m in messages][:9]}; wanted user and assistant in turn, the last one assistant"
            )
        try:
            with self._lock:
                return _as_collected(self._chat(system), [m["content"] for m in rest])
        except UserError as error:
            raise RequestError(422, *error.problems) from error

    def _chat(self, system: str) -> ChatFormat:
        if system not in self._chats:
            if len(self._chats) >= 64:  # as many system messages as are kept
                self._chats.clear()
            self._chats[system] = ChatFormat(self.tokenizer, system_prompt=system, history="as_sampled")
        return self._chats[system]

    def _check_length(self, texts: Sequence[str]) -> None:
        """Before they are encoded, which takes a second for a megabyte, and nobody else's are meanwhile."""
        length, most = sum(map(len, texts)), _CHARACTERS_A_TOKEN * self.limits.tokens
        if length > most:
            raise RequestError(
                422, f"it has {length} characters; at most {most} are read, since at most {self.limits.tokens} tokens are taken"
            )

    def _encode(self, text: str) -> list[int]:
        _check_text(text)
        with self._lock:
            return self.tokenizer.encode(text, add_special_tokens=False)


def _check_text(text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write and no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            422, f"the text {_brief(text)} holds half of a surrogate pair at {error.start}, which is no character"
        ) from error


def _as_collected(chat: ChatFormat, texts: Sequence[str]) -> tuple[list[int], list[Span]]:
    tokens = chat.first("", texts[0])
    spans = []
    for number, text in enumerate(texts[1:], start=1):
        start = len(tokens)
        tokens += chat.encode_action(text) if number % 2 else chat.following(text, closed=True)
        if number % 2:
            spans.append((start, len(tokens)))
    return tokens, spans


def _common(tokens: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of the prompt that stand so in the text: the last of them may be joined with what follows."""
    return next((i for i, (a, b) in enumerate(zip(tokens, prompt, strict=False)) if a != b), min(len(tokens), len(prompt)))


def _spans(spans: Any) -> list[Span]:
    well = isinstance(spans, list) and all(isinstance(s, list) and len(s) == 2 and all(type(x) is int for x in s) for s in spans)
    if not well or not spans:
        raise RequestError(422, f'"spans" is {_brief(spans)}; wanted a list of [start, end) pairs, one for each turn')
    return [(start, end) for start, end in spans]


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _brief(value: Any) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 80 else text[:80] + "…"
