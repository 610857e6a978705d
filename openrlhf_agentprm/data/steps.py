"""Steps inside one response: a step is a turn with nothing observed before it.

A delimiter is one or more token ids in a row. It ends a step and belongs to it, so a step's Q is read at the delimiter's last token and its V at
the end of the step before. Delimiters in a row end one step together, those that a response begins with belong to its first step, and what
stands behind the last one, if only the token that ends the turn, is a step too. Whatever reads turns then reads steps: labels, scores,
advantages and search need no other rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .episode import Episode, Turn

if TYPE_CHECKING:
    from .layout import Span

Delimiters = tuple[tuple[int, ...], ...]
"""Ways in which a step may end, each a sequence of token ids; none: a response is one step."""

Text = Callable[[Sequence[int]], str]


def split_steps(token_ids: Sequence[int], span: Span, delimiters: Delimiters) -> list[Span]:
    """The steps of the response token_ids[start:end), in order and without a gap.

    The text is read from left to right; of delimiters that begin at one token the longest counts.

    >>> split_steps([9, 4, 5, 0, 6, 0, 0, 7, 8], (1, 9), ((0,),))
    [(1, 4), (4, 7), (7, 9)]
    """
    start, end = span
    by_first = _by_first(delimiters)
    steps: list[Span] = []
    filled = ended = False  # the present step has more than delimiters; and a delimiter behind that
    at = start
    while at < end:
        met = next((d for d in by_first.get(token_ids[at], ()) if at + len(d) <= end and tuple(token_ids[at : at + len(d)]) == d), ())
        if met:
            ended = filled
        else:
            if ended:
                steps.append((start, at))
                start, ended = at, False
            filled = True
        at += len(met) or 1
    return [*steps, (start, end)]


@functools.lru_cache(maxsize=8)
def _by_first(delimiters: Delimiters) -> dict[int, list[tuple[int, ...]]]:
    """Delimiters by their first token, the longest first."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for delimiter in sorted(delimiters, key=len, reverse=True):
        found.setdefault(delimiter[0], []).append(delimiter)
    return found


def in_steps(episode: Episode, delimiters: Delimiters, text: Text | None = None) -> Episode:
    """The episode with its steps as turns; its tokens, its identity and how it ended stay.

    The first step of a response keeps the observation and the others observe nothing; the environment's reward stands at its last step;
    `valid_action` is that of the whole.

    Args:
        text: reads tokens back, for the actions of steps; without it the actions of a split response are empty.
    """
    return replace(episode, turns=steps_of_turns(episode.turns, episode.token_ids, delimiters, text))


def steps_of_turns(turns: Sequence[Turn], token_ids: Sequence[int], delimiters: Delimiters, text: Text | None) -> list[Turn]:
    """The turns of `in_steps`."""
    found: list[Turn] = []
    for turn in turns:
        spans = split_steps(token_ids, (turn.action_start, turn.action_end), delimiters)
        if len(spans) == 1:
            found.append(turn)
            continue
        found += [Turn("", text(token_ids[a:b]) if text else "", a, b, 0.0, turn.valid_action) for a, b in spans]
        found[-len(spans)].observation = turn.observation
        found[-1].reward = turn.reward
    return found


def whole_turns(turns: Sequence[Turn]) -> list[Turn]:
    """Turns again from steps, which begin where the one before ends and observe nothing.

    What a response of several steps says as a whole is for the tokenizer to tell: its action is empty here.
    """
    found: list[Turn] = []
    for turn in turns:
        if found and turn.action_start == found[-1].action_end and not turn.observation:
            before = found[-1]
            found[-1] = replace(before, action="", action_end=turn.action_end, reward=before.reward + turn.reward)
        else:
            found.append(turn)
    return found
