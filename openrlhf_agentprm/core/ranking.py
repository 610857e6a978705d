"""Losses that order scores and do not say how high they are. Legend: B episodes, K turns, P pairs. Masks are bool."""

from __future__ import annotations

import torch

from . import checks
from .scan import ValidEntries

_NOTHING = -1e30  # a logit that counts as no entry, and whose gradient is 0 where −∞ would make it NaN


def pqm_loss(
    q_BK: torch.Tensor,
    right_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    *,
    zeta: float = 4.0,
    num_episodes: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Q-value ranking over one episode's right and wrong turns (PQM, Li and Li, arXiv 2410.11287, Eq 10).

        L = −(1/|C|) Σ_{t∈C} log( e^{Q_t} / (Σ_{q∈C, q≤t} e^{Q_q} + Σ_{w∈W} e^{Q_w + ζ}) ),   Q_0 = 0

    C: the start of the episode, whose score is 0, and its right turns in their order, which are to ascend. W: its wrong turns, which are to stay
    ζ below all of these. The start counts in |C| only where there is a wrong turn; without one its term is log 1. Averaged over the episodes
    with a term. Right turns behind a wrong one are ranked like the others, as in the authors' code.

    Args:
        q_BK: Q_t, float32 or float64: any real number.
        right_BK: bool, the turn is right.
        mask_BK: bool, True = a turn with a label.
        zeta: ζ; the authors' two settings are 2 and 4, and 4 is their code's default.
        num_episodes: count over micro-batches and ranks that replaces the local one.

    Returns:
        A scalar; 0 (with a gradient of 0) without an episode that has a term.
    """
    checks.same_layout(mask_BK, q_BK=q_BK)
    checks.bool_mask("right_BK", right_BK)
    if right_BK.shape != mask_BK.shape:
        raise ValueError(f"right_BK has shape {tuple(right_BK.shape)}; wanted {tuple(mask_BK.shape)}, as mask_BK")
    valid = ValidEntries(mask_BK)
    q_BN, right_BN = valid.gather(q_BK), valid.gather(right_BK.to(q_BK.dtype)) > 0
    wrong_BN = valid.mask_BN & ~right_BN
    starts_B1 = wrong_BN.any(1, keepdim=True)
    wrong_B1 = torch.where(wrong_BN, q_BN + zeta, _NOTHING).logsumexp(1, keepdim=True)
    q_BC = torch.nn.functional.pad(q_BN, (1, 0))  # the start before the turns
    in_chain_BC = torch.nn.functional.pad(right_BN, (1, 0), value=True)
    chain_BC = torch.where(in_chain_BC, q_BC, _NOTHING)
    earlier_CC = torch.ones(q_BC.shape[1], q_BC.shape[1], dtype=torch.bool, device=q_BC.device).tril()
    before_BC = torch.where(earlier_CC, chain_BC[:, None, :], _NOTHING).logsumexp(2)
    terms_BC = torch.logaddexp(before_BC, wrong_B1) - q_BC
    counted_BC = torch.cat([starts_B1, right_BN], dim=1)
    sums_B = torch.where(counted_BC, terms_BC, 0.0).sum(1)
    each_B = sums_B / counted_BC.sum(1).clamp(min=1)
    return _over(each_B.sum(), counted_BC.any(1).sum(), num_episodes)


def preference_loss(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    *,
    margins_P: torch.Tensor | None = None,
    weights_P: torch.Tensor | None = None,
    margin_coef: float = 0.0,
    total_weight: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """The better of two scores higher: the Bradley-Terry likelihood (Choudhury, arXiv 2502.10325, its preference PRM).

        L = Σ_p w_p [ −log σ( f⁺_p − f⁻_p − κ m_p ) ] / Σ_p w_p

    κ > 0 asks for a distance in proportion to the pair's margin (Llama 2, arXiv 2307.09288, Eq 2); 0 is the loss of the paper above.

    Args:
        chosen_P, rejected_P: scores f⁺ and f⁻, float32 or float64.
        margins_P: m_p; read where κ is not 0.
        weights_P: w_p ≥ 0, 1 if None. A pair of weight 0 is not read.
        margin_coef: κ.
        total_weight: Σ w over micro-batches and ranks that replaces the local one.

    Returns:
        A scalar; 0 without a pair.
    """
    if chosen_P.shape != rejected_P.shape or chosen_P.dim() != 1:
        raise ValueError(f"chosen_P has shape {tuple(chosen_P.shape)} and rejected_P {tuple(rejected_P.shape)}; wanted (P,) both")
    checks.floating("chosen_P", chosen_P)
    checks.floating("rejected_P", rejected_P)
    w_P = torch.ones_like(chosen_P) if weights_P is None else weights_P.to(chosen_P.dtype)
    distance_P = chosen_P - rejected_P
    if margin_coef:
        if margins_P is None:
            raise ValueError(f"margin_coef is {margin_coef}, but margins_P is None")
        distance_P = distance_P - margin_coef * margins_P.to(chosen_P.dtype)
    counts_P = w_P > 0
    each_P = torch.nn.functional.softplus(-torch.where(counts_P, distance_P, 0.0))
    return _over(torch.where(counts_P, w_P * each_P, 0.0).sum(), w_P.sum(), total_weight)


def _over(total: torch.Tensor, local: torch.Tensor, given: float | torch.Tensor | None) -> torch.Tensor:
    count = torch.as_tensor(local if given is None else given, device=total.device, dtype=total.dtype)
    return total / torch.where(count > 0, count, 1.0)
