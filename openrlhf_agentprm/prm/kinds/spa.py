"""Contributions of turns that sum to the outcome: Stepwise Progress Attribution."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from ...core.batches import ProcessScores
from ...core.losses import contribution_loss
from ...data.episode import Episode
from ..dataset import Labels, PRMBatch, collate
from ..objective import Model, read
from ..record import Record
from ..scoring import ScalarPRM, ScoreBatch, values_as_recorded


class Attribution:
    """Σ_t c_t of an episode against its outcome (`core.losses.contribution_loss`); an item is an episode, and there are no labels."""

    scale = "share"

    def __init__(self, train: Sequence[Episode], args: Any, labels: Labels | None = None) -> None:
        self.train = train
        self.lengths: Sequence[int] = [len(e.token_ids) for e in train]

    def batch(self, items: Sequence[int]) -> PRMBatch:
        return collate([self.train[i] for i in items])

    def counts(self, part: PRMBatch) -> torch.Tensor:
        return part.positions.mask_BK.any(1).sum().float()[None]

    def loss(self, model: Model, part: PRMBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        c_BK, _ = read(model, part)
        return contribution_loss(c_BK, part.outcome_B.to(c_BK.dtype), part.positions.mask_BK, num_episodes=counts[0]), {}

    def scores(self, model: Model, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        c_BK, _ = read(model, part)
        return accumulated(c_BK, part.positions.mask_BK)


class SpaPRM(ScalarPRM):
    """One contribution c_t a turn (registry entry `spa`; Wang et al., arXiv 2505.20732).

        Q_t = Σ_{k≤t} c_k,   V_t = Q_{t−1},   V_0 = 0,   progress = Q_t − V_t = c_t

    Q of the last turn estimates the outcome; before it Q is the share of the outcome that has been earned, not what is to be expected.
    """

    supports: frozenset[str] = frozenset({"packing"})

    @staticmethod
    def objective(train: Sequence[Episode], args: Any, labels: Labels | None) -> Attribution:
        return Attribution(train, args, labels)

    @staticmethod
    def problems(args: Any) -> list[str]:
        return []

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        return ("label.shuffle_seed",)

    @staticmethod
    def recorded(args: Any) -> dict[str, Any]:
        return {"values": "previous_q_from_0", "output": "linear", "value_trained": True, "scale": "share"}

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        c_BK, _ = self.read(batch)
        return ProcessScores(*accumulated(c_BK, batch.positions.mask_BK))


def accumulated(c_BK: torch.Tensor, mask_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and V from contributions; 0 at masked places."""
    q_BK = torch.where(mask_BK, c_BK, 0.0).cumsum(1)
    scores = values_as_recorded(q_BK, torch.zeros_like(q_BK), mask_BK, Record(values="previous_q_from_0"))
    return scores.q_BK, scores.v_BK
