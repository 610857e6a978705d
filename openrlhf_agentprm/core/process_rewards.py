"""What a PRM's scores pay for a turn: transforms from promise Q and value V to process rewards, and what keeps these in bounds.

Legend: B episodes, K turns. Masks are bool, True = counts; masked places may hold anything and give 0. No gradient flows through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .batches import TurnBatch, needed
from .scan import ValidEntries, discounted_suffix_sums

KINDS = ("promise", "progress", "clip", "delta", "clip_delta", "min_form", "potential", "spa")
BOUNDS = ("none", "par")
SCALINGS = ("none", "scale", "standard")


def of_scores(batch: TurnBatch, kind: str, *, gamma: float = 1.0, **options: Any) -> torch.Tensor:
    """Process rewards p_BK of one of `KINDS` from a batch's scores.

    Args:
        gamma: read by "potential".
        options: of the function named by `kind`.
    """
    if options and kind in KINDS and kind not in ("clip", "clip_delta", "min_form"):
        raise ValueError(f"process_reward {kind} has no options, and {', '.join(options)} came (clip, clip_delta and min_form have)")
    q_BK, mask_BK = needed(batch.q_BK, "q_BK").float(), batch.mask_BK
    if kind == "promise":
        return torch.where(mask_BK, q_BK, 0.0)
    if kind in ("progress", "spa"):
        return torch.where(mask_BK, q_BK - needed(batch.v_BK, "v_BK").float(), 0.0)
    if kind == "clip":
        return clip(q_BK, mask_BK, **options)
    if kind == "delta":
        return delta(q_BK, mask_BK)
    if kind == "clip_delta":
        return delta(clip(q_BK, mask_BK, **options), mask_BK)
    if kind == "min_form":
        return min_form(q_BK, mask_BK, **options)
    if kind == "potential":
        return potential(needed(batch.v_BK, "v_BK").float(), mask_BK, gamma=gamma)
    raise ValueError(f"process_reward is {kind!r}; wanted one of none, {', '.join(KINDS)}")


@torch.no_grad()
def clip(q_BK: torch.Tensor, mask_BK: torch.Tensor, *, eta: float = 0.5) -> torch.Tensor:
    """p_t = min(Q_t − η, 0): a turn can lose and never earn, so that more turns never pay (Clip, arXiv 2410.15115).

    >>> clip(torch.tensor([[0.9, 0.2]]), torch.ones(1, 2, dtype=torch.bool))
    tensor([[ 0.0000, -0.3000]])
    """
    return torch.where(mask_BK, (q_BK - eta).clamp(max=0.0), 0.0)


@torch.no_grad()
def delta(q_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """p_t = Q_t − Q_{t+1}, p_T = Q_T: the return from t on is Q_t, however many turns follow (Delta, arXiv 2410.15115).

    >>> delta(torch.tensor([[0.25, 0.75]]), torch.ones(1, 2, dtype=torch.bool))
    tensor([[-0.5000,  0.7500]])
    """
    valid = ValidEntries(mask_BK)
    q_BN = valid.gather(q_BK)
    return valid.scatter(q_BN - torch.nn.functional.pad(q_BN[:, 1:], (0, 1)))


@torch.no_grad()
def min_form(q_BK: torch.Tensor, mask_BK: torch.Tensor, *, temperature: float = 0.1) -> torch.Tensor:
    """p_t = softmax(−Q/τ)_t Q_t over an episode's turns: their sum nears the lowest score as τ → 0 (PURE, arXiv 2504.15275).

    >>> min_form(torch.tensor([[0.9, 0.1]]), torch.ones(1, 2, dtype=torch.bool), temperature=0.1)
    tensor([[0.0003, 0.1000]])
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; wanted a number above 0 (strict takes the minimum itself)")
    valid = ValidEntries(mask_BK)
    q_BN = valid.gather(q_BK)
    weights_BN = (-q_BN / temperature).masked_fill(~valid.mask_BN, -torch.inf).softmax(1)
    return valid.scatter(weights_BN * q_BN)


@torch.no_grad()
def future_min(q_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """G_t = min_{k≥t} Q_k (PURE's return, arXiv 2504.15275).

    >>> future_min(torch.tensor([[0.2, 0.9, 0.4]]), torch.ones(1, 3, dtype=torch.bool))
    tensor([[0.2000, 0.4000, 0.4000]])
    """
    lowest_BK = torch.where(mask_BK, q_BK, torch.inf).flip(1).cummin(1).values.flip(1)
    return torch.where(mask_BK, lowest_BK, 0.0)


@torch.no_grad()
def potential(v_BK: torch.Tensor, mask_BK: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """F_t = γ Φ(s_{t+1}) − Φ(s_t) with Φ = V and Φ(end) = 0: no policy becomes better or worse by it (Ng, Harada & Russell, ICML 1999).

    The discounted sum over an episode is −Φ(s_0), whatever was done; an end by a step limit is an end, as the limit is part of the task.

    >>> potential(torch.tensor([[0.5, 0.8]]), torch.ones(1, 2, dtype=torch.bool), gamma=1.0)
    tensor([[ 0.3000, -0.8000]])
    """
    valid = ValidEntries(mask_BK)
    v_BN = valid.gather(v_BK)
    return valid.scatter(gamma * torch.nn.functional.pad(v_BN[:, 1:], (0, 1)) - v_BN)


@torch.no_grad()
def novelty(state_key_BK: torch.Tensor, mask_BK: torch.Tensor, group_B: torch.Tensor) -> torch.Tensor:
    """b_k = 1 / √N(s_{k+1}), N the prompt's samples that come into that state in this rollout (#Exploration, arXiv 1611.04717, section 2.2).

    A sample that returns to a state counts once in N, and is paid for its first arrival alone, so that going round in circles earns nothing. What
    the last turn leads to is not seen: 0.

    Args:
        state_key_BK: int64, the same for turns that begin in one state.

    >>> keys, yes = torch.tensor([[1, 2, 1], [1, 3, 3]]), torch.ones(2, 3, dtype=torch.bool)
    >>> novelty(keys, yes, torch.tensor([0, 0]))
    tensor([[1., 0., 0.],
            [1., 0., 0.]])
    """
    rows_N, turns_N = mask_BK.nonzero(as_tuple=True)
    visits_N3 = torch.stack([group_B[rows_N], state_key_BK[rows_N, turns_N], rows_N], 1)
    _, visit_N = visits_N3.unique(dim=0, return_inverse=True)  # of one sample to one state
    order_N = turns_N.argsort(stable=True)
    first_V = torch.full((int(visit_N.max()) + 1 if len(visit_N) else 0,), mask_BK.shape[1]).scatter_reduce(
        0, visit_N[order_N], turns_N[order_N], "amin"
    )
    states, state_V = visits_N3[:, :2].unique(dim=0, return_inverse=True)
    owner_V = torch.zeros(len(first_V), dtype=torch.long).scatter(0, visit_N, state_V)
    samples_S = owner_V.bincount(minlength=len(states))
    arrived_N = (turns_N > 0) & (first_V[visit_N] == turns_N)
    paid_BK = torch.zeros(mask_BK.shape)
    paid_BK[rows_N[arrived_N], turns_N[arrived_N] - 1] = samples_S[state_V[arrived_N]].float().rsqrt()
    return paid_BK


@torch.no_grad()
def best_of(q_BK: torch.Tensor, samples: int) -> torch.Tensor:
    """Q of a prover that takes the best of K tries: 1 − (1 − Q)^K (PAV, arXiv 2410.08146, section 4), Q read as a probability in [0, 1]."""
    return 1 - (1 - q_BK.clamp(0.0, 1.0)) ** samples


@torch.no_grad()
def returns_to_go(p_BK: torch.Tensor, mask_BK: torch.Tensor, gamma: float) -> torch.Tensor:
    """G_t = Σ_{k≥t} γ^{k−t} p_k over valid turns."""
    valid = ValidEntries(mask_BK)
    return valid.scatter(discounted_suffix_sums(valid.gather(p_BK), gamma))


@dataclass(frozen=True)
class Shaping:
    """What is done to process rewards, whatever made them, before they are added up.

    1. bound="par": p ← mean_j σ(p − m_j) over the other samples j of the prompt, m_j the mean process reward of sample j's turns: between 0
       and 1 (Preference As Reward, arXiv 2502.18770, with samples of the policy itself as references). A prompt without another sample:
       σ(p − its own mean).
    2. scaling="scale": p ← p / s; "standard": p ← (p − m) / s, with m and s the running mean and standard deviation over the turns of all rollouts
       up to this one (PPO-max, arXiv 2307.04964). Standard takes m from every turn, so it changes what a longer episode is worth; scale does not.
    3. process_clip=c: p ← min(max(p, −c), c).
    """

    bound: str = "none"
    scaling: str = "none"
    process_clip: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("bound", BOUNDS), ("scaling", SCALINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; wanted one of {', '.join(allowed)}")
        if self.process_clip is not None and not self.process_clip > 0:
            raise ValueError(f"process_clip is {self.process_clip}; wanted a number above 0")

    def __call__(self, p_BK: torch.Tensor, batch: TurnBatch) -> torch.Tensor:
        mask_BK = batch.mask_BK
        p_BK = torch.where(mask_BK, p_BK, 0.0)
        if self.bound == "par":
            p_BK = against_references(p_BK, mask_BK, needed(batch.group_B, "group_B"))
        if self.scaling != "none":
            mean, std = running_moments(p_BK[mask_BK], batch.running)
            p_BK = (p_BK - mean) / std if self.scaling == "standard" else p_BK / std
        if self.process_clip is not None:
            p_BK = p_BK.clamp(-self.process_clip, self.process_clip)
        return torch.where(mask_BK, p_BK, 0.0)


@torch.no_grad()
def against_references(p_BK: torch.Tensor, mask_BK: torch.Tensor, group_B: torch.Tensor) -> torch.Tensor:
    """mean_j σ(p_t − m_j) over the other episodes j of the group, m_j the mean of p over j's turns."""
    turns_B = mask_BK.sum(1)
    mean_B = torch.where(mask_BK, p_BK, 0.0).sum(1) / turns_B.clamp(min=1)
    others_BB = (group_B[:, None] == group_B[None, :]) & (turns_B > 0)[None, :]
    alone_B1 = others_BB.sum(1, keepdim=True) == 1
    itself_BB = torch.eye(len(group_B), dtype=torch.bool)
    others_BB = torch.where(alone_B1, others_BB, others_BB & ~itself_BB)
    total_BK = torch.zeros_like(p_BK)
    for j in range(len(group_B)):  # one (B, K) at a time: B² K would not fit
        rows = others_BB[:, j]
        if bool(rows.any()):
            total_BK[rows] += (p_BK[rows] - mean_B[j]).sigmoid()
    return torch.where(mask_BK, total_BK / others_BB.sum(1, keepdim=True).clamp(min=1), 0.0)


@torch.no_grad()
def running_moments(x_N: torch.Tensor, running: dict[str, torch.Tensor] | None) -> tuple[float, float]:
    """Mean and standard deviation over all values so far and these, by Chan's update of (count, mean, Σ(x − mean)²).

    Args:
        x_N: new values.
        running: keeps the three numbers under "process" from call to call, and is updated; None: these values alone.

    Returns:
        mean, std; std is 1 where the values do not vary.
    """
    state = {} if running is None else running
    count, mean, squares = state.get("process", torch.zeros(3, dtype=torch.float64)).tolist()
    x_N = x_N.double()
    if n := x_N.numel():
        new_mean = float(x_N.mean())
        gap, total = new_mean - mean, count + n
        squares += float((x_N - new_mean).square().sum()) + gap**2 * count * n / total
        mean, count = mean + gap * n / total, total
        state["process"] = torch.tensor([count, mean, squares], dtype=torch.float64)
    variance = squares / count if count else 0.0
    return mean, variance**0.5 if variance > 0 else 1.0
