"""What searches rank by: the effective reward of PAV, and the selection rules of tree search. Values are promises in [0, 1] unless said."""

from __future__ import annotations

import math

import torch


def best_of_k(q: torch.Tensor, k: int) -> torch.Tensor:
    """The promise of the best of K independent tries from the same place, in closed form: Q^BoK = 1 − (1 − Q)^K.

    The prover of PAV (arXiv 2410.08146, section 4: the best-of-K policy of the base policy). A score outside [0, 1], which a linear head may
    give, is taken for the nearest promise there.

    Args:
        q: any shape, Q or V of the base policy.
        k: K, 1 or more.

    >>> best_of_k(torch.tensor([0.5, 0.0, 1.5]), 2)
    tensor([0.7500, 0.0000, 1.0000])
    """
    return 1 - (1 - q.clamp(0, 1)) ** k


def effective_reward(q: torch.Tensor, prover_q: torch.Tensor, prover_v: torch.Tensor, alpha: float) -> torch.Tensor:
    """Q(s, a) + α · A^μ(s, a), with A^μ(s, a) = Q^μ(s, a) − V^μ(s) (PAV, arXiv 2410.08146).

    Args:
        q: promise of the policy itself, any shape.
        prover_q, prover_v: Q^μ(s, a) and V^μ(s) of the prover μ ≠ π, of the same shape.
        alpha: α, 0.5 in the paper's searches.
    """
    return q + alpha * (prover_q - prover_v)


def uct(mean: float, visits: int, parent_visits: int, exploration: float) -> float:
    """Q̄(s, a) + c · √(ln N(s) / N(s, a)) (Kocsis and Szepesvári 2006); infinite for an action without a visit."""
    if visits == 0:
        return math.inf
    return mean + exploration * math.sqrt(math.log(parent_visits) / visits)


def puct(mean: float, visits: int, parent_visits: int, exploration: float, prior: float) -> float:
    """Q̄(s, a) + c · P(s, a) · √N(s) / (1 + N(s, a)) (arXiv 1712.01815, with c constant).

    >>> puct(0.5, 1, 4, 1.0, 0.25)
    0.75
    """
    return mean + exploration * prior * math.sqrt(parent_visits) / (1 + visits)


def leaf_value(value: float, outcome: float, weight: float) -> float:
    """(1 − w) · V(s) + w · r of a rollout from s (arXiv 1712.01815's forerunner AlphaGo mixes so); V(s) where the rollout has no outcome (NaN).

    >>> leaf_value(0.5, 1.0, 0.5), leaf_value(0.5, math.nan, 0.5)
    (0.75, 0.5)
    """
    return value if weight == 0 or math.isnan(outcome) else (1 - weight) * value + weight * outcome
