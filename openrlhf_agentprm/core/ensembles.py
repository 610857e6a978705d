"""Several scores of one thing as one. Legend: M members."""

from __future__ import annotations

import torch

COMBINE = ("mean", "min", "lcb")


def combined(scores_MX: torch.Tensor, combine: str, kappa: float = 1.0) -> torch.Tensor:
    """The members' mean, their lowest, or a lower confidence bound.

        mean: (1/M) Σ_m x_m
        min:  min_m x_m
        lcb:  mean_m x_m − κ std_m x_m    (over the M members, not an estimate from a sample of them)

    Args:
        scores_MX: members first, any further dimensions.
        combine: one of `COMBINE`.
        kappa: κ of `lcb`.

    >>> combined(torch.tensor([[0.0], [2.0]]), "lcb", 0.5)
    tensor([0.5000])
    """
    if combine not in COMBINE:
        raise ValueError(f"combine is {combine!r}; wanted {', '.join(COMBINE)}")
    if combine == "min":
        return scores_MX.amin(0)
    mean_X = scores_MX.mean(0)
    return mean_X if combine == "mean" else mean_X - kappa * scores_MX.std(0, correction=0)
