"""Training a reward model on the host's DeepSpeed strategy; what it learns from is its kind's objective (prm/objective.py)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..core import metrics
from ..core.errors import UserError
from ..data.episode import Episode
from ..prm.dataset import batches_by_length, collate, micro_batches
from ..prm.model import Record
from ..prm.objective import Objective
from .prm_strategy import whole_weights


class PRMTrainer:
    """Trains; one object a process.

    Args:
        strategy: the host's `DeepspeedStrategy`, set up.
        model: a PRM, not yet prepared.
        tokenizer: saved with the checkpoint.
        objective: what it learns from.
        held_out: episodes to evaluate on.
        args: nested flags of `cli.train_prm`.
    """

    def __init__(self, strategy: Any, model: Any, tokenizer: Any, objective: Objective, held_out: Sequence[Episode], args: Any) -> None:
        self.strategy = strategy
        self.args = args
        self.tokenizer = tokenizer
        self.objective = objective
        self.held_out = held_out
        self.steps_per_epoch = len(objective.lengths) // args.train.batch_size
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
            batch = batches_by_length(self.objective.lengths, self.args.train.batch_size, self.args.train.seed + epoch)[within]
            row = {"step": step + 1, "epoch": epoch, **self._step(batch)}
            if (step + 1) % self.steps_per_epoch == 0 and self.held_out:
                row |= self.evaluate()
            self.history.append(row)
            bar.update()
            bar.set_postfix({k: f"{row[k]:.4f}" for k in ("loss", "lr")}, refresh=False)
            self._save_state(step + 1)
        bar.close()

    def _step(self, items: list[int]) -> dict[str, float]:
        """One optimizer step on a global batch of items."""
        self.engine.train()
        rank, world = self.strategy.get_rank(), dist.get_world_size()
        parts = [self.objective.batch(m).to(self.device) for m in micro_batches(items[rank::world], self.args.train.micro_batch_size)]
        counts = torch.stack([self.objective.counts(part) for part in parts]).sum(0)
        dist.all_reduce(counts)
        counts = torch.where(counts > 0, counts, 1.0)
        totals: dict[str, float] = {"loss": 0.0}
        for part in parts:
            loss, figures = self.objective.loss(self.engine, part, counts)
            self.engine.backward(loss * world * len(parts))  # DeepSpeed divides by both
            self.engine.step()
            for name, value in {"loss": loss.detach(), **figures}.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        summed = self.strategy.all_reduce(totals, op="sum")
        norm = self.engine.get_global_grad_norm()  # None in float32 without ZeRO: DeepSpeed clips there, but keeps no norm
        return {**summed, "lr": self.scheduler.get_last_lr()[0]} | ({} if norm is None else {"grad_norm": float(norm)})

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
                self.objective.scores(self.engine, collate(self.held_out[:1]).to(self.device))
                continue
            part = collate([mine[i] for i in rows]).to(self.device)
            q_BK, _ = self.objective.scores(self.engine, part)
            turns_B = part.positions.mask_BK.sum(1)
            last += q_BK.cpu()[torch.arange(len(rows)), turns_B.cpu() - 1].tolist()
            first += q_BK.cpu()[:, 0].tolist()
            outcomes += part.outcome_B.tolist()
            tasks += [mine[i].task_id for i in rows]
        gathered: list[Any] = [None] * world
        dist.all_gather_object(gathered, (last, first, outcomes, tasks))
        last, first, outcomes, tasks = ([x for part in gathered for x in part[k]] for k in range(4))
        scores, labels = torch.tensor(last), torch.tensor(outcomes)
        ordered = getattr(self.objective, "scale", "probability") == "order"  # its distance to the outcome means nothing
        return ({} if ordered else {"eval_brier_last": metrics.brier(scores, labels)}) | {
            "eval_auc_last": metrics.auc(scores, labels > 0.5),
            "eval_auc_first": metrics.auc(torch.tensor(first), labels > 0.5),
            "eval_auc_last_within_task": metrics.auc_within(scores, labels > 0.5, tasks)[0],
        }

    def save(self, folder: str, record: Record) -> None:
        """The finished checkpoint, LoRA merged; and the history of the training beside it."""
        model = self.engine.module
        model.__dict__.pop("forward", None)  # the training's own call
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
        parts = [vars(args.prm), vars(args.label), vars(args.loss), vars(args.adam), vars(args.ds.lora), args.ds.param_dtype]
        parts += [len(self.objective.lengths)]
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
