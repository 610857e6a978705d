"""Turn-level advantages inside the host's experience maker.

The maker's micro-batches are put together to one `TurnBatch` of the whole rollout, the estimator of the registry answers for all of it, and
the answer is dealt back. Legend: B episodes, K turns, A the host's action positions (entry i belongs to token i + 1).
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from ..core.batches import TurnAdvantages, TurnBatch
from ..core.groups import BASELINES, group_std, relative
from ..core.registry import ADVANTAGES
from ..envs import mixture
from .advantage_flags import estimator_options, handles
from .online import note_rollout, online_of
from .prompts import place as place  # the patched trainer calls it
from .samples import REPLACED, broken_mask, is_on
from .spare_prompts import GIVEN_UP
from .turn_batches import Experiences, stack, turn_batch
from .turn_metrics import entropy_metric, part_metrics, turn_metrics, version_metrics

# --- scores ---


def dispatch_prm(maker: Any, samples_list: Experiences) -> list[Any] | None:
    """Start scoring every turn, and training the PRM where that is due; where it shares GPUs it is waited for and its cache emptied, as the host
    does with a reward model."""
    maker.turn_metrics = {}
    group = maker.prm_model_group
    if group is None:
        return None
    started = time.monotonic()
    online = note_rollout(maker, samples_list)
    if online is not None and maker.args.prm.update_mode == "before":
        online.send(group)
    refs = group.async_run_method_batch(
        method_name="score_turns",
        sequences=[s.sequences for s in samples_list],
        attention_mask=[s.attention_mask for s in samples_list],
        turn_numbers=[s.turn_numbers for s in samples_list],
    )
    if online is not None and maker.args.prm.update_mode == "after":
        online.send(group)
    train = maker.args.train
    if train.colocate_all or (train.colocate_critic_reward and maker.critic_model_group is not None):
        import ray

        ray.get([*refs, *(online.refs if online is not None else ())])
        ray.get(group.async_run_method(method_name="empty_cache"))
    maker.turn_metrics = {"agentprm/time_prm_s": time.monotonic() - started}
    return refs


def attach_scores(maker: Any, samples_list: Experiences, refs: list[Any] | None) -> None:
    """Keep the scores for the estimator, and make the metrics of placeholders count for nothing."""
    if refs is not None:
        started = time.monotonic()
        duplicates = maker.args.ds.ring_attn_size * maker.args.ds.tensor_parallel_size
        if (online := online_of(maker)) is not None and maker.args.prm.update_mode == "before":
            _fail_with(online.refs)
        for samples, scores in zip(samples_list, maker._flatten_results(refs, duplicates), strict=True):
            samples.prm_scores = scores
        maker.turn_metrics["agentprm/time_prm_s"] += time.monotonic() - started
    if any_broken(samples_list):
        _fill_broken_metrics(samples_list)


def _fail_with(updates: list[Any]) -> None:
    """An update that failed in one worker leaves the others waiting for it, and the scores behind them: its error comes first."""
    import ray

    ray.get(list(updates))


# --- advantages ---


@torch.no_grad()
def turns_of(maker: Any, experiences: Experiences) -> TurnBatch | None:
    """The rollout's turns, with their metrics noted, for the host's own estimators too; None without our flags."""
    args = maker.strategy.args
    if not is_on(args):
        return None
    started = time.monotonic()
    batch = turn_batch(args, experiences)
    ending_B = torch.cat([e.ending for e in experiences])
    maker.turn_metrics |= turn_metrics(batch, ending_B) | entropy_metric(experiences) | version_metrics(experiences)
    if args.env.name == mixture.NAME:
        parts = [mixture.part_of(mixture.NAME, json.loads(label)["task_id"]) for e in experiences for label in e.labels]
        maker.turn_metrics |= part_metrics(batch, ending_B, parts)
    if (watcher := getattr(maker, "watcher", None)) is not None:
        watcher.see_batch(batch, stack([e.sequences[:, 1:] for e in experiences], 0), ending_B)
    for experience in experiences:  # what only this batch needs is not sent to the models
        for name in ("turn_numbers", "turn_rewards", "turn_valid", "turn_began", "turn_ended"):
            setattr(experience, name, None)
        if hasattr(experience, "prm_scores"):
            del experience.prm_scores
    maker.turn_metrics["agentprm/time_advantages_s"] = time.monotonic() - started
    return batch


@torch.no_grad()
def compute_advantages(maker: Any, experiences: Experiences, batch: TurnBatch) -> Experiences:
    """Advantages and returns by the registry's estimator, in place."""
    started = time.monotonic()
    args = maker.strategy.args
    function = ADVANTAGES.load(args.algo.advantage.estimator)
    batch.running = maker.turn_state
    result: TurnAdvantages = function(batch, **estimator_options(args, maker.kl_ctl.value))
    at = 0
    for experience in experiences:
        rows, width = experience.action_mask.shape
        part = (slice(at, at + rows), slice(0, width))
        experience.advantages = result.advantages_BT[part].clone()
        experience.returns = result.returns_BT[part].clone()
        if result.value_mask_BT is not None:
            experience.value_mask = result.value_mask_BT[part].clone()
        experience.info["return"] = torch.where(batch.mask_BK[part[0]], batch.rewards_BK[part[0]], 0.0).sum(1)
        experience.kl = None
        at += rows
    maker.turn_metrics |= result.metrics
    maker.turn_metrics["agentprm/time_advantages_s"] += time.monotonic() - started
    return experiences


# --- what an estimator keeps from batch to batch ---


def remember(trainer: Any, client_states: dict[str, Any]) -> None:
    """Put it beside the host's own states of a checkpoint; nothing without our flags."""
    if is_on(trainer.args):
        client_states["agentprm"] = dict(trainer.experience_maker.turn_state)


def recall(trainer: Any, client_states: dict[str, Any] | None) -> None:
    """Take it from the checkpoint that is resumed."""
    trainer.experience_maker.turn_state.update((client_states or {}).get("agentprm", {}))


# --- broken episodes ---


def any_broken(experiences: Experiences) -> bool:
    return experiences[0].ending is not None and any(bool(broken_mask(e).any()) for e in experiences)


def eval_reward(sample: Any) -> float:
    """An evaluation sample's reward; NaN, which the averages leave out, where its environment broke."""
    if sample.ending is not None and bool(broken_mask(sample)[0]):
        return float("nan")
    return float(sample.rewards[0])


def eval_value(sample: Any, values: torch.Tensor | None) -> float | None:
    """A number of an evaluation sample, such as its length; None, which the averages leave out, where its environment broke."""
    if values is None or (sample.ending is not None and bool(broken_mask(sample)[0])):
        return None
    return values.item()


def group_rewards(args: Any, rewards_GN: torch.Tensor, experiences: Experiences, indices: torch.Tensor) -> torch.Tensor:
    """The host's group baselines over the samples that came to an end; 0 for the others.

    Args:
        rewards_GN: groups in prompt order.
        indices: each sample's place in that order, as the experiences stand.
    """
    broken = torch.empty(rewards_GN.numel(), dtype=torch.bool)
    broken[indices] = torch.cat([broken_mask(e) for e in experiences])
    kept_GN = ~broken.view_as(rewards_GN)
    std_G1 = group_std(rewards_GN, kept_GN)
    _overwrite_group_std(experiences, std_G1.expand_as(kept_GN).reshape(-1)[indices])
    name = args.algo.advantage.estimator
    if name == "flash_reinforce":
        r_GN = torch.where(kept_GN, rewards_GN, 0.0)
        return torch.where(kept_GN, r_GN - r_GN.sum() / kept_GN.sum().clamp(min=1), 0.0)
    return relative(rewards_GN, kept_GN, name if name in BASELINES else "none")


def _overwrite_group_std(experiences: Experiences, std: torch.Tensor) -> None:
    for experience, part in zip(experiences, std.split([len(e.index) for e in experiences]), strict=True):
        if "group_reward_std" in experience.info:
            experience.info["group_reward_std"] = part


def _fill_broken_metrics(experiences: Experiences) -> None:
    """Logged means are over all samples; a placeholder takes the mean of the others, so it changes none of them."""
    broken = torch.cat([broken_mask(e) for e in experiences])
    for name in experiences[0].info.keys() - {REPLACED, GIVEN_UP}:
        filled = _filled([e.info[name] for e in experiences], broken)
        for experience, values in zip(experiences, filled, strict=True):
            experience.info[name] = values
    for name in ("response_length", "truncated"):
        if all(getattr(e, name) is not None for e in experiences):
            for experience, values in zip(experiences, _filled([getattr(e, name) for e in experiences], broken), strict=True):
                setattr(experience, name, values)


def _filled(parts: list[torch.Tensor], broken: torch.Tensor) -> list[torch.Tensor]:
    """The parts, as float, with the mean of the samples that are not broken in place of those that are."""
    column = torch.cat([part.float() for part in parts])
    mean = column[~broken].mean() if bool((~broken).any()) else torch.tensor(0.0)
    return torch.where(broken, mean, column).split([len(part) for part in parts])


__all__ = [
    "any_broken",
    "attach_scores",
    "compute_advantages",
    "dispatch_prm",
    "eval_reward",
    "eval_value",
    "group_rewards",
    "handles",
    "turns_of",
]
