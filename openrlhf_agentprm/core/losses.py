"""Losses of process reward models. Legend: B episodes, K turns. Masks are bool; masked places may hold anything."""

from __future__ import annotations

import torch

from . import checks
from .scan import ValidEntries


def agent_prm_loss(
    q_BK: torch.Tensor,
    targets_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    *,
    beta: float = 1.0,
    reduce: str = "turns",
    num_turns: float | torch.Tensor | None = None,
    num_pairs: float | torch.Tensor | None = None,
    num_episodes: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Promise and progress, regressed together (Xi et al., arXiv 2511.08325, Algorithm 1, with its ½).

        e_t = Q_t − Q̂_t
        L   = ½ mean_t e_t²  +  β ½ mean_pairs (e_t − e_{t−1})²

    Pairs are consecutive valid turns of one episode, because (Q_t − Q_{t−1}) − (Q̂_t − Q̂_{t−1}) = e_t − e_{t−1}. Without a pair the
    second term is 0. Gradient flows through `q_BK` only.

    Args:
        q_BK: scores, float32 or float64.
        targets_BK: Q̂_t.
        mask_BK: bool, True = a labelled turn.
        beta: weight β of the progress term; 1.0 in the paper.
        reduce: "turns": means over all turns and all pairs. "episodes": the mean over episodes of each one's two means, so that a long
            failure weighs no more than a short success.
        num_turns, num_pairs: counts over all micro-batches and ranks that replace the local denominators ("turns").
        num_episodes: the same for "episodes".

    Returns:
        A scalar; 0 (with a gradient of 0) where nothing is labelled.
    """
    checks.same_layout(mask_BK, q_BK=q_BK, targets_BK=targets_BK)
    _check_reduction(reduce, num_turns, num_pairs, num_episodes)
    valid = ValidEntries(mask_BK)
    error_BN = valid.gather(q_BK) - valid.gather(targets_BK).detach()
    pair_BN = valid.mask_BN[:, 1:]
    step_BN = torch.where(pair_BN, error_BN[:, 1:] - error_BN[:, :-1], 0.0)
    if reduce == "turns":
        promise = _mean(error_BN.square().sum(), valid.mask_BN.sum(), num_turns)
        return 0.5 * promise + 0.5 * beta * _mean(step_BN.square().sum(), pair_BN.sum(), num_pairs)
    promise_B = error_BN.square().sum(1) / valid.counts_B.clamp(min=1)
    progress_B = step_BN.square().sum(1) / (valid.counts_B - 1).clamp(min=1)
    return _mean((0.5 * promise_B + 0.5 * beta * progress_B).sum(), (valid.counts_B > 0).sum(), num_episodes)


def value_loss(
    v_BK: torch.Tensor,
    targets_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    *,
    reduce: str = "turns",
    num_turns: float | torch.Tensor | None = None,
    num_episodes: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """L_V = ½ mean_t (V_t − Q̂_t)² at the last token before every action, no gradient through Q̂.

    The paper's loss trains V nowhere, though progress at the first turn and every use as a value function read it; this term is ours.

    Args and Returns: as `agent_prm_loss`.
    """
    return agent_prm_loss(v_BK, targets_BK, mask_BK, beta=0.0, reduce=reduce, num_turns=num_turns, num_episodes=num_episodes)


def _mean(total: torch.Tensor, local_count: torch.Tensor, count: float | torch.Tensor | None) -> torch.Tensor:
    if count is None:
        return total / local_count.clamp(min=1)
    return total / max(count, 1e-30) if not isinstance(count, torch.Tensor) else total / count.clamp(min=1e-30)


def _check_reduction(reduce: str, num_turns: object, num_pairs: object, num_episodes: object) -> None:
    if reduce not in ("turns", "episodes"):
        raise ValueError(f"reduce is {reduce!r}; wanted 'turns' or 'episodes'")
    if reduce == "episodes" and (num_turns is not None or num_pairs is not None):
        raise ValueError("reduce='episodes' divides by episodes; give num_episodes, not num_turns or num_pairs")
    if reduce == "turns" and num_episodes is not None:
        raise ValueError("reduce='turns' divides by turns and pairs; give num_turns and num_pairs, not num_episodes")
