"""Values of states from completions: N episodes played on from each of S states, and what their outcomes say.

Legend: outcomes_SN float, NaN where a completion has no outcome (cut by the context, broken) or was not wanted. A state with no outcome has
the value NaN.
"""

from __future__ import annotations

import math

import torch


def soft_mean(outcomes_SN: torch.Tensor) -> torch.Tensor:
    """The share of success (Math-Shepherd's soft estimation, arXiv 2312.08935): MC(s) = mean_n r_n.

    >>> soft_mean(torch.tensor([[1.0, 0.0, 0.0, torch.nan]]))
    tensor([0.3333])
    """
    known_SN = ~outcomes_SN.isnan()
    return torch.where(known_SN, outcomes_SN, 0.0).sum(1) / known_SN.sum(1)  # 0 / 0 is NaN: no outcome, no value


def hard_any(outcomes_SN: torch.Tensor) -> torch.Tensor:
    """Whether any completion succeeds (hard estimation, arXiv 2312.08935); of graded outcomes the highest: MC(s) = max_n r_n.

    >>> hard_any(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([1., 0.])
    """
    known_SN = ~outcomes_SN.isnan()
    highest_S = torch.where(known_SN, outcomes_SN, -math.inf).amax(1)
    return torch.where(known_SN.any(1), highest_S, math.nan)


def entropic_mean(outcomes_SN: torch.Tensor, eta: float) -> torch.Tensor:
    """The entropy-regularised value of ER-PRM (arXiv 2412.11006): MC(s) = (1/η) log mean_n exp(η r_n).

    η → 0 is `soft_mean`, η → ∞ is `hard_any`; both ends may be given as 0 and infinity.

    >>> entropic_mean(torch.tensor([[1.0, 0.0]]), 2.0)  # log((e² + 1) / 2) / 2
    tensor([0.7169])
    """
    if eta == 0:
        return soft_mean(outcomes_SN)
    if math.isinf(eta):
        return hard_any(outcomes_SN)
    known_SN = ~outcomes_SN.isnan()
    total_S = torch.where(known_SN, eta * outcomes_SN, -math.inf).logsumexp(1)
    return torch.where(known_SN.any(1), (total_S - known_SN.sum(1).to(total_S.dtype).log()) / eta, math.nan)


def relative_progress(q_K: torch.Tensor, v_K: torch.Tensor, threshold: float) -> torch.Tensor:
    """Whether an action keeps enough of its state's value (RPE of GenPRM, arXiv 2504.00891): 1[MC(s, a) / MC(s) ≥ threshold].

    A state with the value 0 has nothing to keep: an action from it is right only if it gains.

    >>> relative_progress(torch.tensor([0.5, 0.3, 0.0]), torch.tensor([0.6, 0.5, 0.0]), 0.8)
    tensor([1., 0., 0.])
    """
    right_K = torch.where(v_K > 0, q_K >= threshold * v_K, q_K > 0).to(q_K.dtype)
    return torch.where(q_K.isnan() | v_K.isnan(), math.nan, right_K)


def shaped_values(q_K: torch.Tensor, reference_q_K: torch.Tensor, reference_v_K: torch.Tensor, alpha: float) -> torch.Tensor:
    """A policy's value shaped by a reference policy μ's advantage (Choudhury, arXiv 2502.10325): (1 − α) Q(s, a) + α A^μ(s, a).

    A^μ = Q^μ(s, a) − V^μ(s). With Q, Q^μ and V^μ in [0, 1] it lies in [−α, 1].

    >>> shaped_values(torch.tensor([0.5]), torch.tensor([0.25]), torch.tensor([0.75]), 0.5)
    tensor([0.])
    """
    return (1 - alpha) * q_K + alpha * (reference_q_K - reference_v_K)
