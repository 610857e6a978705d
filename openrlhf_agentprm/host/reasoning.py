"""Reasoning of a generative PRM by vLLM: all turns of a batch at once, their common prefixes cached."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..core.errors import UserError
from ..prm.kinds.generative import Judging, context_of
from ..rollout.engine import Engine, Sampling, stream_seed
from .engine import VLLMEngine

logger = logging.getLogger(__name__)
_MEMORY = 0.45  # share of a GPU's: the model that gives the verdicts stands beside the engine


class EngineReasoner:
    """`Reasoner` by an engine.

    Args:
        engine: samples with a seed of its own; the same calls in the same order give the same reasoning.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, prompts: Sequence[Sequence[int]], about: Judging, stop_token_ids: Sequence[int]) -> list[list[list[int]]]:
        sampling = Sampling(temperature=about.temperature)
        for i, prompt in enumerate(prompts):
            for n in range(about.samples):
                self.engine.submit(f"{i}-{n}", prompt, sampling, about.max_tokens, stop_token_ids)
        found: dict[str, list[int]] = {}
        while self.engine.unfinished:
            found |= {done.request_id: list(done.token_ids) for done in self.engine.step()}
        return [[found[f"{i}-{n}"] for n in range(about.samples)] for i in range(len(prompts))]


def vllm_reasoner(path: str, *, stream: str = "", memory: float = _MEMORY) -> EngineReasoner:
    """An engine for the folder of a generative PRM.

    Args:
        stream: name of the stream of noise; another one for each part of a job that is shared out.
        memory: share of a GPU's.

    Raises:
        UserError: vLLM cannot load it.
    """
    about = Judging.load(path)
    seed = stream_seed(about.seed, stream) if stream else about.seed
    return EngineReasoner(VLLMEngine(path, max_model_len=context_of(path), seed=seed, gpu_memory_utilization=memory, logprobs=False))


def reasoner_if_loadable(path: str, **options: Any) -> EngineReasoner | None:
    """`vllm_reasoner`, or None where vLLM cannot load the judge, which then reasons by itself; that is told."""
    try:
        return vllm_reasoner(path, **options)
    except UserError as error:
        logger.warning("%s; the judge reasons by itself, a prompt at a time", error)
        return None
