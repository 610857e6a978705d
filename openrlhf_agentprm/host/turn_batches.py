"""A rollout's micro-batches as one `TurnBatch`. Legend: B episodes, K turns, T the host's action positions (entry i belongs to token i + 1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from ..core.batches import TurnBatch
from ..core.estimators.shared import sum_by_turn
from ..core.process_rewards import novelty
from ..core.scan import last_valid
from ..data.layout import spans_from_turn_numbers
from ..data.states import anchor_keys
from .advantage_flags import handles, needs
from .samples import Ending

Experiences = Sequence[Any]


def turn_batch(args: Any, experiences: Experiences) -> TurnBatch:
    """The whole rollout as one batch of turns."""
    turn_ids_BT = stack([e.turn_numbers for e in experiences], 0) - 1
    width = max(1, int(turn_ids_BT.max()) + 1)
    mask_BK = torch.zeros(len(turn_ids_BT), width + 1, dtype=torch.bool)
    mask_BK = mask_BK.scatter(1, turn_ids_BT.clamp(min=-1) + 1, True)[:, 1:]
    outcome_B = torch.cat([e.rewards for e in experiences]).float()
    if args.reward.clip_range:
        outcome_B = outcome_B.clamp(*args.reward.clip_range)
    ending_B = torch.cat([e.ending for e in experiences])
    order = torch.tensor(list(itertools.chain.from_iterable(e.index for e in experiences)))
    novelty_coef = args.algo.advantage.novelty_coef if handles(args) else 0.0
    state_key_BK = _state_keys(args, experiences, width) if novelty_coef or "states" in needs(args) else None
    group_B = order // args.rollout.n_samples_per_prompt
    rewards_BK = _turn_rewards(args, experiences, mask_BK, turn_ids_BT, outcome_B)
    if novelty_coef and state_key_BK is not None:
        rewards_BK = rewards_BK + novelty_coef * novelty(state_key_BK, mask_BK, group_B)
    scored = getattr(experiences[0], "prm_scores", ())
    by_token = ("process_logratio_BT",)
    scores: dict[str, Any] = {
        name: stack([e.prm_scores[name] for e in experiences], 0.0, None if name in by_token else width) for name in scored
    }
    return TurnBatch(
        rewards_BK=rewards_BK,
        mask_BK=mask_BK,
        turn_ids_BT=turn_ids_BT,
        action_mask_BT=stack([e.action_mask for e in experiences], 0).bool(),
        values_BT=None if experiences[0].values is None else stack([e.values.float() for e in experiences], 0.0),
        kl_BT=stack([e.kl.float() for e in experiences], 0.0),
        outcome_B=outcome_B,
        terminated_B=torch.isin(ending_B, torch.tensor([Ending.SUCCESS, Ending.FAILURE, Ending.UNKNOWN])),
        truncated_B=ending_B == Ending.TRUNCATED,
        group_B=group_B,
        sample_B=order % args.rollout.n_samples_per_prompt,
        state_key_BK=state_key_BK,
        valid_BK=sum_by_turn(stack([e.turn_valid for e in experiences], 0.0), turn_ids_BT, mask_BK) > 0,
        **scores,
    )


def _turn_rewards(
    args: Any, experiences: Experiences, mask_BK: torch.Tensor, turn_ids_BT: torch.Tensor, outcome_B: torch.Tensor
) -> torch.Tensor:
    """The outcome at the last turn, or each turn's own reward from the environment.

    Where the PRM's Q stands behind an episode that a limit cut, its outcome gives way, as in the labels: it stands there because nothing followed.
    """
    if args.algo.advantage.reward == "environment":
        return sum_by_turn(stack([e.turn_rewards for e in experiences], 0.0), turn_ids_BT, mask_BK)
    if args.algo.advantage.bootstrap_enable:
        outcome_B = torch.where(torch.cat([e.ending for e in experiences]) == Ending.TRUNCATED, 0.0, outcome_B)
    return torch.where(last_valid(mask_BK), outcome_B[:, None], 0.0)


def _state_keys(args: Any, experiences: Experiences, width: int) -> torch.Tensor:
    """(B, K) int64: equal where turns begin behind equal observations, or histories."""
    rows = [
        anchor_keys(tokens, spans, whole=args.algo.advantage.anchor == "history")
        for e in experiences
        for tokens, spans in zip(e.sequences.numpy(), spans_from_turn_numbers(e.turn_numbers), strict=True)
    ]
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)


def stack(parts: Sequence[torch.Tensor], fill: float, width: int | None = None) -> torch.Tensor:
    """Micro-batches one under the other, right-padded to one width."""
    width = width or max(p.shape[1] for p in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1]), value=fill) for p in parts])
