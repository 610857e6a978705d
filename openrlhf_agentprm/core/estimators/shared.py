"""What every estimator has in common: KL, whitening, length correction, its options and its needs.

Legend: B episodes, K turns, T predicting positions. An estimator is written as its own part alone, a function of a `TurnBatch` and options that
answers raw advantages; `estimator` puts the rest around it and makes one function with the options of both:

- `kl_coef`, `kl_placement`: "reward": the own part takes the KL penalty into its rewards; "token": A_t ← A_t − β kl_t, outside the returns.
- `whiten`: A ← (A − mean) / std over all action tokens ("tokens", as the host), over turns, each counting once ("turns"), over the turns of each
  prompt's samples ("groups"), or not at all ("none"). Never by turn index: how many episodes reach a turn depends on what was done before it.
- `length_correction`: "turn": A ← A · n̄ / n_k, n_k the turn's tokens and n̄ their mean, so that a turn weighs the same in a loss over tokens however
  long its action is.
- of those with process rewards: `bound`, `scaling`, `process_clip` (`core.process_rewards.Shaping`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from .. import advantages as adv
from ..batches import TurnAdvantages, TurnBatch, needed
from ..process_rewards import Shaping

KL_PLACEMENTS = ("reward", "token")
WHITENINGS = ("tokens", "turns", "groups", "none")
Needs = Callable[[Mapping[str, Any]], Collection[str]]
NEEDS = ("prm", "critic", "groups", "implicit", "states", "valid")
"""What a run has to bring: a PRM; a critic; several samples a prompt; a PRM of kind implicit; states told apart; which actions were valid."""

_SHARED = {"kl_coef": 0.0, "kl_placement": "reward", "whiten": "tokens", "length_correction": "none"}
_SHAPING = {"bound": "none", "scaling": "none", "process_clip": None}


def estimator(
    needs: Needs | Collection[str] = (), **defaults: Any
) -> Callable[[Callable[..., TurnAdvantages]], Callable[..., TurnAdvantages]]:
    """Complete an estimator's own part. It is handed `kl_coef` (0 where KL stays outside) and `shaping` if it names them.

    Args:
        needs: names of `NEEDS`, or a function from the options to them.
        defaults: of shared options, where they differ.
    """

    def wrap(body: Callable[..., TurnAdvantages]) -> Callable[..., TurnAdvantages]:
        own = inspect.signature(body).parameters
        shaped = "shaping" in own
        shared = _SHARED | (_SHAPING if shaped else {}) | defaults

        @functools.wraps(body)
        def run(batch: TurnBatch, **options: Any) -> TurnAdvantages:
            given = inspect.signature(run).bind(batch, **options)
            given.apply_defaults()
            options = {name: value for name, value in given.arguments.items() if name in own and name != next(iter(own))}
            chosen = {name: given.arguments[name] for name in shared}
            choice("kl_placement", chosen["kl_placement"], KL_PLACEMENTS)
            choice("length_correction", chosen["length_correction"], ("none", "turn"))
            inside = chosen["kl_coef"] if chosen["kl_placement"] == "reward" else 0.0
            if "kl_coef" in own:
                options["kl_coef"] = inside
            if shaped:
                options["shaping"] = Shaping(*(chosen[name] for name in _SHAPING))
            outside = chosen["kl_coef"] if chosen["kl_placement"] == "token" else 0.0
            return _finished(body(batch, **options), batch, outside, chosen["whiten"], chosen["length_correction"], options)

        named = [p for p in own.values() if p.name not in ("kl_coef", "shaping")]
        added = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in shared.items()]
        run.__signature__ = inspect.Signature([*named, *added])  # type: ignore[attr-defined]
        run.needs = needs if callable(needs) else lambda options: needs  # type: ignore[attr-defined]
        return run

    return wrap


def needs_of(function: Callable[..., TurnAdvantages], options: Mapping[str, Any]) -> set[str]:
    """What an estimator needs with these options; empty for a plain function, which does not say."""
    told: Needs | None = getattr(function, "needs", None)
    if told is None:
        return set()
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.default is not p.empty}
    chosen = defaults | dict(options)
    return set(told(chosen)) | ({"groups"} if chosen["whiten"] == "groups" else set())


def _finished(
    raw: TurnAdvantages, batch: TurnBatch, kl_coef: float, whiten: str, length_correction: str, options: Mapping[str, Any]
) -> TurnAdvantages:
    choice("whiten", whiten, (*WHITENINGS, "host") if "baseline" in options else WHITENINGS)
    a_BT = raw.advantages_BT
    if kl_coef:
        a_BT = a_BT - torch.where(batch.action_mask_BT, kl_coef * needed(batch.kl_BT, "kl_BT").to(a_BT.dtype), 0.0)
    if whiten == "host":
        a_BT = whitened_as_host(a_BT, batch.action_mask_BT) if options["baseline"] == "reinforce_baseline" else a_BT
    elif whiten != "none":
        a_BT = whitened(a_BT, batch, whiten)
    if length_correction == "turn":
        n_BT = turn_lengths(batch)
        mean = batch.action_mask_BT.sum() / batch.mask_BK.sum().clamp(min=1)
        a_BT = torch.where(batch.action_mask_BT, a_BT * mean / n_BT, 0.0)
    return TurnAdvantages(a_BT, raw.returns_BT, raw.metrics, raw.value_mask_BT)


def whitened(a_BT: torch.Tensor, batch: TurnBatch, over: str) -> torch.Tensor:
    """(A − mean) / std, 0 where there is no action token; the host's floor of 1e-8 under the variance."""
    mask_BT = batch.action_mask_BT
    a_N = a_BT[mask_BT].double()  # what a mean of equal float32 numbers lacks would be 10⁴ times as large behind the floor
    weight_N = torch.ones_like(a_N) if over == "tokens" else 1 / turn_lengths(batch)[mask_BT].double()
    group_N = torch.zeros(len(a_N), dtype=torch.long)
    if over == "groups":
        _, group_B = needed(batch.group_B, "group_B").unique(return_inverse=True)
        group_N = group_B[:, None].expand_as(mask_BT)[mask_BT]

    def mean_of(x_N: torch.Tensor) -> torch.Tensor:
        totals_G, sums_G = (a_N.new_zeros(len(a_BT) + 1).index_add(0, group_N, y_N) for y_N in (weight_N, x_N * weight_N))
        return (sums_G / totals_G.clamp(min=1e-8))[group_N]

    centred_N = a_N - mean_of(a_N)
    result_N = centred_N * mean_of(centred_N.square()).clamp(min=1e-8).rsqrt()
    return torch.zeros_like(a_BT).masked_scatter(mask_BT, result_N.to(a_BT.dtype))


def whitened_as_host(a_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Over action tokens by the host's very expressions, whose sums run over the padding too."""
    a_BT, total = torch.where(mask_BT, a_BT, 0.0), mask_BT.sum().clamp(min=1)
    mean = (a_BT * mask_BT).sum() / total
    variance = ((a_BT - mean).pow(2) * mask_BT).sum() / total
    return torch.where(mask_BT, (a_BT - mean) * variance.clamp(min=1e-8).rsqrt(), 0.0)


def turn_lengths(batch: TurnBatch) -> torch.Tensor:
    """(B, T) float: action tokens of the turn that a position belongs to; 1 where there is none."""
    n_BK = sum_by_turn(batch.action_mask_BT.float(), batch.turn_ids_BT, batch.mask_BK)
    return torch.where(batch.turn_ids_BT >= 0, adv.spread_turns(n_BK, batch.turn_ids_BT), 1.0).clamp(min=1.0)


# --- places ---


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


# --- figures and checks ---


def explained(returns: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """1 − Var(R − V) / Var(R): what share of the returns the values foresaw."""
    if int(mask.sum()) < 2:
        return {}
    r, v = returns[mask].float(), values[mask].float()
    return {"turns/value_explained_variance": float(1 - (r - v).var() / r.var().clamp(min=1e-8))}


def mean_paid(p_BK: torch.Tensor, mask_BK: torch.Tensor) -> dict[str, float]:
    """What the PRM paid a turn, on average."""
    return {"process/reward_mean": float(torch.where(mask_BK, p_BK, 0.0).sum() / mask_BK.sum().clamp(min=1))}


def choice(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(allowed)}")
