"""What a sample is worth beside the other samples of its prompt. Legend: B episodes, G groups of N samples."""

from __future__ import annotations

import torch

BASELINES = ("none", "rloo", "reinforce_baseline", "group_norm", "dr_grpo")


def relative(rewards_GN: torch.Tensor, kept_GN: torch.Tensor, baseline: str) -> torch.Tensor:
    """Rewards less their group's baseline, 0 for samples that do not count.

        none:                          r_i
        rloo:                          r_i − (1/(N−1)) Σ_{j≠i} r_j         (Ahmadian et al., arXiv 2402.14740)
        reinforce_baseline, dr_grpo:   r_i − (1/N) Σ_j r_j                 (REINFORCE++, arXiv 2501.03262; Dr. GRPO, arXiv 2503.20783)
        group_norm:                    (r_i − mean) / (std + 1e-9)         (GRPO, arXiv 2402.03300)

    Sums, means and the unbiased std run over the samples that count. Where all of them do, each line is the host's expression, to the bit.

    Args:
        rewards_GN: float32 or float64; masked places may hold anything.
        kept_GN: bool.
        baseline: one of `BASELINES`.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline is {baseline!r}; wanted one of {', '.join(BASELINES)}")
    samples = rewards_GN.shape[1]
    if bool(kept_GN.all()) and (samples > 1 or baseline == "none"):
        return _of_whole_groups(rewards_GN, baseline)
    r_GN = torch.where(kept_GN, rewards_GN, 0.0)
    count_G1 = kept_GN.sum(1, keepdim=True).clamp(min=1)
    deviation_GN = torch.where(kept_GN, r_GN - r_GN.sum(1, keepdim=True) / count_G1, 0.0)
    if baseline == "none":
        return r_GN
    if baseline == "rloo":
        return deviation_GN * count_G1 / (count_G1 - 1).clamp(min=1)
    if baseline == "group_norm":
        return deviation_GN / (_std(deviation_GN, count_G1) + 1e-9)
    return deviation_GN


def group_std(rewards_GN: torch.Tensor, kept_GN: torch.Tensor) -> torch.Tensor:
    """(G, 1) unbiased standard deviation over the samples that count; 0 where only one does."""
    r_GN = torch.where(kept_GN, rewards_GN, 0.0)
    count_G1 = kept_GN.sum(1, keepdim=True).clamp(min=1)
    return _std(torch.where(kept_GN, r_GN - r_GN.sum(1, keepdim=True) / count_G1, 0.0), count_G1)


def relative_outcome(
    outcome_B: torch.Tensor, kept_B: torch.Tensor, group_B: torch.Tensor, sample_B: torch.Tensor | None, baseline: str
) -> torch.Tensor:
    """`relative` for episodes in any order.

    Args:
        group_B: int64, the same for samples of one prompt.
        sample_B: int64, place in the group; with it sums run in that order, so that the batch's order changes no bit.
    """
    _, group_B = group_B.unique(return_inverse=True)
    order_B = torch.arange(len(group_B)) if sample_B is None else sample_B.argsort(stable=True)
    order_B = order_B[group_B[order_B].argsort(stable=True)]
    counts_G = group_B.bincount()
    place_B = torch.arange(len(group_B)) - (counts_G.cumsum(0) - counts_G)[group_B[order_B]]
    shape = (len(counts_G), int(counts_G.max()))
    rewards_GN, kept_GN = outcome_B.new_zeros(shape), torch.zeros(shape, dtype=torch.bool)
    at = (group_B[order_B], place_B)
    rewards_GN[at], kept_GN[at] = outcome_B[order_B], kept_B[order_B]
    result_B = torch.empty_like(outcome_B)
    result_B[order_B] = relative(rewards_GN, kept_GN, baseline)[at]
    return result_B


def _of_whole_groups(r_GN: torch.Tensor, baseline: str) -> torch.Tensor:
    if baseline == "none":
        return r_GN
    if baseline == "rloo":
        return r_GN - (r_GN.sum(-1, keepdim=True) - r_GN) / (r_GN.shape[1] - 1)
    deviation_GN = r_GN - r_GN.mean(-1, keepdim=True)
    return deviation_GN / (r_GN.std(-1, keepdim=True) + 1e-9) if baseline == "group_norm" else deviation_GN


def _std(deviation_GN: torch.Tensor, count_G1: torch.Tensor) -> torch.Tensor:
    return (deviation_GN.square().sum(1, keepdim=True) / (count_G1 - 1).clamp(min=1)).sqrt()
