"""A scalar PRM in vLLM's pooling runner: the head's number at every token, read where turns begin and end."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..core.batches import ProcessScores
from ..core.errors import UserError
from ..prm.model import check_checkpoint
from ..prm.record import Record
from ..prm.scoring import ScoreBatch, values_as_recorded
from .cpu import has_cuda, prepare_environment

_DTYPES: dict[str, Any] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class PooledPRM:
    """The same scores as `ScalarPRM`'s, from vLLM.

    Args:
        engine: a `vllm.LLM` with `runner="pooling"`.
        record: how V is read, and the output.
    """

    def __init__(self, engine: Any, record: Record) -> None:
        self.engine = engine
        self.record = record

    @classmethod
    def load(cls, path: str, *, max_model_len: int, dtype: str = "fp32", gpu_memory_utilization: float = 0.5) -> PooledPRM:
        check_checkpoint(path)
        prepare_environment()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            import vllm

            engine = vllm.LLM(
                model=path,
                runner="pooling",
                dtype=_DTYPES[dtype],
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization if has_cuda() else 0.05,
                enforce_eager=not has_cuda(),
                disable_log_stats=True,
            )
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            raise UserError(f"vLLM could not load {path!r}: {error}") from error
        return cls(engine, Record.load(path))

    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU; V as the checkpoint's record says."""
        import vllm

        lengths = batch.attention_mask_BT.sum(1).tolist()
        prompts = [{"prompt_token_ids": ids[:n].tolist()} for ids, n in zip(batch.input_ids_BT, lengths, strict=True)]
        plain = vllm.PoolingParams(use_activation=False)  # the default is a sigmoid
        found = self.engine.encode(prompts, pooling_task="token_classify", pooling_params=plain, use_tqdm=False)
        scores_BT = torch.zeros(batch.input_ids_BT.shape)
        for row, (output, n) in enumerate(zip(found, lengths, strict=True)):
            scores_BT[row, :n] = output.outputs.data.float().cpu().reshape(n)
        q_BK, v_BK = scores_BT.gather(1, batch.positions.q_BK), scores_BT.gather(1, batch.positions.v_BK)
        if self.record.output == "sigmoid":
            q_BK, v_BK = q_BK.sigmoid(), v_BK.sigmoid()
        return values_as_recorded(q_BK, v_BK, batch.positions.mask_BK, self.record)
