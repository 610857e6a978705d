"""Losses of process reward models. Legend: B episodes, K turns. Masks are bool; masked places may hold anything."""

from __future__ import annotations

from typing import Any

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
    weights_BK: torch.Tensor | None = None,
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
        weights_BK: w_t ≥ 0 of each turn, 1 if None: means become Σ w e² / Σ w, and a pair weighs √(w_t w_{t−1}). Counts are then sums of weights.

    Returns:
        A scalar; 0 (with a gradient of 0) where nothing is labelled.
    """
    checks.same_layout(mask_BK, q_BK=q_BK, targets_BK=targets_BK)
    _check_reduction(reduce, num_turns, num_pairs, num_episodes)
    valid = ValidEntries(mask_BK)
    w_BN, pair_w_BN = _weights(valid, weights_BK, q_BK)
    error_BN = valid.gather(q_BK) - valid.gather(targets_BK).detach()
    promise_BN = w_BN * error_BN.square()
    progress_BN = pair_w_BN * (error_BN[:, 1:] - error_BN[:, :-1]).square()
    if reduce == "turns":
        return 0.5 * _mean(promise_BN.sum(), w_BN.sum(), num_turns) + 0.5 * beta * _mean(progress_BN.sum(), pair_w_BN.sum(), num_pairs)
    each_B = 0.5 * _row_means(promise_BN, w_BN) + 0.5 * beta * _row_means(progress_BN, pair_w_BN)
    return _mean(each_B.sum(), (w_BN.sum(1) > 0).sum(), num_episodes)


def soft_bce_loss(
    logits_BK: torch.Tensor,
    targets_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    *,
    beta: float = 0.0,
    reduce: str = "turns",
    num_turns: float | torch.Tensor | None = None,
    num_pairs: float | torch.Tensor | None = None,
    num_episodes: float | torch.Tensor | None = None,
    weights_BK: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy against targets that need not be 0 or 1, for scores Q = σ(z) (Choudhury, arXiv 2502.10325, stage 2).

        L = mean_t [ −Q̂_t log σ(z_t) − (1 − Q̂_t) log(1 − σ(z_t)) ]  +  β ½ mean_pairs (e_t − e_{t−1})²,   e_t = σ(z_t) − Q̂_t

    The second term is `agent_prm_loss`'s, of the probabilities.

    Args:
        logits_BK: z, the head's output.
        targets_BK: Q̂_t in [0, 1]; no gradient flows through it.
        beta, reduce, num_turns, num_pairs, num_episodes, weights_BK: as in `agent_prm_loss`.

    Raises:
        ValueError: a target outside [0, 1] at a valid turn.
    """
    checks.same_layout(mask_BK, logits_BK=logits_BK, targets_BK=targets_BK)
    _check_reduction(reduce, num_turns, num_pairs, num_episodes)
    valid = ValidEntries(mask_BK)
    z_BN, y_BN = valid.gather(logits_BK), valid.gather(targets_BK).detach()
    if bool(((y_BN < -1e-4) | (y_BN > 1 + 1e-4)).any()):
        raise ValueError(f"targets_BK spans [{float(y_BN.min()):g}, {float(y_BN.max()):g}]; a cross-entropy wants targets in [0, 1]")
    y_BN = y_BN.clamp(0, 1)  # λ-returns are sums, and end a rounding beside 1
    each_BN = torch.nn.functional.binary_cross_entropy_with_logits(z_BN, y_BN, reduction="none")
    w_BN, _ = _weights(valid, weights_BK, logits_BK)
    each_BN = w_BN * each_BN
    if reduce == "turns":
        total = _mean(each_BN.sum(), w_BN.sum(), num_turns)
    else:
        total = _mean(_row_means(each_BN, w_BN).sum(), (w_BN.sum(1) > 0).sum(), num_episodes)
    if beta:
        counts: dict[str, Any] = {"num_turns": num_turns, "num_pairs": num_pairs, "num_episodes": num_episodes, "weights_BK": weights_BK}
        q_BK = logits_BK.sigmoid()
        both, promise = (agent_prm_loss(q_BK, targets_BK, mask_BK, beta=b, reduce=reduce, **counts) for b in (beta, 0.0))
        total = total + both - promise
    return total


def contribution_loss(
    c_BK: torch.Tensor, outcome_B: torch.Tensor, mask_BK: torch.Tensor, *, num_episodes: float | torch.Tensor | None = None
) -> torch.Tensor:
    """Contributions of turns that sum to the outcome (SPA, Wang et al., arXiv 2505.20732).

        L = mean over episodes of (Σ_t c_t − R)²

    Args:
        c_BK: c_t, float32 or float64.
        outcome_B: R; no gradient flows through it.
        mask_BK: bool, True = a turn.
        num_episodes: count over micro-batches and ranks that replaces the local one.

    Returns:
        A scalar; an episode without a turn does not count.
    """
    checks.same_layout(mask_BK, c_BK=c_BK)
    checks.per_episode("outcome_B", outcome_B, c_BK)
    some_B = mask_BK.any(1)
    total_B = torch.where(mask_BK, c_BK, 0.0).sum(1)
    errors_B = torch.where(some_B, total_B - outcome_B.detach(), 0.0)
    return _mean(errors_B.square().sum(), some_B.sum(), num_episodes)


def turn_counts(mask_BK: torch.Tensor, weights_BK: torch.Tensor | None = None) -> torch.Tensor:
    """(turns, pairs, episodes) of a micro-batch, as the losses count them: sums of weights, and episodes that have any."""
    valid = ValidEntries(mask_BK)
    w_BN, pair_w_BN = _weights(valid, weights_BK, torch.zeros(mask_BK.shape, device=mask_BK.device))
    return torch.stack([w_BN.sum(), pair_w_BN.sum(), (w_BN.sum(1) > 0).sum().to(w_BN.dtype)])


def _weights(valid: ValidEntries, weights_BK: torch.Tensor | None, like_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of turns (B, N) and of pairs (B, N − 1), 0 behind the last turn."""
    if weights_BK is None:
        w_BN = valid.mask_BN.to(like_BK.dtype)
    else:
        checks.same_layout(valid.mask_BT, weights_BK=weights_BK)
        w_BN = valid.gather(weights_BK).to(like_BK.dtype)
    return w_BN, (w_BN[:, 1:] * w_BN[:, :-1]).sqrt()


def _row_means(weighted_BN: torch.Tensor, w_BN: torch.Tensor) -> torch.Tensor:
    sums_B = w_BN.sum(1)
    return torch.where(sums_B > 0, weighted_BN.sum(1) / sums_B.clamp(min=1e-30), 0.0)


def _mean(total: torch.Tensor, local_count: torch.Tensor, count: float | torch.Tensor | None) -> torch.Tensor:
    if count is None:
        return total / torch.where(local_count > 0, local_count, 1.0)
    return total / max(count, 1e-30) if not isinstance(count, torch.Tensor) else total / count.clamp(min=1e-30)


def _check_reduction(reduce: str, num_turns: object, num_pairs: object, num_episodes: object) -> None:
    if reduce not in ("turns", "episodes"):
        raise ValueError(f"reduce is {reduce!r}; wanted 'turns' or 'episodes'")
    if reduce == "episodes" and (num_turns is not None or num_pairs is not None):
        raise ValueError("reduce='episodes' divides by episodes; give num_episodes, not num_turns or num_pairs")
    if reduce == "turns" and num_episodes is not None:
        raise ValueError("reduce='turns' divides by turns and pairs; give num_turns and num_pairs, not num_episodes")
