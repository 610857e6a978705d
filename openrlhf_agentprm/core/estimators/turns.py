"""A turn's advantage by what it alone changed, with nothing added up behind it. Legend: B episodes, K turns, T predicting positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from .. import advantages as adv
from .. import process_rewards
from ..batches import TurnAdvantages, TurnBatch, needed
from ..groups import relative_outcome
from ..process_rewards import Shaping, returns_to_go
from .shared import choice, estimator, mean_paid, sum_by_turn


def _needs_of_progress(options: Mapping[str, Any]) -> Collection[str]:
    return {"prm"} | ({"groups"} if options["outcome_weight"] or options["bound"] == "par" else set())


@estimator(_needs_of_progress)
def progress(batch: TurnBatch, *, outcome_weight: float = 0.0, kl_coef: float, shaping: Shaping) -> TurnAdvantages:
    """A_k = Q_k − V_k from the PRM alone, or added to w·(r − the group's mean r).

    Alone it is easily gamed: the policy finds turns that the PRM likes and never finishes. It is here for that comparison.
    """
    a_BK = shaping(process_rewards.of_scores(batch, "progress"), batch)
    metrics = mean_paid(a_BK, batch.mask_BK)
    if outcome_weight:
        a_BK = a_BK + outcome_weight * _centred(batch)[:, None]
    return _of_turns(batch, a_BK, metrics, kl_coef)


def _needs_of_pav(options: Mapping[str, Any]) -> Collection[str]:
    return {"prm"} | ({"groups"} if options["base"] == "outcome" or options["bound"] == "par" else set())


@estimator(_needs_of_pav)
def pav(
    batch: TurnBatch,
    *,
    alpha: float = 3.0,
    base: str = "outcome",
    best_of: int | None = None,
    outcome_weight: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """Effective reward Q^π + α A^μ: how good the outcome was, and what the turn changed for a prover μ ≠ π (PAV, arXiv 2410.08146, Eq 5).

        A_k = w (r − the group's mean r) + α (Q^μ_k − V^μ_k)       base="outcome": Q^π is the sampled outcome
        A_k = w (Q_k − V_k)              + α (Q^μ_k − V^μ_k)       base="prm": the policy's own PRM

    Args:
        alpha: α; 3 to 5 in the paper's runs.
        best_of: K of a prover that takes the best of K tries, Q^μ = 1 − (1 − Q)^K and V^μ likewise. By default 4 over the policy's own PRM, and
            1 where another PRM judges for the prover: the prover's own scores.
    """
    choice("base", base, ("outcome", "prm"))
    effort_BK = shaping(prover_progress(batch, best_of), batch)
    base_BK = _centred(batch)[:, None] if base == "outcome" else process_rewards.of_scores(batch, "progress")
    return _of_turns(batch, outcome_weight * base_BK + alpha * effort_BK, mean_paid(effort_BK, batch.mask_BK), kl_coef)


def prover_progress(batch: TurnBatch, best_of: int | None) -> torch.Tensor:
    """Q^μ − V^μ as `pav` reads it."""
    q_BK, v_BK, tries = batch.prover_q_BK, batch.prover_v_BK, 1
    if q_BK is None or v_BK is None:
        q_BK, v_BK, tries = needed(batch.q_BK, "q_BK"), needed(batch.v_BK, "v_BK"), 4
    tries = best_of or tries
    if tries > 1:
        q_BK, v_BK = process_rewards.best_of(q_BK.float(), tries), process_rewards.best_of(v_BK.float(), tries)
    return adv.progress(q_BK.float(), v_BK.float(), batch.mask_BK)


@estimator(("groups", "states"))
def gigpo(
    batch: TurnBatch,
    *,
    step_weight: float = 1.0,
    divide_by_std: bool = True,
    gamma: float = 1.0,
    process_reward: str = "none",
    process_weight: float = 1.0,
    process_options: Mapping[str, Any] | None = None,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """Groups within groups: episodes beside the prompt's others, turns beside those that begin in the same state (GiGPO, arXiv 2505.10978, Eq 3-8).

        A^E = (r − mean r) / F over the prompt's samples
        A^S_k = (R_k − mean R) / F over the turns of the prompt's samples at one anchor state, R_k = Σ_{j≥k} γ^{j−k} (r_j + w p_j)
        A_k = A^E + ω A^S_k,   F = the unbiased standard deviation, or 1

    A state that only one turn begins in says nothing: A^S = 0 there.

    Args:
        step_weight: ω.
        divide_by_std: False is the paper's F = 1.
        gamma: γ of turns; 0.95 in the paper.
    """
    baseline = "group_norm" if divide_by_std else "reinforce_baseline"
    outcome_B, group_B = needed(batch.outcome_B, "outcome_B").float(), needed(batch.group_B, "group_B")
    kept_B = batch.mask_BK.any(1)
    # In float64, where the mean of equal outcomes is the outcome: a rounding error divided by its own spread would be an advantage.
    episode_B = relative_outcome(outcome_B.double(), kept_B, group_B, batch.sample_B, baseline).float()
    rewards_BK, metrics = torch.where(batch.mask_BK, batch.rewards_BK, 0.0).float(), {}
    if process_reward != "none":
        p_BK = shaping(process_rewards.of_scores(batch, process_reward, gamma=gamma, **(process_options or {})), batch)
        rewards_BK, metrics = rewards_BK + process_weight * p_BK, mean_paid(p_BK, batch.mask_BK)
    step_BK, shared = _within_states(returns_to_go(rewards_BK, batch.mask_BK, gamma), batch, divide_by_std)
    a_BK = episode_B[:, None] + step_weight * step_BK
    return _of_turns(batch, a_BK, metrics | {"turns/shared_states": shared}, kl_coef)


def _within_states(g_BK: torch.Tensor, batch: TurnBatch, divide_by_std: bool) -> tuple[torch.Tensor, float]:
    """G less its state's mean, divided by the state's std or not; and the share of turns whose state another turn begins in too."""
    mask_BK, key_BK = batch.mask_BK, needed(batch.state_key_BK, "state_key_BK")
    group_BK = needed(batch.group_B, "group_B")[:, None].expand_as(key_BK)
    _, at_N = torch.stack([group_BK[mask_BK], key_BK[mask_BK]], 1).unique(dim=0, return_inverse=True)
    g_N = g_BK[mask_BK].double()
    count_S = at_N.bincount().double()
    mean_S = torch.zeros_like(count_S).index_add(0, at_N, g_N) / count_S
    deviation_N = g_N - mean_S[at_N]
    if divide_by_std:
        variance_S = torch.zeros_like(count_S).index_add(0, at_N, deviation_N.square()) / (count_S - 1).clamp(min=1)
        deviation_N = deviation_N / (variance_S.sqrt()[at_N] + 1e-6)
    shared = float((count_S[at_N] > 1).double().mean()) if len(at_N) else 0.0
    return torch.zeros_like(g_BK).masked_scatter(mask_BK, deviation_N.to(g_BK.dtype)), shared


def _centred(batch: TurnBatch) -> torch.Tensor:
    """(B,) outcome less the mean of its group, over episodes that have a turn."""
    outcome_B, group_B = needed(batch.outcome_B, "outcome_B").float(), needed(batch.group_B, "group_B")
    return relative_outcome(outcome_B, batch.mask_BK.any(1), group_B, batch.sample_B, "reinforce_baseline")


def _of_turns(batch: TurnBatch, a_BK: torch.Tensor, metrics: dict[str, float], kl_coef: float) -> TurnAdvantages:
    """With KL in the reward, a turn is charged for its own tokens."""
    if kl_coef:
        a_BK = a_BK - kl_coef * sum_by_turn(needed(batch.kl_BT, "kl_BT"), batch.turn_ids_BT, batch.mask_BK)
    a_BT = adv.spread_turns(torch.where(batch.mask_BK, a_BK, 0.0), batch.turn_ids_BT)
    return TurnAdvantages(a_BT, torch.zeros_like(a_BT), metrics)
