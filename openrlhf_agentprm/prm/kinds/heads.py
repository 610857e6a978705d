"""An ensemble in one model: M heads on a shared backbone, each trained on a bootstrap sample of the episodes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...core.batches import ProcessScores
from ...core.ensembles import COMBINE, combined
from ...core.errors import UserError
from ...core.losses import turn_counts
from ..dataset import PRMBatch
from ..objective import Model, TurnRegression, read
from ..read_out import read_heads, read_heads_on_call
from ..scoring import ScalarPRM, ScoreBatch, values_as_recorded
from . import LABELLED
from .losses import regression_problems


@dataclass
class HeadsBatch(PRMBatch):
    draws_BM: torch.Tensor | None = None  # how often each head's bootstrap sample holds the episode


class HeadsRegression(TurnRegression):
    """Each head as a scalar PRM of its own: its labels are made of its own scores, its episodes are weighted by its bootstrap sample.

    L = mean over heads of their losses, so that the backbone learns from as much as from one head.
    """

    def batch(self, items: Sequence[int]) -> HeadsBatch:
        prm = self.args.prm
        names = [self.train[i].episode_id for i in items]
        draws = [
            [1 if prm.bootstrap_disable else poisson(f"{self.args.train.seed} {name} {m}") for m in range(prm.heads)] for name in names
        ]
        return HeadsBatch(**vars(super().batch(items)), draws_BM=torch.tensor(draws).float())

    def counts(self, part: PRMBatch) -> torch.Tensor:
        """(turns, pairs, episodes) of each head."""
        mask_BK = part.positions.mask_BK
        zeros_BK = torch.zeros_like(part.rewards_BK)
        labelled_BK = mask_BK & ~self.targets(part, zeros_BK, zeros_BK).isnan()
        return torch.cat([turn_counts(labelled_BK, member.weights_BK) for member in self._members(part)])

    def loss(self, model: Model, part: PRMBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        q_BKM, v_BKM = read(model, part)
        heads, totals, errors = self.args.prm.heads, [], []
        for m, member in enumerate(self._members(part)):
            q_BK, v_BK = self.through_output(q_BKM[..., m], v_BKM[..., m])
            targets_BK = self.targets(member, q_BK, v_BK)
            mask_BK = part.positions.mask_BK & ~targets_BK.isnan()
            of_head = counts[3 * m : 3 * m + 3]
            totals.append(self.of_heads(q_BKM[..., m], v_BKM[..., m], targets_BK, mask_BK, of_head, member.weights_BK))
            error_BK = torch.where(mask_BK, member.weights_BK * (q_BK - targets_BK).detach().square(), 0.0)
            errors.append(error_BK.sum() / of_head[0].clamp(min=1e-30))
        return torch.stack(totals).sum() / heads, {"promise_error": torch.stack(errors).sum() / heads}

    def scores(self, model: Model, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        prm = self.args.prm
        both = self.through_output(*read(model, part))
        q_BK, v_BK = (combined(x_BKM.movedim(-1, 0), prm.combine, prm.kappa) for x_BKM in both)
        return q_BK, v_BK

    def _members(self, part: PRMBatch) -> list[Any]:
        """The batch as each head sees it: with weights of its own."""
        assert isinstance(part, HeadsBatch) and part.draws_BM is not None
        weights_BK = torch.ones_like(part.rewards_BK) if part.weights_BK is None else part.weights_BK
        return [replace(part, weights_BK=weights_BK * draws_B[:, None]) for draws_B in part.draws_BM.unbind(1)]


def poisson(text: str) -> int:
    """A draw of Poisson(1) by the hash of a text: how often a bootstrap sample of many episodes holds one of them.

    >>> [poisson(f"0 episode {m}") for m in range(8)]
    [0, 1, 1, 0, 1, 1, 1, 0]
    """
    left = int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13
    chance, count = math.exp(-1), 0
    while left >= chance and count < 20:
        left -= chance
        count += 1
        chance /= count
    return count


class HeadsPRM(ScalarPRM):
    """The mean, the lowest or a lower confidence bound of M heads in one pass (registry entry `heads`)."""

    labels = None
    reader = staticmethod(read_heads)
    on_call = staticmethod(read_heads_on_call)
    objective = staticmethod(HeadsRegression)

    @staticmethod
    def start_options(args: Any) -> dict[str, Any]:
        return {"labels": args.prm.heads}

    @staticmethod
    def problems(args: Any) -> list[str]:
        found = [] if args.prm.heads >= 2 else [f"--prm.heads is {args.prm.heads}; wanted 2 or more (--prm.name scalar has one)"]
        if not 0 <= args.prm.kappa < math.inf:
            found.append(f"--prm.kappa is {args.prm.kappa}; wanted a number of 0 or more")
        if args.loss.reduce == "episodes" and not args.prm.bootstrap_disable:
            found.append(
                "--loss.reduce episodes divides an episode's weight out again, and with it the bootstrap samples of --prm.name heads; take turns, or "
                "--prm.bootstrap_disable"
            )
        return found + regression_problems(args)

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        kappa = ("prm.kappa",) if args.prm.combine == "lcb" else ()
        return (*LABELLED, "prm.heads", "prm.combine", *kappa, "prm.bootstrap_disable")

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        options = {"combine": "mean", "kappa": 1.0, **self.record.options}
        if options["combine"] not in COMBINE or not isinstance(options["kappa"], int | float):
            raise UserError(f"agentprm.json has combine {options['combine']!r} and kappa {options['kappa']!r}; wanted {', '.join(COMBINE)}")
        q_BKM, v_BKM = self.read(batch)
        heads = zip(q_BKM.unbind(-1), v_BKM.unbind(-1), strict=True)
        found = [values_as_recorded(q_BK, v_BK, batch.positions.mask_BK, self.record) for q_BK, v_BK in heads]
        q_MBK, v_MBK = torch.stack([s.q_BK for s in found]), torch.stack([s.v_BK for s in found])
        q_BK, v_BK = (combined(x_MBK, options["combine"], options["kappa"]) for x_MBK in (q_MBK, v_MBK))
        return ProcessScores(q_BK, v_BK, q_MBK.std(0, correction=0))
