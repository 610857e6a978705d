"""The PRM as a Ray worker group of its own, placed like the host's reward model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from openrlhf.trainer.ray.launcher import BaseModelActor

from ..core.errors import UserError
from ..data.episode import Episode
from ..data.layout import spans_from_turn_numbers, turn_positions
from ..prm.online import OnlinePRM
from ..prm.residence import move
from ..prm.scoring import ScoreBatch, load_reward_model
from .online import STATE, forget_older, save_finished
from .online_flags import is_online


@ray.remote(num_gpus=1)
class PRMModelActor(BaseModelActor):
    """One replica; the group's batches are dealt out by the host's `RayActorGroup`."""

    def init_model_from_pretrained(self, strategy: Any, pretrain: str) -> None:
        self._setup_distributed(strategy)
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        args = strategy.args
        attention = "sdpa" if args.prm.param_dtype == "fp32" else args.ds.attn_implementation  # flash attention takes half precision only
        options = {"dtype": args.prm.param_dtype, "attn_implementation": attention, "device": self.device}
        self.prm = load_reward_model(args.prm.name, pretrain, **options)
        prover = args.prm.prover_model_name_or_path
        self.prover = load_reward_model(args.prm.prover_name, prover, **options) if prover else None
        self.online = OnlinePRM(self.prm, args.agentprm.online) if is_online(args) else None
        if args.prm.offload:
            self.empty_cache()

    def score_turns(self, sequences: torch.Tensor, attention_mask: torch.Tensor, turn_numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `TurnBatch` takes from PRMs for a micro-batch, by its names: (B, K) and, of an implicit PRM, (B, T − 1) float32 on the CPU."""
        self._reload()
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

    # --- offloaded in between (--prm.offload) ---

    def _reload(self) -> None:
        if self.strategy.args.prm.offload:
            self._move(self.device)

    def empty_cache(self) -> None:
        """Called when the models that share its GPUs are to go on."""
        if self.strategy.args.prm.offload:
            self._move(torch.device("cpu"))
        super().empty_cache()

    def _move(self, device: torch.device) -> None:
        for reward_model in (self.prm, self.prover):
            if reward_model is not None:
                move(reward_model, device)

    # --- trained while PPO runs ---

    def update(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Train on the episodes that every replica is given alike; figures of the update and the seconds it took."""
        started = time.monotonic()
        self._reload()
        found = self._trained.update(episodes)
        return found | {"time_s": time.monotonic() - started}

    def save_online(self, folder: str) -> None:
        """The state of the training, written whole or not at all."""
        if self.strategy.is_rank_0():
            Path(folder).mkdir(parents=True, exist_ok=True)
            part, whole = Path(folder, "state.part"), Path(folder, STATE)
            torch.save(self._trained.state(), part)
            part.replace(whole)
            forget_older(Path(folder))

    def load_online(self, folder: str) -> None:
        """Go on from such a state.

        Raises:
            UserError: it is not there.
        """
        file = Path(folder, STATE)
        if not file.is_file():
            raise UserError(f"{file} of the PRM that was trained is not there; --ckpt.path has to be on storage that the PRM's nodes see")
        self._trained.load_state(torch.load(file, map_location="cpu", weights_only=True))

    def save_finished(self, folder: str) -> None:
        """The PRM as a checkpoint like any other."""
        self._reload()
        if self.strategy.is_rank_0():
            save_finished(self._trained, self.strategy.args, folder)

    @property
    def _trained(self) -> OnlinePRM:
        assert self.online is not None, "--prm.update_every is 0"
        return self.online
