"""More prompts than a batch needs are begun, and what is still in play when the batch is there is given up: `--env.spare_prompts`.

A rollout then does not wait for its slowest episodes. It prefers quick ones: long episodes, and slow environments, are given up more often than
others, and come again with the next rollout, where they may be given up again. The generator's rollouts are numbered, and each dispatch carries
its number to the rollout actors, so that an evaluation that plays beside training is left alone.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

logger = logging.getLogger(__name__)
ROLLOUT = "agentprm_rollout"  # in a request's extra arguments, on the way to the rollout actor
GIVEN_UP = "given_up_samples"
"""Logged beside the host's own sample metrics: samples given up, a sample kept."""


# --- in the process that draws prompts and sends them to the engines ---


def number(args: Any) -> int:
    """Prompts begun beyond a batch; 0 without environments of ours."""
    return args.env.spare_prompts if args.env.name else 0


def drawn(generator: Any, dataloader_iter: Iterator[Any]) -> Iterator[Any]:
    """Begin a rollout: the prompts that were given up, as the data loader gives them, and then its own."""
    generator.begun_prompts = None  # of an evaluation
    if not _is_training(generator, dataloader_iter):
        return dataloader_iter
    generator.begun_prompts = {}
    generator.rollout_number = getattr(generator, "rollout_number", 0) + 1
    waiting = generator.__dict__.setdefault("given_up_prompts", [])
    again = (waiting.pop(0) for _ in range(len(waiting)))
    return itertools.chain(again, dataloader_iter)


def number_dispatch(generator: Any, sampling_params: Any) -> None:
    """Have the prompts that are about to be sent carry the number of their rollout."""
    if getattr(generator, "begun_prompts", None) is not None:
        sampling_params.extra_args = {ROLLOUT: generator.rollout_number}


def begun(generator: Any, refs: list[Any], prompts: Sequence[Any], labels: Sequence[Any], images: Sequence[Any]) -> list[Any]:
    """The references, whose prompts are noted: those of the batch, and those that take the place of others."""
    if getattr(generator, "begun_prompts", None) is not None:
        rows = zip(refs, prompts, labels, images, strict=True)
        generator.begun_prompts |= {ref: (None, [prompt], [label], [image]) for ref, prompt, label, image in rows}
    return refs


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

    ray.get([engine.agentprm_give_up.remote(generator.rollout_number) for engine in generator.vllm_engines])
    generator.given_up_prompts += [generator.begun_prompts[ref] for ref in pending]
    generator.begun_prompts = {}
    newest[0].info[GIVEN_UP] += float(len(pending) * rollout.n_samples_per_prompt)
    logger.info("the batch is there: %d prompts are given up and will be drawn again", len(pending))
    return [], len(pending)


def all_drawn(generator: Any, exhausted: bool) -> bool:
    """Whether a pass over the prompts is over: the data loader has no more, and nothing that was given up waits."""
    return exhausted and not getattr(generator, "given_up_prompts", None)


def _is_training(generator: Any, dataloader_iter: Any) -> bool:
    return bool(number(generator.args)) and dataloader_iter is not getattr(generator, "_eval_dataloader_iter", None)


# --- in a rollout actor ---


def rollout_of(sampling_params: Any) -> int:
    """The number of the rollout that a request belongs to; 0 where it has none and is never given up."""
    return (sampling_params.extra_args or {}).get(ROLLOUT, 0)
