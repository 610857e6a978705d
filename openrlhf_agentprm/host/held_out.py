"""Held-out episodes of a watched run: scored by the PRM's workers, and what they tell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..envs import mixture
from .samples import BROKEN
from .turn_batches import turn_batch
from .watcher import drifts, of_episodes, scores_by_name

OVER_ALL_PARTS = f"eval_{mixture.NAME}_pass1"
"""The host tells scores by part and takes the first of them for the one that the best checkpoint has; this is the mean over all held-out episodes."""


def evaluation(args: Any, group: Any, samples: Sequence[Any]) -> dict[str, float]:
    """What held-out episodes tell, scored by the PRM's workers where they are watched, under the names of the evaluation's logs."""
    over_all = {OVER_ALL_PARTS: mean_outcome(samples)} if args.env.name == mixture.NAME and samples else {}
    if not args.prm.monitor_every or group is None or not samples or samples[0].turn_numbers is None:
        return over_all
    samples = [s for s in samples if not bool(torch.isin(s.ending, BROKEN).any()) and bool((s.turn_numbers > 0).any())]
    if not samples:
        return over_all
    for number, (sample, scores) in enumerate(zip(samples, scores_of(args, group, samples), strict=True)):
        sample.index, sample.prm_scores = [number], scores
        sample.kl = torch.zeros(sample.turn_numbers.shape)
    batch = turn_batch(args, samples)
    batch.group_B = prompts_of(samples)  # an evaluation has its own number of samples a prompt
    tokens_BT = pad_sequence([s.sequences[0, 1:] for s in samples], batch_first=True)
    every_B = torch.ones(len(samples), dtype=torch.bool)
    found = of_episodes(args, batch, tokens_BT, every_B)
    if reference := getattr(args.agentprm, "score_reference", {}):
        found |= drifts(scores_by_name(batch, every_B), reference)
    valid = [s.info["valid_actions"].float() for s in samples if "valid_actions" in s.info]
    if valid:
        found["valid_actions"] = float(torch.cat(valid).mean())
    return over_all | {f"monitor/{name}": value for name, value in found.items()}


def mean_outcome(samples: Sequence[Any]) -> float:
    """Over the episodes whose environment did not break; 0 where all did."""
    outcome_N = torch.cat([s.rewards.float() for s in samples if not bool(torch.isin(s.ending, BROKEN).any())] or [torch.zeros(1)])
    return float(outcome_N.mean())


def prompts_of(samples: Sequence[Any]) -> torch.Tensor:
    """(B,) int64, the same for samples of one prompt."""
    seen: dict[tuple[str, str], int] = {}
    return torch.tensor([seen.setdefault((s.prompts[0], s.labels[0]), len(seen)) for s in samples])


def scores_of(args: Any, group: Any, samples: Sequence[Any]) -> list[dict[str, torch.Tensor]]:
    """What the PRM's workers say of single samples, one row each, without a rollout around them."""
    import ray

    duplicates = args.ds.ring_attn_size * args.ds.tensor_parallel_size
    workers = args.prm.num_nodes * args.prm.num_gpus_per_node // duplicates
    size = max(1, min(args.rollout.micro_batch_size, len(samples) // workers))
    dealt = [samples[i : i + size] for i in range(0, len(samples), size)]
    dealt += [dealt[0]] * (workers - len(dealt))  # every worker wants a part
    refs = group.async_run_method_batch(
        method_name="score_turns",
        **{
            name: [pad_sequence([getattr(s, name)[0] for s in part], batch_first=True) for part in dealt]
            for name in ("sequences", "attention_mask", "turn_numbers")
        },
    )
    parts = itertools.chain.from_iterable(ray.get(refs)[::duplicates])
    found = [{name: x[row : row + 1] for name, x in part.items()} for part in parts for row in range(len(part["q_BK"]))]
    ray.get(group.async_run_method(method_name="empty_cache"))
    return found[: len(samples)]
