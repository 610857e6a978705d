"""Advantage estimators of the registry: a whole rollout batch of turns in, advantages of every token out.

Legend: B episodes, K turns, T predicting positions. Every estimator takes a `TurnBatch` and keyword options; options shared by all:

- `gamma`, `lambd`: discount and λ, of turns or of tokens as the estimator's name says.
- `process_reward`: "none", "progress" (Q − V) or "promise" (Q), added to each turn's reward with `process_weight`.
- `kl_coef`, `kl_placement`: with "reward" the KL penalty is part of the reward, r_k ← r_k − β Σ_{t in turn k} kl_t; with "token" it stays
  outside the returns, A_t = A_k − β kl_t.
- `whiten`: "tokens" (mean and variance over action tokens, as the host), "turns" (over turns) or "none".
"""

from __future__ import annotations

import torch

from . import advantages as adv
from .batches import TurnAdvantages, TurnBatch

KL_PLACEMENTS = ("reward", "token")


def turn_gae(
    batch: TurnBatch,
    *,
    gamma: float = 1.0,
    lambd: float = 0.95,
    values: str = "critic",
    process_reward: str = "none",
    process_weight: float = 1.0,
    force: bool = False,
    kl_coef: float = 0.0,
    kl_placement: str = "reward",
    whiten: str = "tokens",
    value_positions: str = "turn_start",
) -> TurnAdvantages:
    """GAE over turns, each turn's advantage spread over its action tokens.

    V(s_k) is the critic's value at the position that predicts the turn's first token, or the PRM's V.

    Args:
        values: "critic" or "prm".
        force: allow `progress` with PRM values, which counts it twice: at γ = 1 and r = 0, δ_k = (1 + w)·progress_k.
        value_positions: where a critic's loss counts: "turn_start", or "all" action tokens with the turn's return as target.

    Raises:
        ValueError: an option out of its choices, or progress counted twice without `force`.
    """
    _choice("values", values, ("critic", "prm"))
    _choice("value_positions", value_positions, ("turn_start", "all"))
    _choice("kl_placement", kl_placement, KL_PLACEMENTS)
    if values == "prm" and process_reward == "progress" and not force:
        raise ValueError(
            "values from the PRM and progress as a reward count progress twice (δ = (1 + w)·progress at γ = 1); "
            "take values='critic', process_reward='none', or force"
        )
    starts_BT = first_of_turn(batch.turn_ids_BT)
    if values == "critic":
        v_BK = sum_by_turn(_need(batch.values_BT, "values_BT"), batch.turn_ids_BT, batch.mask_BK, where_BT=starts_BT)
    else:
        v_BK = _need(batch.v_BK, "v_BK")
    rewards_BK, metrics = _turn_rewards(batch, process_reward, process_weight, kl_coef if kl_placement == "reward" else 0.0)
    a_BK, returns_BK = adv.turn_gae(rewards_BK, v_BK.to(rewards_BK.dtype), batch.mask_BK, gamma=gamma, lambd=lambd)
    metrics |= _explained(returns_BK, v_BK, batch.mask_BK)
    if whiten == "turns":
        a_BK = _whitened(a_BK, batch.mask_BK)
    a_BT = adv.spread_turns(a_BK, batch.turn_ids_BT)
    a_BT = _finish(a_BT, batch, whiten, kl_coef if kl_placement == "token" else 0.0)
    return TurnAdvantages(
        a_BT,
        adv.spread_turns(returns_BK, batch.turn_ids_BT),
        metrics,
        starts_BT if value_positions == "turn_start" else None,
    )


def token_gae(
    batch: TurnBatch,
    *,
    gamma: float = 1.0,
    lambd: float = 0.95,
    process_reward: str = "none",
    process_weight: float = 1.0,
    kl_coef: float = 0.0,
    kl_placement: str = "reward",
    whiten: str = "tokens",
) -> TurnAdvantages:
    """The host's GAE over action tokens, with observation tokens passed through instead of decaying what crosses them.

    Each turn's reward stands at its last action token; the KL penalty stands at every token.
    """
    _choice("kl_placement", kl_placement, KL_PLACEMENTS)
    rewards_BK, metrics = _turn_rewards(batch, process_reward, process_weight, 0.0)
    values_BT = _need(batch.values_BT, "values_BT").to(rewards_BK.dtype)
    rewards_BT = torch.where(last_of_turn(batch.turn_ids_BT), adv.spread_turns(rewards_BK, batch.turn_ids_BT), 0.0)
    if kl_coef and kl_placement == "reward":
        rewards_BT = rewards_BT - kl_coef * _need(batch.kl_BT, "kl_BT").to(rewards_BT.dtype)
    a_BT, returns_BT = adv.token_gae(rewards_BT, values_BT, batch.action_mask_BT, gamma=gamma, lambd=lambd)
    metrics |= _explained(returns_BT, values_BT, batch.action_mask_BT)
    a_BT = _finish(a_BT, batch, whiten, kl_coef if kl_placement == "token" else 0.0)
    return TurnAdvantages(a_BT, returns_BT, metrics)


def progress(
    batch: TurnBatch,
    *,
    outcome_weight: float = 0.0,
    kl_coef: float = 0.0,
    kl_placement: str = "token",
    whiten: str = "tokens",
) -> TurnAdvantages:
    """A_k = Q_k − V_k from the PRM alone, or added to w·(r − the group's mean r).

    Alone it is easily gamed: the policy finds turns that the PRM likes and never finishes. It is here for that comparison.
    """
    _choice("kl_placement", kl_placement, KL_PLACEMENTS)
    a_BK = adv.progress(_need(batch.q_BK, "q_BK"), _need(batch.v_BK, "v_BK"), batch.mask_BK)
    if outcome_weight:
        centred_B = _need(batch.outcome_B, "outcome_B") - _group_mean(batch)
        a_BK = torch.where(batch.mask_BK, a_BK + outcome_weight * centred_B[:, None].to(a_BK.dtype), 0.0)
    if kl_coef and kl_placement == "reward":
        kl_BK = sum_by_turn(_need(batch.kl_BT, "kl_BT"), batch.turn_ids_BT, batch.mask_BK)
        a_BK = a_BK - kl_coef * kl_BK.to(a_BK.dtype)
    if whiten == "turns":
        a_BK = _whitened(a_BK, batch.mask_BK)
    a_BT = _finish(adv.spread_turns(a_BK, batch.turn_ids_BT), batch, whiten, kl_coef if kl_placement == "token" else 0.0)
    return TurnAdvantages(a_BT, torch.zeros_like(a_BT), {"process/reward_mean": _mean(a_BK, batch.mask_BK)})


def first_of_turn(turn_ids_BT: torch.Tensor) -> torch.Tensor:
    """True where a turn begins."""
    before_BT = torch.nn.functional.pad(turn_ids_BT[:, :-1], (1, 0), value=-1)
    return (turn_ids_BT >= 0) & (turn_ids_BT != before_BT)


def last_of_turn(turn_ids_BT: torch.Tensor) -> torch.Tensor:
    """True where a turn ends."""
    after_BT = torch.nn.functional.pad(turn_ids_BT[:, 1:], (0, 1), value=-1)
    return (turn_ids_BT >= 0) & (turn_ids_BT != after_BT)


def sum_by_turn(x_BT: torch.Tensor, turn_ids_BT: torch.Tensor, mask_BK: torch.Tensor, where_BT: torch.Tensor | None = None) -> torch.Tensor:
    """Σ of x over each turn's positions (those of `where_BT` only, if given); (B, K), 0 at masked turns. NaN elsewhere never leaks."""
    counts_BT = turn_ids_BT >= 0 if where_BT is None else where_BT
    kept_BT = torch.where(counts_BT, x_BT, 0.0).float()
    y_BK = kept_BT.new_zeros(mask_BK.shape[0], mask_BK.shape[1] + 1)
    y_BK.scatter_add_(1, turn_ids_BT.clamp(min=-1) + 1, kept_BT)
    return torch.where(mask_BK, y_BK[:, 1:], 0.0)


def _turn_rewards(batch: TurnBatch, process_reward: str, weight: float, kl_coef: float) -> tuple[torch.Tensor, dict[str, float]]:
    _choice("process_reward", process_reward, ("none", "progress", "promise"))
    rewards_BK = torch.where(batch.mask_BK, batch.rewards_BK, 0.0).float()
    metrics: dict[str, float] = {}
    if process_reward != "none":
        q_BK = _need(batch.q_BK, "q_BK")
        process_BK = q_BK if process_reward == "promise" else q_BK - _need(batch.v_BK, "v_BK")
        process_BK = torch.where(batch.mask_BK, process_BK, 0.0).float()
        rewards_BK = rewards_BK + weight * process_BK
        metrics["process/reward_mean"] = _mean(process_BK, batch.mask_BK)
    if kl_coef:
        kl_BK = sum_by_turn(_need(batch.kl_BT, "kl_BT"), batch.turn_ids_BT, batch.mask_BK)
        rewards_BK = rewards_BK - kl_coef * kl_BK
    return rewards_BK, metrics


def _finish(a_BT: torch.Tensor, batch: TurnBatch, whiten: str, kl_coef: float) -> torch.Tensor:
    _choice("whiten", whiten, ("tokens", "turns", "none"))
    if kl_coef:
        a_BT = a_BT - torch.where(batch.action_mask_BT, kl_coef * _need(batch.kl_BT, "kl_BT").to(a_BT.dtype), 0.0)
    return _whitened(a_BT, batch.action_mask_BT) if whiten == "tokens" else a_BT


def _whitened(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(x − mean) / std over the whole batch's valid places, 0 elsewhere; the host's own floor of 1e-8 under the variance."""
    result = torch.zeros_like(x)
    valid_N = x[mask]
    if valid_N.numel():
        centred_N = valid_N - valid_N.mean()
        result[mask] = centred_N * centred_N.square().mean().clamp(min=1e-8).rsqrt()
    return result


def _group_mean(batch: TurnBatch) -> torch.Tensor:
    """Mean outcome of each episode's group, over episodes that have a turn."""
    group_B = _need(batch.group_B, "group_B")
    outcome_B = _need(batch.outcome_B, "outcome_B").float()
    counts_B = batch.mask_BK.any(1).float()
    same_BB = (group_B[:, None] == group_B[None, :]).float() * counts_B[None, :]
    return (same_BB * torch.where(counts_B > 0, outcome_B, 0.0)[None, :]).sum(1) / same_BB.sum(1).clamp(min=1)


def _explained(returns: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """1 − Var(R − V) / Var(R): what share of the returns the values foresaw."""
    if int(mask.sum()) < 2:
        return {}
    r, v = returns[mask].float(), values[mask].float()
    return {"turns/value_explained_variance": float(1 - (r - v).var() / r.var().clamp(min=1e-8))}


def _mean(x: torch.Tensor, mask: torch.Tensor) -> float:
    return float(torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1))


def _need(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    if tensor is None:
        raise ValueError(f"{name} is None; this estimator's options need it (a PRM gives q_BK and v_BK, a critic values_BT)")
    return tensor


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(allowed)}")
