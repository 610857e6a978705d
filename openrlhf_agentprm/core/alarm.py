"""When to ring: the PRM's reward rises over a window and true success does not.

A proxy that is optimised rises steadily while what it stands for turns down (Gao, Schulman & Hilton, arXiv 2210.10760, section 1: with
d = √KL the gold score goes as d (α − β log d), the proxy's goes on rising); with a PRM paid at every turn it takes few steps (PURE, arXiv
2504.15275; Choudhury, arXiv 2502.10325, section 2, where success falls from 82 to 70 % as the PRM's reward rises). So the rule reads slopes
over recent steps and asks for no level of either.

Legend: a series is of points in time, one a training batch or one a held-out evaluation. Of point t with n_t episodes x_t is the mean over
episodes of the PRM's reward Σ_k p_k, s_t its standard deviation over episodes, y_t the mean outcome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 4
"""Points that a window needs: a slope through three leaves one degree of freedom for its error."""
KEEPS_UP = 0.25
"""κ: success keeps up with the PRM's reward where it rises by at least a quarter as many spreads."""


@dataclass(frozen=True)
class Point:
    """One batch or evaluation: its step, episodes n, x, s and y."""

    step: int
    episodes: float
    reward: float
    spread: float
    success: float


@dataclass(frozen=True)
class Origin:
    """What a series began with; everything is told in its spreads.

    Args:
        spread: σ_x, the standard deviation over episodes of the PRM's reward in the first point where it varies.
        success: y_0; σ_y is √(ỹ_0 (1 − ỹ_0)) of the first point, with ỹ as in `success_variance`, so never 0.
    """

    reward: float
    spread: float
    success: float
    success_spread: float


@dataclass(frozen=True)
class Rule:
    """Three thresholds: W points, ρ spreads, z standard errors."""

    window: int = 12
    rise: float = 0.1
    z: float = 3.0


@dataclass(frozen=True)
class Verdict:
    """What `judge` found over the window: R, S, and how many standard errors the weaker of R and D is above 0.

    Args:
        gap_slope: (R − S/σ_y) by step.
    """

    reward_rise: float
    success_rise: float
    gap_slope: float
    evidence: float
    rings: bool


def success_variance(success: float, episodes: float) -> float:
    """Error variance of a mean outcome: ỹ(1 − ỹ)/(n + 4) with ỹ = (n y + 2)/(n + 4) (Agresti & Coull 1998, z = 2).

    Of all outcomes in [0, 1] with mean y those that are 0 or 1 vary most, so it is no too small for graded ones; and it is not 0 where every
    episode of a batch succeeds or fails.

    >>> round(success_variance(1.0, 12), 5)
    0.00684
    """
    y = (episodes * min(1.0, max(0.0, success)) + 2) / (episodes + 4)
    return y * (1 - y) / (episodes + 4)


def origin_of(first: Point, varied: Point | None = None) -> Origin:
    """The origin of a series from its first point, and the first point whose rewards vary (σ_x = 1 until there is one)."""
    spread = (varied or first).spread
    success_spread = math.sqrt(success_variance(first.success, first.episodes) * (first.episodes + 4))
    return Origin(first.reward, spread or 1.0, first.success, success_spread)


def gap(point: Point, origin: Origin) -> float:
    """g_t = (x_t − x_0)/σ_x − (y_t − y_0)/σ_y: by how many spreads more the PRM's reward has risen than success."""
    return (point.reward - origin.reward) / origin.spread - (point.success - origin.success) / origin.success_spread


def rise(steps: Sequence[float], values: Sequence[float], variances: Sequence[float]) -> tuple[float, float]:
    """What a least-squares line through the points rises from the first step to the last, and the standard error of that.

        b = Σ (t − t̄)(v_t − v̄) / S,   S = Σ (t − t̄)²,   rise = b (t_last − t_first)
        Var b = max( Σ (t − t̄)² var_t / S²,  Σ e_t² / ((W − 2) S) )

    The first variance is that of sampling so many episodes; the second, from the residuals e_t, has besides what differs from batch to batch,
    such as their tasks, but of few points it is small by chance. The larger one is taken.

    Args:
        variances: error variance of each value.
    """
    count = len(steps)
    t_bar, v_bar = sum(steps) / count, sum(values) / count
    centred = [t - t_bar for t in steps]
    squares = sum(c * c for c in centred)
    slope = sum(c * (v - v_bar) for c, v in zip(centred, values, strict=True)) / squares
    sampling = sum(c * c * var for c, var in zip(centred, variances, strict=True)) / squares**2
    errors = sum((v - v_bar - slope * c) ** 2 for c, v in zip(centred, values, strict=True))
    scatter = errors / ((count - 2) * squares) if count > 2 else 0.0
    span = steps[-1] - steps[0]
    return slope * span, math.sqrt(max(sampling, scatter)) * span


def judge(points: Sequence[Point], origin: Origin, rule: Rule) -> Verdict | None:
    """Whether a series' last points ring the alarm.

    Over the last W points, with `rise` of x/σ_x, of y, and their standard errors e_R, e_S:

        R = rise of x / σ_x        by how many spreads the PRM's reward rose
        S = rise of y              what success rose, in [−1, 1]
        D = κ R − S/σ_y            what is missing for success to have kept up, κ = ¼

        rings  ⇔  R ≥ ρ  and  R ≥ z e_R  and  S < z e_S  and  D ≥ z √(κ² e_R² + e_S²/σ_y²)

    The PRM's reward has surely risen, by enough to mean something; success has not surely risen; and so many episodes were seen that one would have
    noticed if it had kept up. A run that learns has S/σ_y near R or above; a plateau has R near 0.

    The same is asked of the last W/2 points, so that what begins suddenly is not held back by what was before.

    Returns:
        What the window says that rings, or else the whole one; None with fewer than `LEAST` points.
    """
    windows = [points[-width:] for width in (rule.window, rule.window // 2)]
    found = [_over(last, origin, rule) for last in windows if len(last) >= LEAST]
    return next((verdict for verdict in found if verdict.rings), found[0] if found else None)


def _over(last: Sequence[Point], origin: Origin, rule: Rule) -> Verdict:
    """The rule over all of some points."""
    steps = [float(p.step) for p in last]
    r, r_error = rise(steps, [p.reward / origin.spread for p in last], [(p.spread / origin.spread) ** 2 / p.episodes for p in last])
    s, s_error = rise(steps, [p.success for p in last], [success_variance(p.success, p.episodes) for p in last])
    missing = KEEPS_UP * r - s / origin.success_spread
    missing_error = math.hypot(KEEPS_UP * r_error, s_error / origin.success_spread)
    evidence = min(r / r_error if r_error else math.copysign(math.inf, r), missing / missing_error)
    rings = r >= rule.rise and s < rule.z * s_error and evidence >= rule.z
    return Verdict(r, s, (r - s / origin.success_spread) / (steps[-1] - steps[0]), evidence, rings)
