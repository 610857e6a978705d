"""Objectives that order scores: right turns over wrong ones of an episode, or one turn over another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...core.errors import UserError
from ...core.ranking import pqm_loss, preference_loss
from ...data.episode import Episode
from ...data.layout import TurnPositions, spans_of
from ...data.pairs import Pair, read_pairs
from ..dataset import Labels, PRMBatch
from ..objective import Model, TurnRegression, read
from ..scoring import make_batch

logger = logging.getLogger(__name__)


class Ranking(TurnRegression):
    """PQM: the right turns of an episode ascend, its wrong ones stay ζ below (`core.ranking.pqm_loss`).

    A turn is right where its target is 0.5 or more. Turns without a label, or with a weight of 0, take no part; other weights are not read.
    """

    def __init__(self, train: Sequence[Episode], args: Any, labels: Labels | None = None) -> None:
        super().__init__(train, args, labels)
        self.scale = "order"

    def counts(self, part: PRMBatch) -> torch.Tensor:
        """Episodes with a labelled turn."""
        zeros = torch.zeros_like(part.rewards_BK)
        return self._labelled(part, self.targets(part, zeros, zeros)).any(1).sum().float()[None]

    def loss(self, model: Model, part: PRMBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        q_BK, v_BK = read(model, part)
        targets_BK = self.targets(part, q_BK, v_BK)
        mask_BK = self._labelled(part, targets_BK)
        return pqm_loss(q_BK, targets_BK >= 0.5, mask_BK, zeta=self.args.loss.zeta, num_episodes=counts[0]), {}

    @staticmethod
    def _labelled(part: PRMBatch, targets_BK: torch.Tensor) -> torch.Tensor:
        mask_BK = part.positions.mask_BK & ~targets_BK.isnan()
        return mask_BK if part.weights_BK is None else mask_BK & (part.weights_BK > 0)


@dataclass
class PairBatch:
    """Each episode of some pairs once, up to the last turn of it that a pair names.

    `chosen_P2`, `rejected_P2`: int64, (row, column) of the turns in the positions' tables.
    """

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    positions: TurnPositions
    chosen_P2: torch.Tensor
    rejected_P2: torch.Tensor
    margins_P: torch.Tensor
    weights_P: torch.Tensor

    def to(self, device: torch.device) -> PairBatch:
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


class Preferences:
    """The better turn of each pair scores higher (`core.ranking.preference_loss`); items are pairs, both sides in one batch.

    Args:
        train: episodes; a pair that names another one (held out, left out) takes no part.
        args: nested flags of `cli.train_prm`.
        labels: none; the pairs are in `--label.sidecar`.
        pairs: in place of those of the sidecar.

    Raises:
        UserError: no pair is left, or a pair names a turn that its episode does not have.
    """

    scale = "order"

    def __init__(self, train: Sequence[Episode], args: Any, labels: Labels | None = None, pairs: Sequence[Pair] | None = None) -> None:
        self.margin_coef: float = args.loss.margin_coef if pairs is None else 0.0
        given = read_pairs(args.label.sidecar) if pairs is None else pairs
        self.episodes = {e.episode_id: e for e in train}
        self.pairs = [p for p in given if {p.chosen_episode, p.rejected_episode} <= self.episodes.keys()]
        if len(self.pairs) < len(given):
            logger.warning("%d of %d pairs name episodes that are held out or left out", len(given) - len(self.pairs), len(given))
        if not self.pairs:
            raise UserError(
                f"none of the {len(given)} pairs is between two of the {len(train)} episodes; were they made for another store?"
            )
        problems = [f"{p}: no such turn" for p in self.pairs if any(turn >= len(self.episodes[e].turns) for e, turn in _sides(p))]
        if problems:
            raise UserError(problems[:10] + ([f"… and {len(problems) - 10} more"] if len(problems) > 10 else []))
        tokens = [[spans_of(self.episodes[e])[turn][1] for e, turn in _sides(p)] for p in self.pairs]
        self.lengths: Sequence[int] = [sum(both) for both in tokens]
        self.widths: Sequence[int] = [2 * max(both) for both in tokens]

    def batch(self, items: Sequence[int]) -> PairBatch:
        pairs = [self.pairs[i] for i in items]
        turns: dict[str, set[int]] = {}
        for episode, turn in (side for p in pairs for side in _sides(p)):
            turns.setdefault(episode, set()).add(turn)
        columns = {episode: {turn: k for k, turn in enumerate(sorted(found))} for episode, found in turns.items()}
        rows = {episode: row for row, episode in enumerate(turns)}
        spans = [[spans_of(self.episodes[e])[turn] for turn in columns[e]] for e in rows]
        tokens = [self.episodes[e].token_ids[: ends[-1][1]] for e, ends in zip(rows, spans, strict=True)]
        scored = make_batch(tokens, spans)
        chosen, rejected = ([(rows[e], columns[e][turn]) for e, turn in side] for side in zip(*map(_sides, pairs), strict=True))
        return PairBatch(
            scored.input_ids_BT,
            scored.attention_mask_BT,
            scored.positions,
            torch.tensor(chosen),
            torch.tensor(rejected),
            torch.tensor([p.margin for p in pairs]),
            torch.tensor([p.weight for p in pairs]),
        )

    def counts(self, part: PairBatch) -> torch.Tensor:
        return part.weights_P.sum()[None]

    def loss(self, model: Model, part: PairBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        q_BK, _ = read(model, part)
        chosen_P, rejected_P = (q_BK[side_P2[:, 0], side_P2[:, 1]] for side_P2 in (part.chosen_P2, part.rejected_P2))
        loss = preference_loss(
            chosen_P,
            rejected_P,
            margins_P=part.margins_P,
            weights_P=part.weights_P,
            margin_coef=self.margin_coef,
            total_weight=counts[0],
        )
        ordered = ((chosen_P > rejected_P) * part.weights_P).sum() / counts[0].clamp(min=1e-30)
        return loss, {"pair_accuracy": ordered}

    def scores(self, model: Model, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return read(model, part)


def _sides(pair: Pair) -> tuple[tuple[str, int], tuple[str, int]]:
    return (pair.chosen_episode, pair.chosen_turn), (pair.rejected_episode, pair.rejected_turn)
