"""What the host's loggers get each step about turns, besides what the estimator reports. Legend: B episodes, K turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core import metrics
from ..core.batches import TurnBatch
from ..core.scan import last_valid
from .samples import BROKEN, Ending


def turn_metrics(batch: TurnBatch, ending_B: torch.Tensor) -> dict[str, float]:
    """Episodes by status, turns, outcome, and the PRM's promise and progress by turn with their correlation with the outcome.

    Args:
        ending_B: how each episode ended, by `Ending`.
    """
    valid_B = ~torch.isin(ending_B, BROKEN)
    turns_B = batch.mask_BK.sum(1).float()
    found = {f"status/{e.name.lower()}": float((ending_B == e).sum()) for e in Ending if bool((ending_B == e).any())}
    if not bool(valid_B.any()):
        return found
    found["turns/per_episode"] = float(turns_B[valid_B].mean())
    assert batch.outcome_B is not None
    found["turns/outcome_mean"] = float(batch.outcome_B[valid_B].mean())
    if batch.q_BK is not None and batch.v_BK is not None:
        found |= _score_metrics(batch, valid_B)
    return found


def part_metrics(batch: TurnBatch, ending_B: torch.Tensor, parts: Sequence[str]) -> dict[str, float]:
    """Of a mixture, by part: episodes that came to an end, and their mean outcome, turns and share of valid actions.

    Args:
        parts: whose task each episode is.
    """
    assert batch.outcome_B is not None and batch.valid_BK is not None
    valid_B = ~torch.isin(ending_B, BROKEN)
    turns_B, valid_actions_B = batch.mask_BK.sum(1).float(), (batch.valid_BK & batch.mask_BK).sum(1)
    found = {}
    for part in sorted(set(parts)):
        of_part_B = valid_B & torch.tensor([name == part for name in parts])
        found[f"env/{part}/episodes"] = float(of_part_B.sum())
        if bool(of_part_B.any()):
            turns = float(turns_B[of_part_B].sum())
            found[f"env/{part}/outcome_mean"] = float(batch.outcome_B[of_part_B].mean())
            found[f"env/{part}/turns"] = turns / found[f"env/{part}/episodes"]
            found[f"env/{part}/valid_actions"] = float(valid_actions_B[of_part_B].sum()) / max(1.0, turns)
    return found


def _score_metrics(batch: TurnBatch, valid_B: torch.Tensor) -> dict[str, float]:
    q_BK, mask_BK = batch.q_BK, batch.mask_BK
    assert q_BK is not None and batch.v_BK is not None and batch.outcome_B is not None
    progress_BK = q_BK - batch.v_BK
    found = {
        "prm/promise_mean": float(q_BK[mask_BK].mean()),
        "prm/progress_mean": float(progress_BK[mask_BK].mean()),
        "prm/progress_std": float(progress_BK[mask_BK].std()) if int(mask_BK.sum()) > 1 else 0.0,
    }
    for k in range(mask_BK.shape[1]):
        if bool(mask_BK[:, k].any()):
            found[f"prm/promise_turn{k + 1}"] = float(q_BK[mask_BK[:, k], k].mean())
            found[f"prm/progress_turn{k + 1}"] = float(progress_BK[mask_BK[:, k], k].mean())
    last_B = torch.where(last_valid(mask_BK), q_BK, 0.0).sum(1)
    correlation = metrics.pearson(last_B[valid_B], batch.outcome_B[valid_B])
    if correlation == correlation:
        found["prm/outcome_correlation"] = correlation
    return found


def entropy_metric(experiences: Sequence[Any]) -> dict[str, float]:
    """−mean log π(a) over the rollout's action tokens, in nats: an unbiased estimate of the entropy H = E_a[−log π(a)] that they were sampled at.

    It costs nothing, as the host has these log-probabilities; its own `entropy_loss` sums over the vocabulary.
    """
    parts = [e.action_log_probs[e.action_mask.bool()].float() for e in experiences]
    logprob_N = torch.cat(parts)
    return {"turns/entropy": -float(logprob_N.mean())} if len(logprob_N) else {}


def version_metrics(experiences: Sequence[Any]) -> dict[str, float]:
    """The oldest and the newest policy version that sampled a turn, and the share of turns that more than one sampled; nothing where none is told."""
    began_N, ended_N = (torch.cat([getattr(e, name).flatten() for e in experiences]) for name in ("turn_began", "turn_ended"))
    told_N = began_N > 0
    if not bool(told_N.any()):
        return {}
    began_N, ended_N = began_N[told_N], ended_N[told_N]
    mixed = float((began_N != ended_N).float().mean())
    return {
        "turns/policy_version_first": float(began_N.min()) - 1,
        "turns/policy_version_last": float(ended_N.max()) - 1,
        "turns/mixed_versions": mixed,
    }
