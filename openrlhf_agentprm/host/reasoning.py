"""Reasoning of a generative PRM by vLLM: all turns of a batch at once, their common prefixes cached."""

from __future__ import annotations

from collections.abc import Sequence

from ..prm.kinds.generative import Judging, context_of
from ..rollout.engine import Engine, Sampling
from .engine import VLLMEngine

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


def vllm_reasoner(path: str) -> EngineReasoner:
    """An engine for the folder of a generative PRM."""
    about = Judging.load(path)
    return EngineReasoner(VLLMEngine(path, max_model_len=context_of(path), seed=about.seed, gpu_memory_utilization=_MEMORY, logprobs=False))
