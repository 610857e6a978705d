"""Rollouts become experiences: turns by number, how the episode ended, and replacements for those whose environment broke."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import torch

from ..core.errors import StoppedError
from ..data.episode import Status
from ..data.layout import Span, turn_numbers
from ..data.steps import Delimiters, split_steps

logger = logging.getLogger(__name__)


class Ending(IntEnum):
    """`Experience.ending`: a status as a number, and UNKNOWN for agents that report none."""

    UNKNOWN = 0
    SUCCESS = 1
    FAILURE = 2
    TRUNCATED = 3
    CONTEXT_OVERFLOW = 4
    ENV_ERROR = 5
    TIMEOUT = 6

    @classmethod
    def of(cls, status: str | None) -> Ending:
        return cls[Status(status).name] if status else cls.UNKNOWN


REPLACED = "replaced_samples"
"""Logged beside the host's own sample metrics: samples thrown away with groups that broke, a sample kept."""

_CRASHED_IN_A_ROW = 32  # prompts, at least: then the environment does not work any more

BROKEN = torch.tensor([Ending.CONTEXT_OVERFLOW, Ending.ENV_ERROR, Ending.TIMEOUT])


def attach_turns(args: Any, response: dict[str, Any], experience: Any) -> Any:
    """Give an experience its turns, or their steps where a delimiter divides them; without our flags it is handed back as it came."""
    if not is_on(args):
        return experience
    length = experience.sequences.shape[1]
    ranges = response["action_ranges"]
    told = [*(response.get("turn_rewards") or []), *[0.0] * len(ranges)][: len(ranges)]
    spans, turn_rewards = turns_with_tokens(ranges, told, length)
    if delimiters := getattr(args.agentprm, "step_delimiters", ()):
        spans, turn_rewards = divided(spans, turn_rewards, experience.sequences[0].tolist(), delimiters)
    numbers = turn_numbers(spans, length)[None]
    rewards, valid, began, ended = (torch.zeros(numbers.shape) for _ in range(4))
    for (start, end), reward in zip(spans, turn_rewards, strict=True):
        turn = next((k for k, (a, b) in enumerate(ranges) if a <= start and end <= b), -1)
        rewards[0, start - 1] = reward
        valid[0, start - 1] = _told(response, "valid_actions", turn, True)
        began[0, start - 1], ended[0, start - 1] = (v + 1 for v in _told(response, "policy_versions", turn, (-1, -1)))
    ending = Ending.of(response.get("status"))
    experience.turn_numbers = numbers
    experience.turn_rewards = rewards
    experience.turn_valid = valid
    experience.turn_began, experience.turn_ended = began, ended
    experience.ending = torch.tensor([int(ending)])
    if ending in BROKEN:  # a placeholder: no token of it counts
        experience.turn_numbers = torch.zeros_like(numbers)
        experience.action_mask = torch.zeros_like(experience.action_mask)
    return experience


def _told(response: dict[str, Any], name: str, turn: int, otherwise: Any) -> Any:
    """What an executor tells of a turn; agents written for the host tell nothing."""
    told = response.get(name)
    return told[turn] if told and 0 <= turn < len(told) else otherwise


def turns_with_tokens(ranges: Sequence[Span], rewards: Sequence[float], length: int) -> tuple[list[Span], list[float]]:
    """The turns that have a token inside `length`; what another one earned goes to the turn before it, or to the first.

    >>> turns_with_tokens([(2, 2), (2, 4), (6, 9), (12, 14)], [0.5, 1.0, 2.0, 4.0], 8)
    ([(2, 4), (6, 8)], [1.5, 6.0])
    """
    spans: list[Span] = []
    earned: list[float] = [0.0]
    for (start, end), reward in zip(ranges, rewards, strict=True):
        if start < min(end, length):
            if spans:
                earned.append(0.0)
            spans.append((start, min(end, length)))
        earned[-1] += reward
    return spans, earned[: len(spans)]


def divided(
    spans: Sequence[Span], rewards: Sequence[float], token_ids: Sequence[int], delimiters: Delimiters
) -> tuple[list[Span], list[float]]:
    """The steps of every turn, as turns; what a turn earned stands at its last step.

    >>> divided([(1, 6), (8, 9)], [1.0, 2.0], [9, 4, 0, 5, 0, 6, 9, 9, 7], ((0,),))
    ([(1, 3), (3, 5), (5, 6), (8, 9)], [0.0, 0.0, 1.0, 2.0])
    """
    by_turn = [split_steps(token_ids, span, delimiters) for span in spans]
    earned = [[0.0] * (len(steps) - 1) + [reward] for steps, reward in zip(by_turn, rewards, strict=True)]
    return [s for steps in by_turn for s in steps], [r for part in earned for r in part]


def is_on(args: Any) -> bool:
    """True in a run with any of our flags."""
    return bool(getattr(getattr(args, "agentprm", None), "on", False))


def is_broken(experience: Any) -> bool:
    """True for a single sample whose environment broke or whose context overflowed."""
    return experience.ending is not None and int(experience.ending[0]) in BROKEN.tolist()


def broken_mask(experience: Any) -> torch.Tensor:
    """(B,) bool over a batched experience."""
    return torch.isin(experience.ending, BROKEN)


def valid(experiences: Sequence[Any]) -> list[Any]:
    return [e for e in experiences if not is_broken(e)]


def replace_broken(generator: Any, experiences: Sequence[Any], dataloader_iter: Any, generate_kwargs: dict[str, Any]) -> list[Any]:
    """New rollouts for a fresh prompt, in place of one of which a sample's environment broke, or no sample fitted the context.

    Single samples that overflow the context stay as placeholders: another try would overflow again, and the others of their group are good.
    Empty in evaluation, with nothing broken, and when no prompt is left: the placeholders then stay and are left out of every statistic.

    Raises:
        StoppedError: the environment broke in so many prompts in a row that it does not work any more.
    """
    if not is_on(generator.args):
        return []
    refs: list[Any] = []
    if dataloader_iter is not getattr(generator, "_eval_dataloader_iter", None):
        crashed = sum(int(e.ending[0]) in (Ending.ENV_ERROR, Ending.TIMEOUT) for e in experiences if e.ending is not None)
        broken = sum(is_broken(e) for e in experiences)
        _stop_where_all_break(generator, bool(crashed))
        if crashed or broken == len(experiences):
            refs = _another_prompt(generator, f"{broken} of {len(experiences)} samples of a prompt broke", dataloader_iter, generate_kwargs)
    if refs:
        generator.replaced_samples = getattr(generator, "replaced_samples", 0) + len(experiences)
    return refs


def _stop_where_all_break(generator: Any, crashed: bool) -> None:
    generator.crashed_in_a_row = getattr(generator, "crashed_in_a_row", 0) + 1 if crashed else 0
    if generator.crashed_in_a_row >= max(_CRASHED_IN_A_ROW, 2 * generator.args.rollout.batch_size):
        raise StoppedError(f"the environment broke in each of the last {generator.crashed_in_a_row} prompts, after its retries")


def note_replaced(generator: Any, experiences: Sequence[Any]) -> None:
    """Give the first sample of a prompt that is kept the number thrown away before it."""
    if is_on(generator.args):
        for experience in experiences:
            experience.info[REPLACED] = torch.tensor([0.0])
        experiences[0].info[REPLACED] += float(vars(generator).pop("replaced_samples", 0))


def _another_prompt(generator: Any, why: str, dataloader_iter: Any, generate_kwargs: dict[str, Any]) -> list[Any]:
    from openrlhf.trainer.ppo_utils.samples_generator import _collect_prompt_batch

    prompts, labels, images, _ = _collect_prompt_batch(dataloader_iter, 1)
    if not prompts:
        logger.warning("%s, and no prompt is left to replace it", why)
        return []
    logger.warning("%s; another prompt takes its place", why)
    return generator._dispatch_prompts_to_vllm(prompts, labels, images=images, **generate_kwargs)
