"""What a reward model learns from, as the trainer sees it: items, batches of them, and the loss of a whole step.

The loss of a step is normalised by counts over all its micro-batches and ranks, so that it does not depend on how a batch is cut.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ..core.batches import LabelBatch
from ..core.losses import agent_prm_loss, soft_bce_loss, turn_counts
from ..core.registry import LABELS
from ..data.episode import Episode
from ..data.sidecar import read_about
from .dataset import Labels, PRMBatch, collate
from .replay import replay_weights

Model = Callable[..., Any]
"""The model that is trained, called through its engine: what its kind's `start` made of `forward`."""
Labeller = Callable[[LabelBatch], torch.Tensor]


class Objective(Protocol):
    """One way to train a reward model: the trainer does steps, ranks and checkpoints.

    `lengths` has the tokens of each item; items are what batches are made of, episodes or pairs of them. `scale` says what `scores` mean, one of
    `prm.record.SCALES`. An objective whose items are several rows has `widths` too: the tokens of each item with its rows padded to the longest.
    One that has `begin_step(step, epoch)` is told of each optimizer step, both counted from 0, before it makes the step's batches.
    """

    lengths: Sequence[int]
    scale: str

    def batch(self, items: Sequence[int]) -> Any:
        """A micro-batch of items, something with `.to(device)`."""

    def counts(self, part: Any) -> torch.Tensor:
        """(n,) float: what the loss divides by, of one micro-batch; the sums over a step are given to `loss`."""

    def loss(self, model: Model, part: Any, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The micro-batch's share of the step's loss, and of figures to log, which are summed like it."""

    def scores(self, model: Model, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Q and V of every turn of episodes, as the finished model will score them."""


class TurnRegression:
    """Every turn's score against its label (kind `scalar`), by squared error or soft cross-entropy.

    Labels of the online kind are made anew for every micro-batch from the same forward pass that is trained on.

    Args:
        train: episodes, an item each.
        args: nested flags of `cli.train_prm` (`label`, `loss`).
        labels: targets made beforehand, in place of those that `--label.name` makes from the model's scores.
    """

    def __init__(self, train: Sequence[Episode], args: Any, labels: Labels | None = None) -> None:
        self.train = train
        self.args = args
        self.labels = labels
        self.lengths: Sequence[int] = [len(e.token_ids) for e in train]
        self.scale = scale_of_labels(args)
        self.label = labeller(args) if labels is None else None
        self.replay = replay_weights(train, args.data.replay_decay) if args.data.replay_decay < 1 else None

    def batch(self, items: Sequence[int]) -> PRMBatch:
        part = collate([self.train[i] for i in items], dense_rewards=self.args.label.dense_rewards_enable, labels=self.labels)
        if self.replay is not None:
            weights_BK = torch.tensor([[self.replay[i]] for i in items]).expand(part.rewards_BK.shape)
            part.weights_BK = weights_BK.clone() if part.weights_BK is None else part.weights_BK * weights_BK
        return part

    def counts(self, part: PRMBatch) -> torch.Tensor:
        """Labelled turns, pairs and episodes. Which turns a method labels does not depend on the scores, so labelling zeros tells."""
        mask_BK = part.positions.mask_BK
        zeros = torch.zeros(mask_BK.shape, device=mask_BK.device)
        return turn_counts(mask_BK & ~self.targets(part, zeros, zeros).isnan(), part.weights_BK)

    def loss(self, model: Model, part: PRMBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        heads = read(model, part)
        q_BK, v_BK = self.through_output(*heads)
        targets_BK = self.targets(part, q_BK, v_BK)
        mask_BK = part.positions.mask_BK & ~targets_BK.isnan()
        error_BK = torch.where(mask_BK, (q_BK - targets_BK).detach().square(), 0.0)
        if part.weights_BK is not None:
            error_BK = error_BK * part.weights_BK
        total = self.of_heads(*heads, targets_BK, mask_BK, counts, part.weights_BK)
        return total, {"promise_error": error_BK.sum() / counts[0].clamp(min=1e-30)}

    def scores(self, model: Model, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.through_output(*read(model, part))

    def through_output(self, q_BK: torch.Tensor, v_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Q and V from what the head gives."""
        return (q_BK.sigmoid(), v_BK.sigmoid()) if self.args.loss.kind == "soft_bce" else (q_BK, v_BK)

    def targets(self, part: PRMBatch, q_BK: torch.Tensor, v_BK: torch.Tensor) -> torch.Tensor:
        if self.label is None:
            assert part.targets_BK is not None
            return part.targets_BK
        return self.label(
            LabelBatch(
                q_BK=q_BK.detach(),
                v_BK=v_BK.detach(),
                rewards_BK=part.rewards_BK,
                mask_BK=part.positions.mask_BK,
                outcome_B=part.outcome_B,
                terminated_B=part.terminated_B,
                truncated_B=part.truncated_B,
            )
        ).to(q_BK.dtype)

    def of_heads(
        self,
        q_BK: torch.Tensor,
        v_BK: torch.Tensor,
        targets_BK: torch.Tensor,
        mask_BK: torch.Tensor,
        counts: torch.Tensor,
        weights_BK: torch.Tensor | None = None,
        *,
        beta: float | None = None,
    ) -> torch.Tensor:
        """The loss of the head's outputs at the ends and beginnings of turns; β is `--loss.beta` if None.

        The paper's loss trains V nowhere, though progress at the first turn and every use as a value function read it. The value term is
        ours: the same loss of V(s_t) against Q̂_t, without the progress term.
        """
        loss = self.args.loss
        function = soft_bce_loss if loss.kind == "soft_bce" else agent_prm_loss
        function = functools.partial(function, reduce=loss.reduce, weights_BK=weights_BK)
        total = function(q_BK, targets_BK, mask_BK, beta=loss.beta if beta is None else beta, **denominators(loss.reduce, counts))
        if loss.value_coef:
            total = total + loss.value_coef * function(v_BK, targets_BK, mask_BK, beta=0.0, **denominators(loss.reduce, counts))
        return total


def denominators(reduce: str, counts: torch.Tensor) -> dict[str, Any]:
    """`turn_counts` as the arguments of a loss that it divides by."""
    turns, pairs, episodes = counts
    return {"num_turns": turns, "num_pairs": pairs} if reduce == "turns" else {"num_episodes": episodes}


def read(model: Model, part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a head gives at the ends and beginnings of turns of a `PRMBatch` or its like, through the engine that wraps the model."""
    return model(part.input_ids_BT, part.attention_mask_BT, part.positions.q_BK, part.positions.v_BK)


def scale_of_labels(args: Any) -> str:
    """What a score that is regressed on these labels is, one of `prm.record.SCALES`: a sidecar says it, else the label itself does."""
    if sidecar := getattr(args.label, "sidecar", None):
        return read_about(sidecar).get("scale", "probability")
    return getattr(LABELS.load(args.label.name), "scale", "probability")


def labeller(args: Any) -> Labeller:
    """The label function with its options."""
    function = LABELS.load(args.label.name)
    options: dict[str, Any] = {}
    if args.label.name in ("td_gae", "td_qv"):
        options = {"gamma": args.label.gamma, "lambd": args.label.lambd, "bootstrap": args.label.bootstrap_enable}
        options["dense"] = args.label.dense_rewards_enable
    options |= args.label.options
    return lambda batch: function(batch, **options)
