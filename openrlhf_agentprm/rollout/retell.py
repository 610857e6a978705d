"""A finished episode told again: its actions in other words, or all of it in another tokenizer's tokens, template or prompt. Nothing is played."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..agents.chat import ChatFormat
from ..data.episode import Episode, Status
from .builder import Assignment, EpisodeBuilder, Limits


def retell(episode: Episode, sampling: dict[str, Any], chat: ChatFormat, max_tokens: int, actions: Sequence[str]) -> Episode:
    """The episode with these texts as its actions; what the environment showed, gave and decided stays. It has no log-probabilities.

    Args:
        sampling: of the new episode, which is part of its identity.
        chat: makes the tokens.
        max_tokens: the context; an episode that has outgrown it comes back as `context_overflow`.
        actions: one text a turn.
    """
    assignment = Assignment(
        episode.env, episode.task_id, episode.split, episode.seed, episode.sample, episode.policy, episode.policy_digest, sampling,
        episode.iteration,
    )  # fmt: skip
    builder = EpisodeBuilder(assignment, chat, Limits(len(episode.turns) + 1, max_tokens), graded=True)
    builder.begin({"instruction": episode.instruction, "observation": episode.turns[0].observation})
    for text, answer in zip(actions, _answers(episode), strict=True):
        if builder.finished:
            break
        builder.act(chat.encode_action(text), [])
        builder.observe(answer)
    told = builder.episode()
    told.logprobs = []
    if len(told.token_ids) > max_tokens:  # by its last action
        told.status = Status.CONTEXT_OVERFLOW
    return told


def _answers(episode: Episode) -> list[dict[str, Any]]:
    """What the environment answered to each action."""
    shown = [*(turn.observation for turn in episode.turns[1:]), episode.final_observation]
    going_on = {"terminated": False, "truncated": False, "success": False, "outcome": None}
    ended = {"terminated": episode.terminated, "truncated": episode.truncated, "success": episode.status is Status.SUCCESS}
    answers = [
        {"observation": observation, "reward": turn.reward, "valid_action": turn.valid_action, **going_on}
        for turn, observation in zip(episode.turns, shown, strict=True)
    ]
    answers[-1] |= ended | {"outcome": episode.outcome}
    return answers
