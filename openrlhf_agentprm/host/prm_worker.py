"""The PRM as a Ray worker group of its own, placed like the host's reward model."""

from __future__ import annotations

from typing import Any

import ray
import torch
from openrlhf.trainer.ray.launcher import BaseModelActor

from ..data.layout import spans_from_turn_numbers, turn_positions
from ..prm.scoring import ScoreBatch, load_reward_model


@ray.remote(num_gpus=1)
class PRMModelActor(BaseModelActor):
    """One replica; the group's batches are dealt out by the host's `RayActorGroup`."""

    def init_model_from_pretrained(self, strategy: Any, pretrain: str) -> None:
        self._setup_distributed(strategy)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        args = strategy.args
        attention = "sdpa" if args.prm.param_dtype == "fp32" else args.ds.attn_implementation  # flash attention takes half precision only
        self.prm = load_reward_model(args.prm.name, pretrain, dtype=args.prm.param_dtype, attn_implementation=attention, device=device)

    def score_turns(
        self, sequences: torch.Tensor, attention_mask: torch.Tensor, turn_numbers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Q and V of every turn of a micro-batch and, of an ensemble, how far its members disagree; (B, K) float32 on the CPU."""
        positions = turn_positions(spans_from_turn_numbers(turn_numbers))
        scores = self.prm.score(ScoreBatch(sequences, attention_mask, positions))
        return scores.q_BK, scores.v_BK, scores.disagreement_BK
