"""A PRM that is trained on fresh episodes while its policy is (PRIME, arXiv 2502.01456, Algorithm 1; AgentPRM, arXiv 2511.08325, Algorithm 1).

What it learns from is its kind's objective, the one of offline training; labels of the online kind are so made anew from the current model.

PRMs are replicated, not sharded, so this is plain data parallelism: every process holds the same weights, takes its share of each batch, and adds
its gradients to the others'. The loss is normalised by counts over the whole batch, so neither the number of processes nor that of
micro-batches changes it. AdamW works on float32 weights, the model's own or, of a half-precision one, copies that it is rounded from: 20 bytes a
parameter in bfloat16 (weights 2, gradients 2 + 4, float32 weights 4, moments 8), 16 in float32. An engine such as DeepSpeed's would shard what is not
sharded here, and wants a scheduler and a fixed number of micro-batches, which rollouts do not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ..core.errors import NothingToLearn
from ..data.episode import Episode
from .dataset import collate, micro_batches, split_by_task
from .objective import Objective
from .outcome_figures import outcome_figures
from .record import ENDS_AS_OUTCOME


@dataclass
class OnlineSettings:
    """How a PRM is trained online.

    Args:
        flags: nested flags of its objective, as those of `cli.train_prm`.
        lr, max_norm: of AdamW; the norm that gradients are clipped to.
        epochs: passes over the episodes of an update.
        batch_size, micro_batch_size: episodes of an optimizer step, and of a pass of one process.
        eval_share: share of the tasks that it is never trained on.
        patience: updates behind the best weights, by held-out tasks, after which these are gone back to for good; None: never.
        seed: of the order of episodes.
        gradient_checkpointing: compute activations again in the backward pass.
        offload: keep what only updates need in CPU memory between them.
        cross_entropy: whether its loss wants outcomes in [0, 1].
    """

    flags: Any
    lr: float = 1e-6
    max_norm: float = 1.0
    epochs: int = 1
    batch_size: int = 64
    micro_batch_size: int = 8
    eval_share: float = 0.0
    patience: int | None = None
    seed: int = 42
    gradient_checkpointing: bool = False
    offload: bool = False
    cross_entropy: bool = False


class OnlinePRM:
    """Updates a loaded reward model in place; one object a process, each given the same episodes.

    Args:
        prm: of a kind with an `objective`; its `model` is trained.
        settings: the same in every process.
    """

    def __init__(self, prm: Any, settings: OnlineSettings) -> None:
        self.prm, self.model, self.settings = prm, prm.model, settings
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        prm.on_call(self.model)
        self.model.eval()
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.weights = [w for w in self.model.parameters() if w.requires_grad]
        self.device = self.weights[0].device
        self.masters = [w if w.dtype == torch.float32 else w.detach().float() for w in self.weights]
        self.optimizer = torch.optim.AdamW(self.masters, lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.done: dict[str, int] = {"updates": 0, "steps": 0, "stale": 0, "best_update": 0, "stopped": 0}
        self.best = self._copied() if settings.patience is not None else None
        self._put_optimizer_away()

    # --- an update ---

    def update(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Train on the episodes of tasks that are not held out, and judge by the others; nothing once it has stopped.

        Returns:
            loss, grad_norm and the objective's own figures (means over the optimizer steps that were taken), skipped_steps; figures of held-out
            episodes, as `<figure>_held_out`; episodes, held_out; updates, stale, best_update, stopped, all the same in every process.
        """
        if self.done["stopped"]:
            return self._counts()
        training, held_out = split_by_task(episodes, self.settings.eval_share)
        self._fetch_optimizer()
        rows = self._train(training)
        taken = [row for row in rows if math.isfinite(row["grad_norm"])]
        found = {name: sum(row[name] for row in taken) / len(taken) for name in (taken[0] if taken else ())}
        if rows:
            found["skipped_steps"] = float(len(rows) - len(taken))
            self.done["updates"] += 1
            found |= self._judged(held_out)
        self._put_optimizer_away()
        return found | {"episodes": float(len(training)), "held_out": float(len(held_out))} | self._counts()

    def _counts(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.done.items() if name != "steps"}

    def _train(self, episodes: Sequence[Episode]) -> list[dict[str, float]]:
        if not episodes:
            return []
        try:
            objective = self._objective(episodes)
        except NothingToLearn:
            return []
        self.model.train()
        rows = [self._step(objective, items) for epoch in range(self.settings.epochs) for items in self._batches(objective, epoch)]
        self.model.eval()
        return rows

    def _objective(self, episodes: Sequence[Episode]) -> Objective:
        if hasattr(self.prm, "online_objective"):
            return self.prm.online_objective(episodes, self.settings.flags)
        return self.prm.objective(episodes, self.settings.flags, None)

    def _batches(self, objective: Objective, epoch: int) -> list[list[int]]:
        """All items in random order, in batches of about `batch_size`; which depends on the seed, the update and the epoch alone."""
        items, seed = len(objective.lengths), (self.settings.seed * 100_003 + self.done["updates"]) * 101 + epoch
        order = torch.randperm(items, generator=torch.Generator().manual_seed(seed))
        return [part.tolist() for part in order.tensor_split(max(1, round(items / self.settings.batch_size)))]

    def _step(self, objective: Objective, items: Sequence[int]) -> dict[str, float]:
        """One optimizer step on a batch, of which this process takes its share; gradients that are not finite move nothing."""
        mine = sorted(items, key=lambda i: (objective.lengths[i], i))[self.rank :: self.world]
        parts = [objective.batch(some).to(self.device) for some in micro_batches(mine, self.settings.micro_batch_size)]
        counts = torch.stack([c for part in self._gathered([objective.counts(p).cpu() for p in parts]) for c in part]).sum(0)
        counts = torch.where(counts > 0, counts, 1.0).to(self.device)
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        figures = [self._backward(objective, part, counts) for part in parts]
        for master in self.masters:
            if self.world > 1:
                dist.all_reduce(master.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, self.settings.max_norm))
        if math.isfinite(norm):
            self.optimizer.step()
            self._round()
        self.done["steps"] += 1
        for master in self.masters:
            master.grad = None
        every = [row for part in self._gathered(figures) for row in part]
        return {name: sum(row[name] for row in every) for name in every[0]} | {"grad_norm": norm}

    def _backward(self, objective: Objective, part: Any, counts: torch.Tensor) -> dict[str, float]:
        """Add the micro-batch's gradients to the float32 ones."""
        loss, found = objective.loss(self.model, part, counts)
        loss.backward()  # type: ignore[no-untyped-call]
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master and weight.grad is not None:
                assert master.grad is not None
                master.grad += weight.grad
                weight.grad = None
        return {name: float(value) for name, value in {"loss": loss.detach(), **found}.items()}

    def _gathered(self, mine: list[Any]) -> list[list[Any]]:
        """What every process has, by rank."""
        found: list[Any] = [mine] * self.world
        if self.world > 1:
            dist.all_gather_object(found, mine)
        return found

    # --- held-out tasks ---

    @torch.no_grad()
    def figures(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """`outcome_figures` of the model as it is, scored as rollouts are."""
        scored: dict[int, tuple[float, float]] = {}
        order = sorted(range(len(episodes)), key=lambda i: len(episodes[i].token_ids))
        for rows in micro_batches(order[self.rank :: self.world], self.settings.micro_batch_size):
            q_BK = self.prm.score(collate([episodes[i] for i in rows])).q_BK
            scored |= {i: (float(q_BK[row, len(episodes[i].turns) - 1]), float(q_BK[row, 0])) for row, i in enumerate(rows)}
        every = {i: both for part in self._gathered([scored]) for i, both in part[0].items()}
        last, first = ([every[i][k] for i in range(len(episodes))] for k in range(2))
        return outcome_figures(last, first, [e.outcome for e in episodes], [e.task_id for e in episodes], self.prm.record.scale)

    def _judged(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Held-out figures, and with `patience` whether the new weights know these very episodes better than the best so far.

        Rollouts change as the policy does, so figures of different updates are of different episodes: the two are compared on the same.
        """
        if not episodes:
            return {}
        now = self.figures(episodes)
        if self.best is not None:
            self._compare(now, episodes)
        return {f"{name}_held_out": value for name, value in now.items() if not math.isnan(value)}

    def _compare(self, now: dict[str, float], episodes: Sequence[Episode]) -> None:
        assert self.best is not None and self.settings.patience is not None
        name, sign = ("brier_last", -1) if self.prm.record.scale in ENDS_AS_OUTCOME else ("auc_last", 1)
        if math.isnan(now[name]):  # successes or failures alone
            return
        new = self._copied()
        self._put(self.best)
        before = self.figures(episodes)
        if sign * now[name] > sign * before[name]:
            self.best = new
            self.done |= {"stale": 0, "best_update": self.done["updates"]}
        else:
            self.done["stale"] += 1
        self.done["stopped"] = int(self.done["stale"] >= self.settings.patience)
        if not self.done["stopped"]:
            self._put(new)

    # --- weights ---

    def _copied(self) -> list[torch.Tensor]:
        return [master.detach().cpu().clone() for master in self.masters]

    @torch.no_grad()
    def _put(self, masters: Sequence[torch.Tensor]) -> None:
        for master, value in zip(self.masters, masters, strict=True):
            master.copy_(value)
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        """The model's weights from the float32 ones."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                weight.copy_(master)

    def _put_optimizer_away(self) -> None:
        if self.settings.offload:
            self._move_optimizer(torch.device("cpu"))

    def _fetch_optimizer(self) -> None:
        if self.settings.offload:
            self._move_optimizer(self.device)

    def _move_optimizer(self, device: torch.device) -> None:
        for kept in self.optimizer.state.values():
            kept.update({name: x.to(device) for name, x in kept.items() if name.startswith("exp_avg")})
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                master.data = master.data.to(device)

    # --- what a checkpoint keeps ---

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, counters and the best weights."""
        return {"weights": self._copied(), "optimizer": self.optimizer.state_dict(), "done": dict(self.done), "best": self.best}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self._put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr
        self.done = dict(state["done"])
        if self.best is not None:
            self.best = state["best"] or self._copied()
        self._put_optimizer_away()
