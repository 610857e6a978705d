"""Promise and progress from two heads, for the comparison with the one head whose differences are the progress."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import torch

from ...core.batches import ProcessScores
from ...core.labels import progress_targets
from ...core.losses import agent_prm_loss, turn_counts
from ..dataset import PRMBatch
from ..model import start_from
from ..objective import Model, TurnRegression, denominators, read
from ..read_out import read_heads, read_heads_on_call
from ..scoring import ScalarPRM, ScoreBatch
from . import LABELLED
from .losses import regression_problems, regression_recorded


class TwoHeadRegression(TurnRegression):
    """Head 0 against Q̂_t, head 1 against Â_t (`core.labels.progress_targets`).

        L = ½ mean (Q_t − Q̂_t)² + β ½ mean (A_t − Â_t)² + c ½ mean (V_t − Q̂_t)²

    V_t is head 0 before the action. The first turn's Â_0 reads V(s_0), so it is trained only where c > 0 trains that.
    """

    def counts(self, part: PRMBatch) -> torch.Tensor:
        """(turns, pairs, episodes) of the promise, then of the progress."""
        zeros_BK = torch.zeros_like(part.rewards_BK)
        targets_BK = self.targets(part, zeros_BK, zeros_BK)
        masks = self._masks(part, targets_BK, self._progress_targets(part, targets_BK, zeros_BK))
        return torch.cat([turn_counts(mask_BK, part.weights_BK) for mask_BK in masks])

    def loss(self, model: Model, part: PRMBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        q_BK2, v_BK2 = read(model, part)
        (q_BK, a_BK), v_BK = q_BK2.unbind(-1), v_BK2[..., 0]
        targets_BK = self.targets(part, q_BK, v_BK)
        a_targets_BK = self._progress_targets(part, targets_BK, v_BK.detach())
        mask_BK, a_mask_BK = self._masks(part, targets_BK, a_targets_BK)
        total = self.of_heads(q_BK, v_BK, targets_BK, mask_BK, counts[:3], part.weights_BK, beta=0.0)
        loss = self.args.loss
        if loss.beta:
            progress = functools.partial(agent_prm_loss, beta=0.0, reduce=loss.reduce, weights_BK=part.weights_BK)
            total = total + loss.beta * progress(a_BK, a_targets_BK, a_mask_BK, **denominators(loss.reduce, counts[3:]))
        weights_BK = mask_BK.to(q_BK.dtype) if part.weights_BK is None else part.weights_BK
        error_BK = torch.where(mask_BK, weights_BK * (q_BK - targets_BK).detach().square(), 0.0)
        return total, {"promise_error": error_BK.sum() / counts[0].clamp(min=1e-30)}

    def scores(self, model: Model, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        q_BK, a_BK = read(model, part)[0].unbind(-1)
        return q_BK, q_BK - a_BK

    def _progress_targets(self, part: PRMBatch, targets_BK: torch.Tensor, v_BK: torch.Tensor) -> torch.Tensor:
        if not self.args.loss.value_coef:
            v_BK = torch.full_like(v_BK, float("nan"))
        return progress_targets(targets_BK, v_BK, part.positions.mask_BK, values=self.args.label.values)

    @staticmethod
    def _masks(part: PRMBatch, targets_BK: torch.Tensor, a_targets_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask_BK = part.positions.mask_BK
        return mask_BK & ~targets_BK.isnan(), mask_BK & ~a_targets_BK.isnan()


class TwoHeadPRM(ScalarPRM):
    """Q from head 0, progress A from head 1, both at the action's last token; V = Q − A (registry entry `two_head`; ours, for comparison)."""

    labels = 2
    reader = staticmethod(read_heads)
    start = staticmethod(functools.partial(start_from, labels=2))
    on_call = staticmethod(read_heads_on_call)
    objective = staticmethod(TwoHeadRegression)

    @staticmethod
    def problems(args: Any) -> list[str]:
        found = regression_problems(args)
        if args.label.name == "outcome_last":
            found.append("--label.name outcome_last labels one turn of an episode, so it trains no progress; --prm.name scalar takes it")
        if args.loss.beta <= 0:
            found.append(f"--loss.beta {args.loss.beta:g} trains no progress, which has a head of its own; give a number above 0")
        return found

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        return tuple(flag for flag in LABELLED if flag != "loss.kind")

    @staticmethod
    def recorded(args: Any) -> dict[str, Any]:
        return {**regression_recorded(args), "output": "linear"}

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        q_BK, a_BK = self.read(batch)[0].unbind(-1)
        q_BK, a_BK = (torch.where(batch.positions.mask_BK, x, 0.0) for x in (q_BK, a_BK))
        return ProcessScores(q_BK, q_BK - a_BK)
