"""Whether a chat template keeps earlier turns as they were, and if not, what it does to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..core.errors import UserError
from .calls import Call
from .template import ANSWER, USER, VALUE, Message, Template, calling, name_of, told, tool_names

_THOUGHT = "thought-of-a-turn"
_THINKING: tuple[Message, ...] = (
    {"content": f"<think>\n{_THOUGHT}\n</think>\n\ndone"},
    *({"content": "done", field: _THOUGHT} for field in ("reasoning_content", "thinking", "reasoning")),
)


def check_appends_only(template: Template) -> None:
    """Refuse a template under which what a policy sampled would not be what a later prompt shows.

    Raises:
        UserError: names what it does to earlier turns.
    """
    expected, found = next(((e, f) for e, f in _conversations(template) if e != f), ("", ""))
    reasons = list(_reasons(template))
    if expected == found and not reasons:
        return
    at = first_difference(expected, found)
    told = "; ".join(reasons) or f"at character {at}: {expected[at : at + 30]!r} became {found[at : at + 30]!r}"
    raise UserError(
        f"the chat template of {name_of(template.tokenizer)} rewrites earlier turns when turns are added ({told}), so the tokens trained on would "
        "not be those that a later prompt shows; give a template that only appends with --env.chat_template FILE, or keep in the history what was "
        "sampled with --env.history as_sampled"
    )


def _conversations(template: Template) -> Iterator[tuple[str, str]]:
    """(what the pieces make of a conversation, what the template makes of it)."""
    if template.dropped or template.opening.strip():
        return
    kinds = [["answer", "answer", "answer"]]
    if template.takes_tools:
        kinds += [["call", "call", "call"], ["answer", "call", "call", "answer"], ["answer", "call", "answer", "call"]]
    for kind in kinds:
        yield _conversation(template, kind)


def _conversation(template: Template, kinds: Sequence[str]) -> tuple[str, str]:
    user, answer = USER.format, ANSWER.format
    said: list[Message] = [{"role": "user", "content": user(0)}]
    pieces = template.first(user(0))
    for k, kind in enumerate(kinds):
        if kind == "answer":
            said += [{"role": "assistant", "content": answer(k)}, {"role": "user", "content": user(k + 1)}]
            pieces += template.opening + answer(k) + template.following(user(k + 1))
        else:
            names = tool_names(template.tools)
            call = Call(names[k % len(names)], {"key": f"{VALUE}-{k}"})
            said += [calling(call), told(call, user(k + 1))]
            pieces += template.call(call) + template.following(user(k + 1), call)
    try:
        return pieces, template.render(said)
    except UserError as error:  # it knows the messages, but not in this order
        return pieces, f"an error ({error})"


def _reasons(template: Template) -> Iterator[str]:
    """What the template does to earlier turns, in words."""
    moved = list(_moved(template))
    yield from moved
    if template.dropped and not moved:
        yield f"it leaves out {template.dropped!r}, with which the prompt for an answer ends"
    if template.opening.strip() and not moved:
        yield f"it writes {template.opening!r} before an answer, where the prompt for it does not"
    closing = template.closing()
    if template.end and closing and closing != template.end:
        yield f"it ends an answer with {closing!r}, where the answer itself ends with {template.end!r}"
    if _drops_thinking(template):
        yield "it drops the thinking of earlier turns"


def _moved(template: Template) -> Iterator[str]:
    """What stands before the last user message, wherever that is."""
    said = [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": USER}]
    alone = template.render(said, bare=True).partition(ANSWER)[2]
    more = lambda text: template.between.count(text) > alone.count(text)  # noqa: E731
    if any(more(m["content"]) for m in template.preamble[:1] if m["role"] == "system"):
        yield "it moves the system message to the last user message"
    if any(more(f'"{name}"') for name in tool_names(template.tools)):
        yield "it moves the tools to the last user message"


def _drops_thinking(template: Template) -> bool:
    """A thought that is shown in the last turn, or stands in the answer's own text, is not shown any more behind a user's message."""
    asked: list[Any] = [{"role": "user", "content": USER.format(0)}]
    more = {"role": "user", "content": USER.format(1)}
    for thinking in _THINKING:
        answer = {"role": "assistant", **thinking}
        try:
            now = template.render([*asked, answer], prompt=False)
            later = template.render([*asked, answer, more])
        except UserError:
            continue
        if _THOUGHT not in later and (_THOUGHT in now or _THOUGHT in thinking["content"]):
            return True
    return False


def first_difference(a: Sequence[Any], b: Sequence[Any]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
