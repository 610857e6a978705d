"""Kind `inverse`: action values learnt from experts' transitions against those of past policies, without an outcome."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...core.errors import UserError
from ...core.inverse import inverse_logits, inverse_loss, matched_loss, sampled_value_loss
from ...data.episode import Episode
from ...data.layout import spans_of
from ...data.next_actions import read_next_actions
from ..dataset import Labels, PRMBatch, load_data, split_by_task, warn_of_leaks
from ..model import start_from
from ..scoring import ScalarPRM
from ..vocabulary import check_vocabulary, read_config
from .branches import BranchBatch, branch_batch, check_branches, read_places, read_places_on_call, refuse

NEXT = ("full", "stop", "target")
CONTRASTS = ("transitions", "actions")


class InversePRM(ScalarPRM):
    """A scalar PRM whose Q explains an expert (registry entry `inverse`; InversePRM, Choudhury, arXiv 2502.10325).

        z_t = Q(s_t, a_t) − γ Q(s_{t+1}, a'),  a' ~ π_{i−1};   z_T = Q(s_T, a_T)
        L   = ½ mean over experts' −log σ(z) + ½ mean over policies' −log(1 − σ(z)) + ½ c mean (V(s) − sg Q(s, a'))²

    With `--loss.inverse_contrast actions` the first two terms give way to mean over experts' −log σ(Q(s_t, a_t) − Q(s_t, a'_t)), ours.

    Q is the head's output, unbounded: what the turn and the policy behind it earn in logits of being an expert's, not a probability. The last
    term is ours: it trains V(s) = E_{a' ~ π_{i−1}} Q(s, a') before the action, so progress is Q(s, a) − V(s), the advantage over π_{i−1}. The
    score of the turn before is no V here: Q_t − Q_{t−1} would be minus the transition's own logit.
    """

    on_call = staticmethod(read_places_on_call)
    supports: frozenset[str] = frozenset()

    @staticmethod
    def objective(train: Sequence[Episode], args: Any, labels: Labels | None) -> InverseObjective:  # type: ignore[override]
        return InverseObjective(train, args)

    @staticmethod
    def problems(args: Any) -> list[str]:
        found, loss = [], args.loss
        if not args.data.expert_dataset:
            found.append("--data.expert_dataset is required by --prm.name inverse: stores of experts' episodes, divided by commas")
        if not 0 <= loss.inverse_gamma <= 1:
            found.append(f"--loss.inverse_gamma is {loss.inverse_gamma}; wanted a number from 0 to 1")
        if not 0 <= loss.inverse_value_coef < float("inf"):
            found.append(f"--loss.inverse_value_coef is {loss.inverse_value_coef}; wanted a number of 0 or more")
        if loss.inverse_contrast == "actions":
            if not args.data.next_actions:
                found.append("--loss.inverse_contrast actions tells an expert's action from a sampled one: give --data.next_actions")
            if loss.inverse_own_enable:
                found.append(
                    "--loss.inverse_own_enable: --loss.inverse_contrast actions would tell an expert's action from itself; leave it out"
                )
        if loss.inverse_next == "target":
            if args.ds.zero_stage == 3 or args.ds.lora.rank > 0:
                found.append(
                    "--loss.inverse_next target copies whole weights: not with --ds.zero_stage 3 or --ds.lora.rank; take stop or full"
                )
            if args.ckpt.load_enable:
                found.append("--loss.inverse_next target is not part of --ckpt.path's state: leave out --ckpt.load_enable")
            if loss.target_every < 1:
                found.append(f"--loss.target_every is {loss.target_every}; wanted 1 or more steps")
        return found

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        of_all = ("loss.inverse_contrast", "loss.inverse_value_coef", "loss.inverse_own_enable", "data.expert_dataset", "data.next_actions")
        if args.loss.inverse_contrast == "actions":
            return of_all
        target = ("loss.target_every",) if args.loss.inverse_next == "target" else ()
        return (*of_all, "loss.inverse_gamma", "loss.inverse_next", *target)

    @staticmethod
    def recorded(args: Any) -> dict[str, Any]:
        return {
            "method": "expert",
            "values": "state",
            "output": "linear",
            "scale": "order",
            "value_trained": args.loss.inverse_value_coef > 0,
            "options": {"expert_dataset": args.data.expert_dataset, "next_actions": args.data.next_actions},
        }


@dataclass(kw_only=True)
class InverseBatch(BranchBatch):
    """Rows of experts and policies."""

    sample_at_BK: torch.Tensor  # int64: where Q(s_t, a'_t) is read
    sampled_BK: torch.Tensor  # bool: a'_t is π_{i−1}'s
    expert_B: torch.Tensor  # bool


@dataclass(frozen=True)
class _Row:
    """An episode to learn from; `own`: its own actions stand for π_{i−1}'s; `samples`: by turn, those that were sampled."""

    episode: Episode
    expert: bool
    own: bool
    samples: list[list[list[int]]]


class InverseObjective:
    """Experts' transitions against policies'; an item is an episode of each, the shorter side dealt out again and again.

    The next action a' at a state is, in this order: one sampled there beforehand (`--data.next_actions`, another of them each time), the
    episode's own where π_{i−1} itself played it, or its own in spite of that where `--loss.inverse_own_enable` allows it. π_{i−1} is who
    sampled the next actions, else who played the newest iteration of `--data.dataset`.

    Args:
        train: episodes of past policies.
        args: nested flags of `cli.train_prm`.
    """

    scale = "order"

    def __init__(self, train: Sequence[Episode], args: Any) -> None:
        self.args = args
        if args.prm.step_delimiter:
            raise UserError(
                "--prm.name inverse takes whole responses: steps of one response touch, so that V(s_t+1) would be read where Q(s_t, a_t) is; "
                "leave out --prm.step_delimiter and --prm.step_delimiter_text, or give --prm.step_delimiter none if the model that training "
                f"starts from ({args.model.model_name_or_path}) was trained on steps"
            )
        experts = load_data(args.data.expert_dataset.split(","), max_len=args.data.max_len).episodes
        experts, _ = split_by_task(experts, args.eval.share)
        if not experts:
            raise UserError("every task of --data.expert_dataset is held out by --eval.share; give more tasks or a smaller share")
        if args.eval.dataset:
            warn_of_leaks("--data.expert_dataset", experts, args.eval.dataset)
        check_vocabulary(args.model.model_name_or_path, args.data.expert_dataset, experts)
        folders = args.data.next_actions.split(",") if args.data.next_actions else []
        self.rows = _rows(experts, train, *read_next_actions(folders), args.loss.inverse_own_enable)
        if any(row.samples for row in self.rows):
            refuse(check_branches(read_config(args.model.model_name_or_path), args.ds.attn_implementation))
        sides = [[i for i, row in enumerate(self.rows) if row.expert is expert] for expert in (True, False)]
        for seed, side in enumerate(sides):
            random.Random(seed).shuffle(side)
        self.pairs = [[side[i % len(side)] for side in sides] for i in range(max(map(len, sides)))]
        self.sides = [len(side) for side in sides]
        self.lengths: Sequence[int] = [sum(_tokens(self.rows[r]) for r in pair) for pair in self.pairs]
        self.widths: Sequence[int] = [2 * max(_tokens(self.rows[r]) for r in pair) for pair in self.pairs]
        self.epoch = 0
        self.target = _Target(args) if args.loss.inverse_next == "target" else None

    def begin_step(self, step: int, epoch: int) -> None:
        """Which sampled actions are dealt out follows from the epoch and the item, so that a resumed training deals the same."""
        self.epoch = epoch
        if self.target is not None:
            self.target.begin_step(step)

    def batch(self, items: Sequence[int]) -> InverseBatch:
        rows, branches = [], []
        for item in items:
            for r, size in zip(self.pairs[item], self.sides, strict=True):
                row, time = self.rows[r], self.epoch * -(-len(self.pairs) // size) + item // size  # how often it was dealt out before
                rows.append(row)
                branches.append([(k, samples[time % len(samples)]) for k, samples in enumerate(row.samples) if samples])
        batch = branch_batch([row.episode.token_ids for row in rows], [spans_of(row.episode) for row in rows], branches)
        own_BK = torch.tensor([row.own for row in rows])[:, None]
        return InverseBatch(
            **vars(batch),
            sample_at_BK=torch.where(batch.branch_end_BK > 0, batch.branch_end_BK, batch.positions.q_BK),
            sampled_BK=batch.positions.mask_BK & (own_BK | (batch.branch_end_BK > 0)),
            expert_B=torch.tensor([row.expert for row in rows]),
        )

    def counts(self, part: InverseBatch) -> torch.Tensor:
        """Transitions of experts and of policies, states with an action of π_{i−1}, and those of them that are experts'."""
        turns_B, sampled_B = part.positions.mask_BK.sum(1), part.sampled_BK.sum(1)
        of = (turns_B[part.expert_B], turns_B[~part.expert_B], sampled_B, sampled_B[part.expert_B])
        return torch.stack([each.sum() for each in of]).float()

    def loss(self, model: Any, part: InverseBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        at = part.positions
        given = (
            part.input_ids_BT,
            part.attention_mask_BT,
            torch.cat([at.q_BK, at.v_BK, part.sample_at_BK], 1),
            part.position_ids_BT,
            part.bias,
        )
        q_BK, v_BK, sampled_BK = model(*given).chunk(3, 1)
        of_next_BK = sampled_BK
        if self.target is not None:
            of_next_BK = self.target(model, given).chunk(3, 1)[2]
        elif self.args.loss.inverse_next == "stop":
            of_next_BK = sampled_BK.detach()
        next_BK = torch.cat([of_next_BK[:, 1:], torch.zeros_like(of_next_BK[:, :1])], 1)
        z_BK = inverse_logits(q_BK, next_BK, at.mask_BK, self.args.loss.inverse_gamma)
        if self.args.loss.inverse_contrast == "actions":
            total = matched_loss(q_BK, sampled_BK, part.sampled_BK & part.expert_B[:, None], num_states=counts[3])
        else:
            total = inverse_loss(z_BK, part.expert_B, at.mask_BK, num_expert=counts[0], num_policy=counts[1])
        if coef := self.args.loss.inverse_value_coef:
            total = total + coef * sampled_value_loss(v_BK, sampled_BK, part.sampled_BK, num_states=counts[2])
        with torch.no_grad():
            experts, policies = (z_BK[side].sum() / n for side, n in ((part.expert_B, counts[0]), (~part.expert_B, counts[1])))
        return total, {"expert_logit": experts, "policy_logit": policies}

    def scores(self, model: Any, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.cat([part.positions.q_BK, part.positions.v_BK], 1)
        q_BK, v_BK = model(part.input_ids_BT, part.attention_mask_BT, places).chunk(2, 1)
        return q_BK, v_BK


class _Target:
    """An older copy of the model, refreshed every so many optimizer steps; never where weights are partitioned or under LoRA."""

    def __init__(self, args: Any) -> None:
        path, ds = args.model.model_name_or_path, args.ds
        self.model = start_from(path, dtype=ds.param_dtype, attn_implementation=ds.attn_implementation, seed=args.train.seed)
        self.model.eval().requires_grad_(False)
        self.every = args.loss.target_every
        self.stale = True

    def begin_step(self, step: int) -> None:
        self.stale = self.stale or step % self.every == 0

    @torch.no_grad()
    def __call__(self, model: Any, given: Sequence[Any]) -> torch.Tensor:
        if self.stale:
            weights = dict(getattr(model, "module", model).named_parameters())
            self.model.to(given[0].device)
            for name, weight in self.model.named_parameters():
                weight.copy_(weights[name])
            self.stale = False
        return read_places(self.model, *given)


def _tokens(row: _Row) -> int:
    """Tokens of its row at most: which of the samples comes differs from time to time."""
    return len(row.episode.token_ids) + sum(max(map(len, samples)) for samples in row.samples if samples)


def _rows(
    experts: Sequence[Episode], policies: Sequence[Episode], actions: dict[str, list[list[list[int]]]], digest: str | None, own: bool
) -> list[_Row]:
    """Every episode with its source of next actions.

    Raises:
        UserError: episodes have none.
    """
    digest = digest or sorted(policies, key=lambda e: e.iteration)[-1].policy_digest
    found, missing = [], []
    for expert, episodes in ((True, experts), (False, policies)):
        for episode in episodes:
            samples = actions.get(episode.episode_id, [])
            played = not expert and episode.policy_digest == digest
            found.append(_Row(episode, expert, played and not samples, samples))
            if not played and not own and not all(k < len(samples) and samples[k] for k in range(1, len(episode.turns))):
                missing.append(episode)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(found)} episodes have no next actions of π_(i−1) (episode {missing[0].episode_id} of "
            f"{missing[0].policy!r}, for one): sample them with cli.label --label.name next_actions and give the folders as "
            "--data.next_actions, or let each episode's own next action stand for them with --loss.inverse_own_enable"
        )
    return found
