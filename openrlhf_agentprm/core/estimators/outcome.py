"""An outcome compared within its group, as the host's estimators do without a critic, with a process term by turn or by token.

Legend: B episodes, K turns, T predicting positions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from .. import advantages as adv
from .. import process_rewards
from ..batches import TurnAdvantages, TurnBatch, needed
from ..groups import BASELINES, relative_outcome
from ..process_rewards import Shaping, returns_to_go
from ..scan import ValidEntries, discounted_suffix_sums, last_valid
from .shared import choice, estimator, mean_paid


def _needs_of_outcome(options: Mapping[str, Any]) -> Collection[str]:
    found = set() if options["process_reward"] == "none" or not options["process_weight"] else {"prm"}
    return found | ({"groups"} if options["baseline"] != "none" or options["bound"] == "par" else set())


@estimator(_needs_of_outcome, whiten="host")
def outcome(
    batch: TurnBatch,
    *,
    baseline: str = "rloo",
    process_reward: str = "none",
    process_weight: float = 1.0,
    process_form: str = "turn",
    process_options: Mapping[str, Any] | None = None,
    gamma: float = 1.0,
    kl_coef: float,
    shaping: Shaping,
) -> TurnAdvantages:
    """The host's estimators over groups, with a process term added.

        A_t = (r less its group's baseline) − β Σ_{s≥t} kl_s + w P_k
        P_k = p_k ("turn": what the turn itself is paid) or G_k less its baseline ("return": what is paid from it on)

    With w = 0 or process_reward="none" it is the host's `rloo`, `reinforce_baseline`, `group_norm` or `dr_grpo`, to the bit (with
    `reinforce_baseline`, which whitens, where all micro-batches have one width: the order of its sums follows them).

    Args:
        baseline: see `core.groups.relative`.
        gamma: of process returns; outcomes are not discounted, as in the host.
        whiten: "host": over tokens with `reinforce_baseline`, else not at all.
    """
    choice("baseline", baseline, BASELINES)
    choice("process_form", process_form, ("turn", "return"))
    a_BT = outcome_to_go(batch, relative(batch, baseline), kl_coef)
    metrics: dict[str, float] = {}
    if process_reward != "none" and process_weight:
        p_BK = shaping(process_rewards.of_scores(batch, process_reward, gamma=gamma, **(process_options or {})), batch)
        metrics = mean_paid(p_BK, batch.mask_BK)
        if process_form == "return":
            p_BK = less_baseline(returns_to_go(p_BK, batch.mask_BK, gamma), batch)
        a_BT = a_BT + process_weight * adv.spread_turns(p_BK, batch.turn_ids_BT)
    return TurnAdvantages(a_BT, torch.zeros_like(a_BT), metrics)


@estimator(("implicit", "groups"))
def implicit(
    batch: TurnBatch, *, gamma: float = 1.0, outcome_weight: float = 1.0, process_weight: float = 1.0, kl_coef: float
) -> TurnAdvantages:
    """Process rewards of single tokens from an implicit PRM, and the outcome, each less its leave-one-out mean (PRIME, arXiv 2502.01456, Eq 5).

        A_t = w_o (r − mean_i r_i) − β' Σ_{s≥t} kl_s + w_p Σ_{s≥t} γ^{s−t} (ρ_s − mean_i mean_s ρ_is)
        ρ_t = β (log π_φ(y_t | y_<t) − log π_ref(y_t | y_<t))

    s runs over action tokens, i over the other samples of the prompt; the baseline of ρ is the mean of their mean token reward.
    """
    valid = ValidEntries(batch.action_mask_BT)
    rho_BN = valid.gather(needed(batch.process_logratio_BT, "process_logratio_BT").float())
    mean_B = rho_BN.sum(1) / valid.counts_B.clamp(min=1)
    others_B = mean_B - _leave_one_out(mean_B, batch)
    less_BN = (rho_BN - others_B[:, None]).masked_fill(~valid.mask_BN, 0.0)
    to_go_BT = valid.scatter(discounted_suffix_sums(less_BN, gamma))
    a_BT = outcome_to_go(batch, outcome_weight * relative(batch, "rloo"), kl_coef) + process_weight * to_go_BT
    return TurnAdvantages(a_BT, torch.zeros_like(a_BT), {"process/reward_mean": float(rho_BN.sum() / valid.counts_B.sum().clamp(min=1))})


# --- what estimators without a critic share ---


def relative(batch: TurnBatch, baseline: str) -> torch.Tensor:
    outcome_B = needed(batch.outcome_B, "outcome_B").float()
    return relative_outcome(outcome_B, batch.mask_BK.any(1), needed(batch.group_B, "group_B"), batch.sample_B, baseline)


def less_baseline(g_BK: torch.Tensor, batch: TurnBatch) -> torch.Tensor:
    """G less the mean, over the other samples of the prompt, of their turns' mean G; less nothing where there is no other."""
    mask_BK = batch.mask_BK
    mean_B = torch.where(mask_BK, g_BK, 0.0).sum(1) / mask_BK.sum(1).clamp(min=1)
    return torch.where(mask_BK, g_BK - (mean_B - _leave_one_out(mean_B, batch))[:, None], 0.0)


def _leave_one_out(x_B: torch.Tensor, batch: TurnBatch) -> torch.Tensor:
    """x less its mean over the prompt's other samples that have a turn; x itself where there is no other."""
    _, at_B = needed(batch.group_B, "group_B").unique(return_inverse=True)
    kept_B = batch.mask_BK.any(1).to(x_B.dtype)
    sums_G, counts_G = (torch.zeros(int(at_B.max()) + 1, dtype=x_B.dtype).index_add(0, at_B, y_B) for y_B in (x_B * kept_B, kept_B))
    return x_B - (sums_G[at_B] - x_B * kept_B) / (counts_G[at_B] - kept_B).clamp(min=1)


def outcome_to_go(batch: TurnBatch, outcome_B: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """Σ_{s≥t} of the outcome at the last action token and −β kl at each, added from the end one by one as the host adds them."""
    mask_BT = batch.action_mask_BT
    rewards_BT = torch.where(last_valid(mask_BT), outcome_B[:, None], 0.0)
    if kl_coef > 0:
        rewards_BT = rewards_BT + torch.where(mask_BT, -kl_coef * needed(batch.kl_BT, "kl_BT").float(), 0.0)
    # numpy adds float32 up in float32 and in order, where torch's cumsum keeps more digits between
    to_go_BT = torch.from_numpy(rewards_BT.flip(1).numpy().cumsum(axis=1)).flip(1)
    return torch.where(mask_BT, to_go_BT, 0.0)
