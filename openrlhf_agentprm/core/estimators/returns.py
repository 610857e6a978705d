"""Process rewards added up to the end of the episode, beside an outcome compared within its group; no critic.

Legend: B episodes, K turns, T predicting positions. With G_k = Σ_{j≥k} γ^{j−k} p_j and every other sample i of the prompt:

    A_k = w_o (r − mean_i r_i) + w_p (G_k − mean_i mean_k G_ik) − β Σ of kl from the token on

The baseline of G is a mean over other samples' turns, never over those with the same index, so it depends on no action of this episode.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from .. import advantages as adv
from .. import process_rewards
from ..batches import TurnAdvantages, TurnBatch, needed
from ..process_rewards import Shaping, returns_to_go
from .outcome import less_baseline, outcome_to_go, relative
from .shared import choice, estimator, mean_paid

OF = ("promise", "progress")


@estimator(("prm", "groups"))
def promise(
    batch: TurnBatch,
    *,
    gamma: float = 1.0,
    outcome_weight: float = 0.0,
    process_weight: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """p_k = Q_k, added up. More turns pay more, whatever they do: the form that is gamed first, here for the comparison."""
    p_BK = process_rewards.of_scores(batch, "promise")
    return _added_up(batch, p_BK, gamma, outcome_weight, process_weight, kl_coef, shaping)


@estimator(("prm", "groups"))
def clip(
    batch: TurnBatch,
    *,
    eta: float = 0.5,
    gamma: float = 1.0,
    outcome_weight: float = 1.0,
    process_weight: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """p_k = min(Q_k − η, 0), added up (Clip, arXiv 2410.15115)."""
    p_BK = process_rewards.of_scores(batch, "clip", eta=eta)
    return _added_up(batch, p_BK, gamma, outcome_weight, process_weight, kl_coef, shaping)


@estimator(("prm", "groups"))
def delta(
    batch: TurnBatch,
    *,
    gamma: float = 1.0,
    outcome_weight: float = 1.0,
    process_weight: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """p_k = Q_k − Q_{k+1}, added up to Q_k itself at γ = 1 (Delta, arXiv 2410.15115)."""
    p_BK = process_rewards.of_scores(batch, "delta")
    return _added_up(batch, p_BK, gamma, outcome_weight, process_weight, kl_coef, shaping)


@estimator(("prm", "groups"))
def clip_delta(
    batch: TurnBatch,
    *,
    eta: float = 0.5,
    gamma: float = 1.0,
    outcome_weight: float = 1.0,
    process_weight: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """Clip, then Delta: the return from a turn on is min(Q_k − η, 0) at γ = 1 (arXiv 2410.15115)."""
    p_BK = process_rewards.of_scores(batch, "clip_delta", eta=eta)
    return _added_up(batch, p_BK, gamma, outcome_weight, process_weight, kl_coef, shaping)


@estimator(("prm", "groups"))
def min_form(
    batch: TurnBatch,
    *,
    of: str = "promise",
    temperature: float = 0.1,
    strict: bool = False,
    gamma: float = 1.0,
    outcome_weight: float = 1.0,
    process_weight: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """The return of a turn is the lowest process reward to come, not the sum (PURE, arXiv 2504.15275).

        p*_k = softmax(−p/τ)_k p_k over the episode's turns, G_k = Σ_{j≥k} γ^{j−k} p*_j;   strict: G_k = min_{j≥k} p_j

    So the range of a return is that of a score, however many turns there are.

    Args:
        of: p is the "promise" Q, or the "progress" Q − V.
        temperature: τ.
    """
    choice("of", of, OF)
    p_BK = shaping(process_rewards.of_scores(batch, of), batch)
    if strict:
        g_BK = process_rewards.future_min(p_BK, batch.mask_BK)
    else:
        g_BK = returns_to_go(process_rewards.min_form(p_BK, batch.mask_BK, temperature=temperature), batch.mask_BK, gamma)
    return _together(batch, g_BK, mean_paid(p_BK, batch.mask_BK), outcome_weight, process_weight, kl_coef)


def _needs_of_spa(options: Mapping[str, Any]) -> Collection[str]:
    return {"prm", "groups"} | ({"valid"} if options["grounding_weight"] else set())


@estimator(_needs_of_spa)
def spa(
    batch: TurnBatch,
    *,
    grounding_weight: float = 0.0,
    gamma: float = 1.0,
    outcome_weight: float = 0.0,
    process_weight: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """p_k = c_k + b·1[the action was valid], added up: contributions that share the outcome out (SPA-RL, arXiv 2505.20732).

    With a PRM of kind `spa` c_k = Q_k − V_k is the turn's contribution, and all of an episode's sum to its estimated outcome, so the outcome itself
    is left out unless it is given a weight.

    Args:
        grounding_weight: b, the bonus of an action that the environment carried out.
    """
    p_BK = process_rewards.of_scores(batch, "spa")
    if grounding_weight:
        p_BK = p_BK + grounding_weight * (needed(batch.valid_BK, "valid_BK") & batch.mask_BK).float()
    return _added_up(batch, p_BK, gamma, outcome_weight, process_weight, kl_coef, shaping)


@estimator(("prm", "groups"))
def potential(batch: TurnBatch, *, gamma: float = 1.0, process_weight: float = 1.0, kl_coef: float) -> TurnAdvantages:
    """Rewards r_k + w (γΦ(s_{k+1}) − Φ(s_k)) added up, Φ = V of the PRM and 0 at the end (Ng, Harada & Russell, ICML 1999).

    The sum telescopes: A_k = Σ_{j≥k} γ^{j−k} r_j − w V_k, less the mean of other samples' turns. So the optimal policy is what it is without the
    PRM, and with w = 1 the PRM is a baseline.
    """
    f_BK = process_rewards.of_scores(batch, "potential", gamma=gamma)
    rewards_BK = torch.where(batch.mask_BK, batch.rewards_BK, 0.0).float() + process_weight * f_BK
    g_BK = returns_to_go(rewards_BK, batch.mask_BK, gamma)
    return _together(batch, g_BK, mean_paid(f_BK, batch.mask_BK), 0.0, 1.0, kl_coef)


# --- what they share ---


def _added_up(
    batch: TurnBatch, p_BK: torch.Tensor, gamma: float, outcome_weight: float, process_weight: float, kl_coef: float, shaping: Shaping
) -> TurnAdvantages:
    p_BK = shaping(p_BK, batch)
    g_BK = returns_to_go(p_BK, batch.mask_BK, gamma)
    return _together(batch, g_BK, mean_paid(p_BK, batch.mask_BK), outcome_weight, process_weight, kl_coef)


def _together(
    batch: TurnBatch, g_BK: torch.Tensor, metrics: dict[str, float], outcome_weight: float, process_weight: float, kl_coef: float
) -> TurnAdvantages:
    outcome_B = outcome_weight * relative(batch, "rloo") if outcome_weight else batch.mask_BK.new_zeros(len(batch.mask_BK)).float()
    a_BT = outcome_to_go(batch, outcome_B, kl_coef)
    a_BT = a_BT + process_weight * adv.spread_turns(less_baseline(g_BK, batch), batch.turn_ids_BT)
    return TurnAdvantages(a_BT, torch.zeros_like(a_BT), metrics)
