"""Generalised advantage estimation: over turns, over tokens, and over both. Legend: B episodes, K turns, T predicting positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .. import advantages as adv
from .. import process_rewards
from ..batches import TurnAdvantages, TurnBatch, needed
from ..process_rewards import Shaping
from ..scan import last_valid
from .shared import choice, estimator, explained, first_of_turn, last_of_turn, mean_paid, sum_by_turn

VALUES = ("critic", "prm")


def _needs(options: Mapping[str, Any]) -> set[str]:
    found = {"critic" if options.get("values", "critic") == "critic" else "prm"}
    if options["process_reward"] != "none":
        found.add("prm")
    return found | ({"groups"} if options["bound"] == "par" else set())


@estimator(_needs)
def turn_gae(
    batch: TurnBatch,
    *,
    gamma: float = 1.0,
    lambd: float = 0.95,
    values: str = "critic",
    bootstrap: bool = False,
    process_reward: str = "none",
    process_weight: float = 1.0,
    process_options: Mapping[str, Any] | None = None,
    force: bool = False,
    value_positions: str = "turn_start",
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """GAE over turns, each turn's advantage spread over its action tokens.

        δ_k = r_k + w p_k − β Σ_{t in turn k} kl_t + γ V_{k+1} − V_k,   A_k = δ_k + γλ A_{k+1}

    V(s_k) is the critic's value at the position that predicts the turn's first token, or the PRM's V; p_k is the process reward.

    Args:
        values: "critic" or "prm".
        bootstrap: V behind an episode that a limit cut is the PRM's Q of its last turn, in place of 0; with values="prm" only.
        process_reward: "none" or one of `process_rewards.KINDS`, with `process_options` of its own.
        force: allow `progress` with PRM values, which counts it twice: at γ = 1 and r = 0, δ_k = (1 + w)·progress_k.
        value_positions: where a critic's loss counts: "turn_start", or "all" action tokens with the turn's return as target.

    Raises:
        ValueError: an option out of its choices, or progress counted twice without `force`.
    """
    choice("values", values, VALUES)
    choice("value_positions", value_positions, ("turn_start", "all"))
    if values == "prm" and process_reward in ("progress", "spa", "potential") and not force:
        raise ValueError(
            f"values from the PRM and {process_reward} as a reward count progress twice (δ = (1 + w)·progress at γ = 1); "
            "take values='critic', process_reward='none', or force"
        )
    if bootstrap and values == "critic":
        raise ValueError("bootstrap needs values='prm': a critic reads no state behind the last turn")
    starts_BT = first_of_turn(batch.turn_ids_BT)
    if values == "critic":
        v_BK = sum_by_turn(needed(batch.values_BT, "values_BT"), batch.turn_ids_BT, batch.mask_BK, where_BT=starts_BT)
    else:
        v_BK = needed(batch.v_BK, "v_BK")
    rewards_BK, metrics = _turn_rewards(batch, process_reward, process_weight, process_options, gamma, shaping)
    if kl_coef:
        rewards_BK = rewards_BK - kl_coef * sum_by_turn(needed(batch.kl_BT, "kl_BT"), batch.turn_ids_BT, batch.mask_BK)
    behind_B = _behind(batch) if bootstrap else None
    a_BK, returns_BK = adv.turn_gae(
        rewards_BK, v_BK.to(rewards_BK.dtype), batch.mask_BK, gamma=gamma, lambd=lambd, bootstrap_value_B=behind_B
    )
    a_BT, returns_BT = (adv.spread_turns(x_BK, batch.turn_ids_BT) for x_BK in (a_BK, returns_BK))
    metrics |= explained(returns_BK, v_BK, batch.mask_BK)
    return TurnAdvantages(a_BT, returns_BT, metrics, starts_BT if value_positions == "turn_start" else None)


@estimator(_needs)
def token_gae(
    batch: TurnBatch,
    *,
    gamma: float = 1.0,
    lambd: float = 0.95,
    process_reward: str = "none",
    process_weight: float = 1.0,
    process_options: Mapping[str, Any] | None = None,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """The host's GAE over action tokens, with observation tokens passed through instead of decaying what crosses them.

    Each turn's reward stands at its last action token; the KL penalty stands at every token.
    """
    rewards_BK, metrics = _turn_rewards(batch, process_reward, process_weight, process_options, gamma, shaping)
    values_BT = needed(batch.values_BT, "values_BT").to(rewards_BK.dtype)
    rewards_BT = _at_turn_ends(rewards_BK, batch) - _token_kl(batch, kl_coef)
    a_BT, returns_BT = adv.token_gae(rewards_BT, values_BT, batch.action_mask_BT, gamma=gamma, lambd=lambd)
    return TurnAdvantages(a_BT, returns_BT, metrics | explained(returns_BT, values_BT, batch.action_mask_BT))


@estimator(_needs)
def bi_level(
    batch: TurnBatch,
    *,
    gamma: float = 1.0,
    lambd: float = 0.95,
    token_gamma: float = 1.0,
    token_lambd: float = 1.0,
    process_reward: str = "none",
    process_weight: float = 1.0,
    process_options: Mapping[str, Any] | None = None,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """GAE over turns, then inside each turn over its tokens with the turn's return as their reward (after VAGEN, arXiv 2510.16907).

        G_k = V_k + A_k by `turn_gae` with the critic's V where the turn begins
        δ_t = [t is the turn's last token] G_k − β kl_t + γ' V_{t+1} [t + 1 in the turn] − V_t,   A_t = δ_t + γ'λ' A_{t+1}, from 0 in each turn

    At γ' = λ' = 1 and β = 0, A_t = G_k − V_t: the first token's advantage is the turn's. The turn's value is read before its first token, where
    VAGEN reads it at its last.

    Args:
        gamma, lambd: of turns.
        token_gamma, token_lambd: γ', λ'.
    """
    rewards_BK, metrics = _turn_rewards(batch, process_reward, process_weight, process_options, gamma, shaping)
    values_BT = needed(batch.values_BT, "values_BT").to(rewards_BK.dtype)
    v_BK = sum_by_turn(values_BT, batch.turn_ids_BT, batch.mask_BK, where_BT=first_of_turn(batch.turn_ids_BT))
    _, returns_BK = adv.turn_gae(rewards_BK, v_BK, batch.mask_BK, gamma=gamma, lambd=lambd)
    rewards_BT = _at_turn_ends(returns_BK, batch) - _token_kl(batch, kl_coef)
    inside_BT, to_rows, mask_NL = _one_turn_a_row(batch)
    rewards_NL, values_NL = (torch.zeros(mask_NL.shape).index_put(to_rows, x_BT[inside_BT]) for x_BT in (rewards_BT, values_BT))
    found_NL = adv.token_gae(rewards_NL, values_NL, mask_NL, gamma=token_gamma, lambd=token_lambd)
    a_BT, returns_BT = (torch.zeros_like(rewards_BT).masked_scatter(inside_BT, x_NL[to_rows]) for x_NL in found_NL)
    return TurnAdvantages(a_BT, returns_BT, metrics | explained(returns_BK, v_BK, batch.mask_BK))


def _turn_rewards(
    batch: TurnBatch, kind: str, weight: float, options: Mapping[str, Any] | None, gamma: float, shaping: Shaping
) -> tuple[torch.Tensor, dict[str, float]]:
    """r_k + w p_k, and what p was."""
    rewards_BK = torch.where(batch.mask_BK, batch.rewards_BK, 0.0).float()
    if kind == "none":
        return rewards_BK, {}
    p_BK = shaping(process_rewards.of_scores(batch, kind, gamma=gamma, **(options or {})), batch)
    return rewards_BK + weight * p_BK, mean_paid(p_BK, batch.mask_BK)


def _behind(batch: TurnBatch) -> torch.Tensor:
    """(B,) the PRM's Q of the last turn of episodes that a limit cut, 0 of the others."""
    last_q_B = torch.where(last_valid(batch.mask_BK), needed(batch.q_BK, "q_BK").float(), 0.0).sum(1)
    return torch.where(needed(batch.truncated_B, "truncated_B"), last_q_B, 0.0)


def _at_turn_ends(x_BK: torch.Tensor, batch: TurnBatch) -> torch.Tensor:
    return torch.where(last_of_turn(batch.turn_ids_BT), adv.spread_turns(x_BK, batch.turn_ids_BT), 0.0)


def _token_kl(batch: TurnBatch, kl_coef: float) -> torch.Tensor | float:
    if not kl_coef:
        return 0.0
    return torch.where(batch.action_mask_BT, kl_coef * needed(batch.kl_BT, "kl_BT").float(), 0.0)


def _one_turn_a_row(batch: TurnBatch) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Which positions are of a turn, (row, column) of each where every turn has a row of its own, and the (N, L) mask of these rows."""
    inside_BT = batch.turn_ids_BT >= 0
    starts_N = first_of_turn(batch.turn_ids_BT)[inside_BT]
    row_N = starts_N.cumsum(0) - 1
    begun_at = starts_N.nonzero()[:, 0]
    column_N = torch.arange(len(row_N)) - begun_at[row_N]
    shape = (max(1, len(begun_at)), int(column_N.max()) + 1 if len(column_N) else 1)
    mask_NL = torch.zeros(shape, dtype=torch.bool)
    mask_NL[row_N, column_N] = True
    return inside_BT, (row_N, column_N), mask_NL
