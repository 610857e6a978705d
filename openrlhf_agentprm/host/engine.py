"""vLLM in this process, as the engine that collection and search play with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..core.errors import UserError
from ..prm.vocabulary import read_config
from ..rollout.engine import Sampled, Sampling
from .cpu import has_cuda, prepare_environment

_CONTEXT = 2048
_CPU_BATCH = 4096  # tokens a step, vLLM's own for a CPU


def context_length(model: str, wanted: int | None) -> int:
    """Tokens of context: those wanted, else 2048, or the model's positions where they are fewer."""
    if wanted is not None:
        return wanted
    try:
        positions = getattr(read_config(model).get_text_config(), "max_position_embeddings", None)
    except UserError:  # a demonstrator plays with a tokenizer alone
        positions = None
    return min(_CONTEXT, positions or _CONTEXT)


class VLLMEngine:
    """vLLM's engine, stepped by the caller.

    Args:
        model: folder or hub name of the policy.
        max_model_len: context in tokens.
        seed: of the sampler.
        gpu_memory_utilization: share of the GPU's memory; on a CPU the cache has `VLLM_CPU_KVCACHE_SPACE` GiB.
        tensor_parallel_size: GPUs for one copy of the model.
        enforce_eager: no CUDA graphs (always so on a CPU).
        dtype: of weights and activations; bfloat16, as the host samples.
        logprobs: keep the log-probability of each sampled token.
        max_num_seqs: completions that run at once.
        request_seeds: completions have seeds of their own. On a CPU prompts are then read in one part; vLLM warns of it, but its scheduler
            alone reads that setting.
    """

    def __init__(
        self,
        model: str,
        *,
        max_model_len: int,
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        enforce_eager: bool = False,
        dtype: str = "bfloat16",
        logprobs: bool = True,
        max_num_seqs: int = 256,
        request_seeds: bool = False,
    ) -> None:
        prepare_environment()
        if tensor_parallel_size == 1:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # no process and no pipe between the loop and the engine
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.max_model_len = max_model_len
        self._logprobs = 0 if logprobs else None
        arguments: dict[str, Any] = dict(
            model=model,
            max_model_len=max_model_len,
            seed=seed,
            gpu_memory_utilization=gpu_memory_utilization if has_cuda() else 0.05,
            tensor_parallel_size=tensor_parallel_size,
            enforce_eager=enforce_eager or not has_cuda(),
            dtype=dtype,
            enable_prefix_caching=True,
            max_num_seqs=max_num_seqs,
            disable_log_stats=True,
        )
        if request_seeds and not has_cuda():  # a prompt in parts winds back its request's generator, which a CPU's cannot do
            arguments |= dict(enable_chunked_prefill=False, max_num_batched_tokens=max(_CPU_BATCH, max_model_len))
        try:
            self._engine: Any = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except (ValueError, OSError) as error:
            hint = "lower --data.max_len; " if "max_model_len" in str(error) else ""
            raise UserError(f"vLLM could not load {model!r}: {hint}{error}") from error

    def submit(self, request_id: str, token_ids: Sequence[int], sampling: Sampling, max_tokens: int, stop_token_ids: Sequence[int]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=max(sampling.top_k, 0),
            seed=sampling.seed if sampling.temperature > 0 else None,
            max_tokens=max_tokens,
            stop_token_ids=list(stop_token_ids),
            logprobs=self._logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(request_id, {"prompt_token_ids": list(token_ids)}, params)

    def step(self) -> list[Sampled]:
        return [self._read(output) for output in self._engine.step() if output.finished]

    @property
    def unfinished(self) -> int:
        return self._engine.get_num_unfinished_requests()

    def close(self) -> None:
        core = getattr(self._engine, "engine_core", None)
        if core is not None:
            core.shutdown()

    def _read(self, output: Any) -> Sampled:
        completion = output.outputs[0]
        tokens = list(completion.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(tokens, completion.logprobs or [], strict=False)]
        return Sampled(output.request_id, tokens, logprobs, completion.finish_reason)
