"""Episodes that begin in the middle: the turns that led to a state, to be played again before a policy goes on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import UserError
from ..data.episode import Episode, Turn
from ..data.steps import whole_turns


@dataclass(frozen=True)
class Prefix:
    """A state, as the policy saw it come about.

    Args:
        token_ids: what the policy is shown next: everything up to the prompt for the next action, the engine's own ids.
        logprobs: of the sampled ones among them.
        turns: the turns played; none is the episode's start, or a state inside its first response.
        observation: what the environment shows in this state.
        action_start: inside a response, where in `token_ids` it begins; the environment has been given nothing of it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    turns: tuple[Turn, ...]
    observation: str
    action_start: int | None = None


def prefix_of(episode: Episode, turns: int) -> Prefix:
    """The state of an episode after so many of its turns; the last one has no prompt behind it, so `turns` is less than their number.

    Of an episode in steps it may be a state inside a response.
    """
    played, end = whole_turns(episode.turns[: turns + 1]), episode.turns[turns].action_start
    present = played.pop()
    begun = present.action_start if present.action_start < end else None
    return Prefix(tuple(episode.token_ids[:end]), tuple(episode.logprobs[:end]), tuple(played), present.observation, begun)


def check_replay(task_id: str, seen: Sequence[str], answers: Sequence[Mapping[str, Any]], what_for: str) -> None:
    """Refuse a replay that shows something else than what was seen.

    Args:
        seen: observations, the reset's first.
        answers: what the environment answered when it was asked again, as many or more.

    Raises:
        UserError: with both observations.
    """
    for step, (before, answer) in enumerate(zip(seen, answers, strict=False)):
        if before != answer["observation"]:
            raise UserError(
                f"task {task_id!r} is not replayed alike: after {step} actions it showed {before!r}, and now shows "
                f"{answer['observation']!r}; {what_for} needs a deterministic environment"
            )
