"""Preference pairs from values: of two actions at one state the one that is worth more."""

from __future__ import annotations

import torch


def pairs_by_margin(values_N: torch.Tensor, states_N: torch.Tensor, margin: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of actions of one state whose values differ by more than a margin (Choudhury, arXiv 2502.10325).

        (a⁺, a⁻) at s with Q(s, a⁺) − Q(s, a⁻) > margin

    Args:
        values_N: Q of N different state-action pairs; NaN: none.
        states_N: int64, the same for actions of one state.
        margin: 0 or more.

    Returns:
        chosen_P, rejected_P: int64 places in `values_N`, ordered by state.

    >>> pairs_by_margin(torch.tensor([0.2, 0.9, 0.5]), torch.tensor([0, 0, 1]), 0.1)
    (tensor([1]), tensor([0]))
    """
    order_N = states_N.argsort(stable=True)
    sizes_S = torch.bincount(states_N)[states_N[order_N].unique_consecutive()]
    ends_N = sizes_S.cumsum(0).repeat_interleave(sizes_S)
    partners_N = ends_N - torch.arange(len(order_N)) - 1  # how many of the same state come behind each
    first_P = torch.arange(len(order_N)).repeat_interleave(partners_N)
    within_P = torch.arange(len(first_P)) - (partners_N.cumsum(0) - partners_N)[first_P]
    one_P, other_P = order_N[first_P], order_N[first_P + 1 + within_P]
    gap_P = values_N[one_P] - values_N[other_P]
    kept_P = gap_P.abs() > margin  # NaN is not
    chosen_P, rejected_P = torch.where(gap_P > 0, one_P, other_P), torch.where(gap_P > 0, other_P, one_P)
    return chosen_P[kept_P], rejected_P[kept_P]
