"""Logistic regression on a handful of features, by Newton's method. Legend: N samples, F features."""

from __future__ import annotations

import torch


def fit_logistic(x_NF: torch.Tensor, y_N: torch.Tensor, *, ridge: float = 1e-2, steps: int = 30) -> torch.Tensor:
    """w and b (behind it) of the least  −Σ_n [y_n log p_n + (1 − y_n) log(1 − p_n)] + ½ ridge (|w|² + b²),  p = σ(x·w + b).

    Args:
        x_NF: float64, of about unit scale.
        y_N: outcomes in [0, 1].
        ridge: also keeps outcomes that are all alike, or that a feature separates, from sending w to infinity.

    Returns:
        (F + 1,) float64.
    """
    x_NF = with_one(x_NF)
    w_F = torch.zeros(x_NF.shape[1], dtype=torch.float64)
    penalty_FF = ridge * torch.eye(len(w_F), dtype=torch.float64)
    for _ in range(steps):
        p_N = (x_NF @ w_F).sigmoid()
        slope_F = x_NF.T @ (p_N - y_N) + ridge * w_F
        curve_FF = x_NF.T @ ((p_N * (1 - p_N))[:, None] * x_NF) + penalty_FF
        step_F = torch.linalg.solve(curve_FF, slope_F)
        w_F = w_F - step_F / max(1.0, float(step_F.norm()))  # at most a step of one: Newton's may overshoot where p is near 0 or 1
        if float(step_F.norm()) < 1e-10:
            break
    return w_F


def with_one(x_NF: torch.Tensor) -> torch.Tensor:
    """Features with a column of ones behind them, for the constant."""
    return torch.cat([x_NF, torch.ones(len(x_NF), 1, dtype=x_NF.dtype)], dim=1)
