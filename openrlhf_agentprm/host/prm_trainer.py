"""Training a reward model on the host's DeepSpeed strategy; what it learns from is its kind's objective (prm/objective.py)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..core.errors import UserError
from ..core.monitors import quantile_points
from ..data.episode import Episode
from ..prm.dataset import batches_by_length, collate, micro_batches, micro_batches_of_tokens
from ..prm.objective import Objective
from ..prm.outcome_figures import outcome_figures
from ..prm.packing import check_apart
from ..prm.record import Record
from ..prm.scoring import values_as_recorded
from .best_weights import BestWeights
from .prm_logs import TrainingLog
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
        self.held_out = sorted(held_out, key=lambda e: len(e.token_ids))
        self.world, self.rank = dist.get_world_size(), strategy.get_rank()
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
        self.history: list[dict[str, Any]] = []
        self.best = BestWeights(strategy, self.engine, args)
        if args.ds.packing_samples:
            self.engine.eval()
            check_apart(lambda batch: objective.scores(self.engine, batch), self.device)

    def fit(self) -> bool:
        """Train all epochs or until held-out figures stay behind their best, from the last checkpoint if one is to be loaded.

        Returns:
            False where the finished checkpoint of this very training is there already, and nothing was done.
        """
        from tqdm import tqdm

        done = self._resume()
        if done is None:
            return False
        log = TrainingLog(self.args, self.strategy.is_rank_0())
        total = self.steps_per_epoch * self.args.train.max_epochs
        bar = tqdm(total=total, initial=done, desc="PRM", unit="step", disable=not self.strategy.is_rank_0(), mininterval=1.0)
        batches: tuple[int, list[list[int]]] = (-1, [])
        for step in range(done, total):
            if self.best.patience_is_over(self.history):
                break
            epoch, within = divmod(step, self.steps_per_epoch)
            if batches[0] != epoch:
                seed = self.args.train.seed + epoch
                batches = epoch, batches_by_length(self.objective.lengths, self.args.train.batch_size, seed)
            if hasattr(self.objective, "begin_step"):
                self.objective.begin_step(step, epoch)
            row: dict[str, Any] = {"step": step + 1, "epoch": epoch, **self._step(batches[1][within])}
            if self.held_out and self._evaluates_at(step + 1, total):
                row |= self.evaluate()
            self.history.append(row)
            log.row(row)
            self.best.keep(self.history)
            bar.update()
            told = {k: f"{row[k]:.4f}" for k in ("loss", "lr")} | {"tokens/s": f"{row['tokens'] / row['seconds']:.0f}"}
            bar.set_postfix(told, refresh=False)
            self._save_state(step + 1)
        bar.close()
        log.close()
        self.best.restore(self.history)
        return True

    def _evaluates_at(self, step: int, total: int) -> bool:
        """After every --eval.steps steps, or every epoch, and at the end."""
        return step == total or step % (self.args.eval.steps if self.args.eval.steps > 0 else self.steps_per_epoch) == 0

    def _parts(self, items: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """This rank's micro-batches of items, as many as every other rank's; the last may be empty where a rank has fewer items."""
        train = self.args.train
        shares = [items[rank :: self.world] for rank in range(self.world)]
        if train.dynamic_batch_enable:
            return micro_batches_of_tokens(shares, lengths, train.max_tokens_per_gpu, self.args.ds.packing_samples)[self.rank]
        parts = list(micro_batches(shares[self.rank], train.micro_batch_size))
        return parts + [[]] * (-(-len(shares[0]) // train.micro_batch_size) - len(parts))

    def _step(self, items: list[int]) -> dict[str, float]:
        """One optimizer step on a global batch of items."""
        started = time.perf_counter()
        self.engine.train()
        lengths = self.objective.lengths if self.args.ds.packing_samples else getattr(self.objective, "widths", self.objective.lengths)
        parts = [self.objective.batch(m).to(self.device) for m in self._parts(items, lengths)]
        counts = torch.stack([self.objective.counts(part) for part in parts]).sum(0)
        dist.all_reduce(counts)
        counts = torch.where(counts > 0, counts, 1.0)
        dynamic = self.args.train.dynamic_batch_enable
        figures: list[dict[str, torch.Tensor]] = []
        for number, part in enumerate(parts, 1):
            if dynamic:  # DeepSpeed cannot know how many there are
                self.engine.set_gradient_accumulation_boundary(number == len(parts))
            loss, found = self.objective.loss(self.engine, part, counts)
            self.engine.backward(loss * self.world * (1 if dynamic else len(parts)))  # DeepSpeed divides by both
            self.engine.step()
            figures.append({"loss": loss.detach(), **found})
        totals = {name: float(sum(f[name] for f in figures)) for name in figures[0]}
        row = self.strategy.all_reduce(totals, op="sum")
        row |= {"lr": self.scheduler.get_last_lr()[0], "tokens": sum(self.objective.lengths[i] for i in items)}
        norm = self.engine.get_global_grad_norm()  # None in float32 without ZeRO: DeepSpeed clips there, but keeps no norm
        row |= {} if norm is None else {"grad_norm": float(norm)}
        return row | {"seconds": time.perf_counter() - started}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out figures: squared error of Q against the outcome, AUC of the last turn, of the first, and within tasks."""
        self.engine.eval()
        last, first, outcomes, tasks = [], [], [], []
        for rows in self._parts(range(len(self.held_out)), [len(e.token_ids) for e in self.held_out]):
            if not rows:  # of a rank with fewer episodes than the others: a pass may be a collective
                self.objective.scores(self.engine, collate(self.held_out[:1]).to(self.device))
                continue
            part = collate([self.held_out[i] for i in rows]).to(self.device)
            q_BK, _ = self.objective.scores(self.engine, part)
            turns_B = part.positions.mask_BK.sum(1)
            last += q_BK.cpu()[torch.arange(len(rows)), turns_B.cpu() - 1].tolist()
            first += q_BK.cpu()[:, 0].tolist()
            outcomes += part.outcome_B.tolist()
            tasks += [self.held_out[i].task_id for i in rows]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, (last, first, outcomes, tasks))
        last, first, outcomes, tasks = ([x for part in gathered for x in part[k]] for k in range(4))
        figures = outcome_figures(last, first, outcomes, tasks, getattr(self.objective, "scale", "probability"))
        return {f"eval_{name}": value for name, value in figures.items()}

    @torch.no_grad()
    def reference(self, episodes: Sequence[Episode], record: Record, most: int = 512) -> dict[str, list[float]]:
        """How promise and progress of every turn are distributed over so many of the episodes, at even distances."""
        self.engine.eval()
        step = -(-len(episodes) // most)
        chosen = sorted(episodes[::step], key=lambda e: len(e.token_ids))
        promise, progress = [], []
        for rows in self._parts(range(len(chosen)), [len(e.token_ids) for e in chosen]):
            part = collate([chosen[i] for i in rows] or chosen[:1]).to(self.device)
            q_BK, v_BK = (x_BK.float().cpu() for x_BK in self.objective.scores(self.engine, part))
            if rows:  # else: of a rank with fewer episodes than the others, as in `evaluate`
                mask_BK = part.positions.mask_BK.cpu()
                if record.kind != "two_head":  # whose progress is read, not a difference
                    v_BK = values_as_recorded(q_BK, v_BK, mask_BK, record).v_BK
                promise += q_BK[mask_BK].tolist()
                progress += (q_BK - v_BK)[mask_BK].tolist()
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, (promise, progress))
        both = ([x for part in gathered for x in part[k]] for k in range(2))
        return {name: quantile_points(torch.tensor(x)) for name, x in zip(("promise", "progress"), both, strict=True)}

    def save(self, folder: str, record: Record) -> None:
        """The finished checkpoint, LoRA merged; and the history of the training beside it."""
        record.options |= self.best.told(self.history)
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
        self.best.forget()

    def _save_state(self, step: int) -> None:
        ckpt = self.args.ckpt
        if ckpt.save_steps > 0 and step % ckpt.save_steps == 0:
            state = {"step": step, "history": self.history, "what": self._what()}
            self.strategy.save_ckpt(self.engine, ckpt.path, f"global_step{step}", ckpt.max_num, ckpt.max_mem, state)

    def _what(self) -> str:
        """What is trained, on what, from what: only the same may go on from a checkpoint."""
        args = self.args
        parts = [vars(args.prm), vars(args.label), vars(args.loss), vars(args.adam), vars(args.ds.lora), args.ds.param_dtype]
        parts += [
            len(self.objective.lengths),
            args.data.expert_dataset,
            args.data.next_actions,
            args.data.replay_decay,
            args.data.replay_share,
        ]
        parts += [args.eval.share, args.eval.dataset]
        parts += [args.data.dataset, args.model.model_name_or_path, args.train.batch_size, args.train.seed, args.train.max_epochs]
        return json.dumps(parts, sort_keys=True, default=str)

    def _resume(self) -> int | None:
        """Steps done; None where this training has finished before."""
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
        return int(states["step"]) if self.best.resume(self.history) else None
