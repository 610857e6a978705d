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
        options = {"dtype": args.prm.param_dtype, "attn_implementation": attention, "device": device}
        self.prm = load_reward_model(args.prm.name, pretrain, **options)
        prover = args.prm.prover_model_name_or_path
        self.prover = load_reward_model(args.prm.prover_name, prover, **options) if prover else None

    def score_turns(self, sequences: torch.Tensor, attention_mask: torch.Tensor, turn_numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `TurnBatch` takes from PRMs for a micro-batch, by its names: (B, K) and, of an implicit PRM, (B, T − 1) float32 on the CPU."""
        batch = ScoreBatch(sequences, attention_mask, turn_positions(spans_from_turn_numbers(turn_numbers)))
        if hasattr(self.prm, "score_tokens"):
            scores, ratio_BT = self.prm.score_tokens(batch)
            found = {"process_logratio_BT": ratio_BT[:, :-1]}
        else:
            scores, found = self.prm.score(batch), {}
        found |= {"q_BK": scores.q_BK, "v_BK": scores.v_BK}
        if scores.disagreement_BK is not None:
            found["disagreement_BK"] = scores.disagreement_BK
        if self.prover is not None:
            judged = self.prover.score(batch)
            found |= {"prover_q_BK": judged.q_BK, "prover_v_BK": judged.v_BK}
        return found
