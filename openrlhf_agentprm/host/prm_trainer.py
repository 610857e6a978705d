"""Training a PRM on the host's DeepSpeed strategy.

The loss of a step is normalised by counts over all its micro-batches and ranks, so that it does not depend on how a batch is cut. Labels of
the online kind are made anew for every micro-batch from the same forward pass that is trained on.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..core import metrics
from ..core.batches import LabelBatch
from ..core.errors import UserError
from ..core.losses import agent_prm_loss, soft_bce_loss, turn_counts
from ..core.registry import LABELS
from ..data.episode import Episode
from ..prm.dataset import Labels, PRMBatch, batches_by_length, collate, micro_batches
from ..prm.model import Record, read_out_on_call
from .prm_strategy import whole_weights

Labeller = Callable[[LabelBatch], torch.Tensor]


class PRMTrainer:
    """Trains; one object a process.

    Args:
        strategy: the host's `DeepspeedStrategy`, set up.
        model: a PRM, not yet prepared.
        tokenizer: saved with the checkpoint.
        train, held_out: episodes.
        args: nested flags of `cli.train_prm`.
        labels: targets made beforehand, in place of those that `--label.name` makes from the model's scores.
    """

    def __init__(
        self,
        strategy: Any,
        model: Any,
        tokenizer: Any,
        train: Sequence[Episode],
        held_out: Sequence[Episode],
        args: Any,
        labels: Labels | None = None,
    ) -> None:
        self.strategy = strategy
        self.args = args
        self.tokenizer = tokenizer
        self.train_data = train
        self.held_out = held_out
        self.lengths = [len(e.token_ids) for e in train]
        self.steps_per_epoch = len(train) // args.train.batch_size
        self.labels = labels
        self.label = _labeller(args) if labels is None else None
        config = dict(
            optim=args.optim,
            muon=vars(args.muon),
            adam=vars(args.adam),
            lr_scheduler=args.lr_scheduler,
            lr_warmup_ratio=args.lr_warmup_ratio,
            min_lr_ratio=args.min_lr_ratio,
            max_norm=args.max_norm,
            scheduler_steps=max(1, self.steps_per_epoch * args.train.max_epochs),
        )
        read_out_on_call(model)
        self.engine, _, self.scheduler = strategy.prepare((model, config))
        self.device = next(self.engine.module.parameters()).device
        self.history: list[dict[str, float]] = []

    def fit(self) -> None:
        """Train all epochs, from the last checkpoint if one is to be loaded."""
        from tqdm import tqdm

        done = self._resume()
        total = self.steps_per_epoch * self.args.train.max_epochs
        bar = tqdm(total=total, initial=done, desc="PRM", unit="step", disable=not self.strategy.is_rank_0(), mininterval=1.0)
        for step in range(done, total):
            epoch, within = divmod(step, self.steps_per_epoch)
            batch = batches_by_length(self.lengths, self.args.train.batch_size, self.args.train.seed + epoch)[within]
            row = {"step": step + 1, "epoch": epoch, **self._step([self.train_data[i] for i in batch])}
            if (step + 1) % self.steps_per_epoch == 0 and self.held_out:
                row |= self.evaluate()
            self.history.append(row)
            bar.update()
            bar.set_postfix({k: f"{row[k]:.4f}" for k in ("loss", "lr")}, refresh=False)
            self._save_state(step + 1)
        bar.close()

    def _step(self, episodes: list[Episode]) -> dict[str, float]:
        """One optimizer step on a global batch of episodes."""
        self.engine.train()
        rank, world = self.strategy.get_rank(), dist.get_world_size()
        mine = list(range(rank, len(episodes), world))
        parts = [
            collate([episodes[i] for i in m], dense_rewards=self.args.label.dense_rewards_enable, labels=self.labels)
            for m in micro_batches(mine, self.args.train.micro_batch_size)
        ]
        counts = None
        totals = {"loss": 0.0, "promise_error": 0.0}
        for part in parts:
            heads = self._read(part)
            q_BK, v_BK = self._scores(*heads)
            targets_BK = self._targets(part, q_BK, v_BK)
            mask_BK = part.positions.mask_BK.to(self.device) & ~targets_BK.isnan()
            counts = counts or self._counts(parts)
            weights_BK = None if part.weights_BK is None else part.weights_BK.to(self.device)
            loss = self._loss(*heads, targets_BK, mask_BK, counts, weights_BK)
            self.engine.backward(loss * world * len(parts))  # DeepSpeed divides by both
            self.engine.step()
            totals["loss"] += float(loss.detach())
            error_BK = torch.where(mask_BK, (q_BK - targets_BK).detach().square(), 0.0)
            totals["promise_error"] += float((error_BK if weights_BK is None else error_BK * weights_BK).sum() / counts["num_turns"])
        summed = self.strategy.all_reduce(totals, op="sum")
        norm = self.engine.get_global_grad_norm()  # None in float32 without ZeRO: DeepSpeed clips there, but keeps no norm
        return {**summed, "lr": self.scheduler.get_last_lr()[0]} | ({} if norm is None else {"grad_norm": float(norm)})

    def _read(self, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        positions = part.positions
        inputs = (part.input_ids_BT, part.attention_mask_BT, positions.q_BK, positions.v_BK)
        return self.engine(*(x.to(self.device) for x in inputs))

    def _scores(self, q_BK: torch.Tensor, v_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Q and V from what the head gives."""
        return (q_BK.sigmoid(), v_BK.sigmoid()) if self.args.loss.kind == "soft_bce" else (q_BK, v_BK)

    def _targets(self, part: PRMBatch, q_BK: torch.Tensor, v_BK: torch.Tensor) -> torch.Tensor:
        if self.label is None:
            assert part.targets_BK is not None
            return part.targets_BK.to(self.device)
        to = lambda x: x.to(self.device)  # noqa: E731
        return self.label(
            LabelBatch(
                q_BK=q_BK.detach(),
                v_BK=v_BK.detach(),
                rewards_BK=to(part.rewards_BK),
                mask_BK=to(part.positions.mask_BK),
                outcome_B=to(part.outcome_B),
                terminated_B=to(part.terminated_B),
                truncated_B=to(part.truncated_B),
            )
        ).to(q_BK.dtype)

    def _counts(self, parts: list[PRMBatch]) -> dict[str, torch.Tensor]:
        """Labelled turns, pairs and episodes of the whole step, over micro-batches and ranks.

        Which turns a method labels does not depend on the scores, so labelling with zeros tells.
        """
        counts = torch.zeros(3, device=self.device)
        for part in parts:
            mask_BK = part.positions.mask_BK.to(self.device)
            zeros = torch.zeros(mask_BK.shape, device=self.device)
            labelled = mask_BK & ~self._targets(part, zeros, zeros).isnan()
            counts += turn_counts(labelled, None if part.weights_BK is None else part.weights_BK.to(self.device))
        dist.all_reduce(counts)
        return dict(zip(("num_turns", "num_pairs", "num_episodes"), torch.where(counts > 0, counts, 1.0), strict=True))

    def _loss(
        self,
        q_BK: torch.Tensor,
        v_BK: torch.Tensor,
        targets_BK: torch.Tensor,
        mask_BK: torch.Tensor,
        counts: dict[str, torch.Tensor],
        weights_BK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Of the head's outputs at the ends and beginnings of turns.

        The paper's loss trains V nowhere, though progress at the first turn and every use as a value function read it. The value term is
        ours: the same loss of V(s_t) against Q̂_t, without the progress term.
        """
        loss = self.args.loss
        function = soft_bce_loss if loss.kind == "soft_bce" else agent_prm_loss
        names = ("num_turns", "num_pairs") if loss.reduce == "turns" else ("num_episodes",)
        function = functools.partial(function, reduce=loss.reduce, weights_BK=weights_BK)
        total = function(q_BK, targets_BK, mask_BK, beta=loss.beta, **{n: counts[n] for n in names})
        if loss.value_coef:
            kept = {n: counts[n] for n in names if n != "num_pairs"}
            total = total + loss.value_coef * function(v_BK, targets_BK, mask_BK, beta=0.0, **kept)
        return total

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out figures: squared error of Q against the outcome, AUC of the last turn, of the first, and within tasks."""
        self.engine.eval()
        last, first, outcomes, tasks = [], [], [], []
        rank, world = self.strategy.get_rank(), dist.get_world_size()
        mine = list(self.held_out[rank::world])
        size = self.args.train.micro_batch_size
        rounds = -(-len(self.held_out[::world]) // size)  # of the longest rank: a pass may be a collective
        for rows in [range(size * k, min(size * (k + 1), len(mine))) for k in range(rounds)]:
            if not rows:
                self._read(collate(self.held_out[:1]))
                continue
            part = collate([mine[i] for i in rows])
            q_BK, _ = self._scores(*self._read(part))
            turns_B = part.positions.mask_BK.sum(1)
            last += q_BK.cpu()[torch.arange(len(rows)), turns_B - 1].tolist()
            first += q_BK.cpu()[:, 0].tolist()
            outcomes += part.outcome_B.tolist()
            tasks += [mine[i].task_id for i in rows]
        gathered: list[Any] = [None] * world
        dist.all_gather_object(gathered, (last, first, outcomes, tasks))
        last, first, outcomes, tasks = ([x for part in gathered for x in part[k]] for k in range(4))
        scores, labels = torch.tensor(last), torch.tensor(outcomes)
        return {
            "eval_brier_last": metrics.brier(scores, labels),
            "eval_auc_last": metrics.auc(scores, labels > 0.5),
            "eval_auc_first": metrics.auc(torch.tensor(first), labels > 0.5),
            "eval_auc_last_within_task": metrics.auc_within(scores, labels > 0.5, tasks)[0],
        }

    def save(self, folder: str, record: Record) -> None:
        """The finished checkpoint, LoRA merged; and the history of the training beside it."""
        model = self.engine.module
        del model.forward
        if hasattr(model, "merge_and_unload"):
            with whole_weights(list(model.parameters())):
                model = model.merge_and_unload()
            self.engine.module = model
        self.strategy.save_model(self.engine, self.tokenizer, folder)
        if self.strategy.is_rank_0():
            record.save(folder)
            Path(folder, "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.history))

    def _save_state(self, step: int) -> None:
        ckpt = self.args.ckpt
        if ckpt.save_steps > 0 and step % ckpt.save_steps == 0:
            state = {"step": step, "history": self.history, "what": self._what()}
            self.strategy.save_ckpt(self.engine, ckpt.path, f"global_step{step}", ckpt.max_num, ckpt.max_mem, state)

    def _what(self) -> str:
        """What is trained, on what, from what: only the same may go on from a checkpoint."""
        args = self.args
        parts = [vars(args.label), vars(args.prm), vars(args.loss), vars(args.adam), vars(args.ds.lora), args.ds.param_dtype, len(self.train_data)]
        parts += [args.data.dataset, args.model.model_name_or_path, args.train.batch_size, args.train.seed, args.train.max_epochs]
        return json.dumps(parts, sort_keys=True, default=str)

    def _resume(self) -> int:
        if not (self.args.ckpt.load_enable and os.path.exists(self.args.ckpt.path)):
            return 0
        path, states = self.strategy.load_ckpt(self.engine, self.args.ckpt.path)
        if path is None:
            return 0
        if states.get("what") != self._what():
            raise UserError(
                f"--ckpt.path {self.args.ckpt.path} holds the state of another training (other labels, loss, data or model); "
                "give this one a folder of its own, or leave out --ckpt.load_enable"
            )
        self.history = states["history"]
        return int(states["step"])


def _labeller(args: Any) -> Labeller:
    """The label function with its options."""
    function = LABELS.load(args.label.name)
    options: dict[str, Any] = {}
    if args.label.name in ("td_gae", "td_qv"):
        options = {"gamma": args.label.gamma, "lambd": args.label.lambd, "bootstrap": args.label.bootstrap_enable}
        options["dense"] = args.label.dense_rewards_enable
    options |= args.label.options
    return lambda batch: function(batch, **options)
