"""More prompts than a batch needs are begun, and what is still in play when the batch is there is given up: `--env.spare_prompts`.

A rollout then does not wait for its slowest episodes. It prefers quick ones: long episodes, and slow environments, are given up more often than
others, and come again with the next rollout, where they may be given up again.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

logger = logging.getLogger(__name__)
GIVEN_UP = "given_up_samples"
"""Logged beside the host's own sample metrics: samples given up, a sample kept."""


def number(args: Any) -> int:
    """Prompts begun beyond a batch; 0 without environments of ours."""
    return args.env.spare_prompts if args.env.name else 0


def drawn(generator: Any, dataloader_iter: Iterator[Any]) -> Iterator[Any]:
    """The prompts that were given up, as the data loader gives them, and then its own."""
    if not _is_training(generator, dataloader_iter):
        return dataloader_iter
    waiting = generator.__dict__.setdefault("given_up_prompts", [])
    again = (waiting.pop(0) for _ in range(len(waiting)))
    return itertools.chain(again, dataloader_iter)


def note(generator: Any, refs: Sequence[Any], prompts: Sequence[Any], labels: Sequence[Any], images: Sequence[Any]) -> None:
    """Which prompt each reference stands for."""
    if number(generator.args):
        rows = zip(refs, prompts, labels, images or [None] * len(refs), strict=True)
        generator.begun_prompts = {ref: (None, [prompt], [label], [image]) for ref, prompt, label, image in rows}


def enough(generator: Any, dataloader_iter: Iterator[Any], accepted: Sequence[Any], pending: list[Any]) -> tuple[list[Any], int]:
    """What is still to be waited for, and how many prompts were given up and will be drawn again."""
    if not _is_training(generator, dataloader_iter):
        return pending, 0
    rollout = generator.args.rollout
    newest = accepted[-rollout.n_samples_per_prompt :]
    for experience in newest:
        experience.info[GIVEN_UP] = torch.tensor([0.0])
    wanted = (rollout.vllm_generate_batch_size or rollout.batch_size) * rollout.n_samples_per_prompt
    if not pending or len(accepted) < wanted:
        return pending, 0
    import ray

    ray.get([engine.agentprm_give_up.remote() for engine in generator.vllm_engines])
    again = [generator.begun_prompts[ref] for ref in pending if ref in generator.begun_prompts]
    generator.given_up_prompts += again
    newest[0].info[GIVEN_UP] += float(len(pending) * rollout.n_samples_per_prompt)
    logger.info("the batch is there: %d prompts that are still in play are given up and drawn again", len(pending))
    return [], len(again)


def _is_training(generator: Any, dataloader_iter: Any) -> bool:
    return bool(number(generator.args)) and dataloader_iter is not getattr(generator, "_eval_dataloader_iter", None)
