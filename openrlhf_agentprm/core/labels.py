"""Training targets for the score of every turn. Targets carry no gradient.

Legend: B episodes, K turns. M_t is the model's own score of turn t, r the outcome, T the last turn. A label function of the
registry takes a `LabelBatch` and options; it returns targets_BK, NaN at turns that its method leaves unlabelled.
"""

from __future__ import annotations

import warnings

import torch

from . import checks
from .advantages import turn_gae
from .batches import LabelBatch
from .scan import ValidEntries, discounted_suffix_sums, last_valid


@torch.no_grad()
def td_gae_targets(
    q_BK: torch.Tensor,
    rewards_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    *,
    gamma: float = 1.0,
    lambd: float = 0.95,
    bootstrap_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Targets of AgentPRM by temporal differences and GAE (Xi et al., arXiv 2511.08325, Eq 12-14).

        δ_t = r_t + γ M_t − M_{t−1} for t < T,   δ_T = r_T − M_{T−1}
        Â_t = Σ_k (γλ)^k δ_{t+k}
        Q̂_t = Â_t + M_{t−1},   Q̂_T = r_T

    M_{−1} cancels. Put together this is Q̂_t = r_t + γ(1−λ) M_t + γλ Q̂_{t+1}, with Q̂_T = r_T (+ γ·bootstrap). λ = 1 labels every turn
    with the discounted outcome; λ = 0 gives the model's own score back before the last turn.

    Args:
        q_BK: M_t, float32 or float64; M_T is not read.
        rewards_BK: r_t, the outcome at the last turn.
        mask_BK: bool, True = a turn.
        gamma: discount a turn, in [0, 1]. The paper does not state it.
        lambd: λ, in [0, 1]; 0.95 in the paper.
        bootstrap_B: value behind the last turn of episodes cut by a limit.

    Returns:
        targets_BK, 0 at masked places, no gradient.

    >>> m = torch.ones(1, 2, dtype=torch.bool)
    >>> td_gae_targets(torch.tensor([[0.2, 0.9]]), torch.tensor([[0.0, 1.0]]), m, lambd=0.5)
    tensor([[0.6000, 1.0000]])
    """
    checks.same_layout(mask_BK, q_BK=q_BK, rewards_BK=rewards_BK)
    checks.unit_interval("gamma", gamma)
    checks.unit_interval("lambd", lambd)
    valid = ValidEntries(mask_BK)
    after_B: torch.Tensor | float = 0.0
    if bootstrap_B is not None:
        checks.per_episode("bootstrap_B", bootstrap_B, q_BK)
        after_B = gamma * bootstrap_B
    own_BN = valid.set_last(gamma * (1 - lambd) * valid.gather(q_BK), after_B)
    return valid.scatter(discounted_suffix_sums(valid.gather(rewards_BK) + own_BN, gamma * lambd))


def td_gae(batch: LabelBatch, *, gamma: float = 1.0, lambd: float = 0.95, bootstrap: bool = False, dense: bool = False) -> torch.Tensor:
    """Registry entry `td_gae`: `td_gae_targets` of the current model's own scores.

    The paper's recursion replaces V(s_{t+1}) by M_t, which has not seen the next observation. That is exact for deterministic
    transitions with a reward at the end only; a warning says so when rewards come earlier or γ < 1.

    Args:
        bootstrap: behind the last turn of an episode that a limit cut comes the model's own score of it. A sparse outcome, which stands at
            that turn because nothing came after it, gives way; a dense reward of the turn itself stays (`dense`).
        dense: the rewards are the environment's own, turn by turn.
    """
    if gamma < 1.0 or bool((_before_last(batch.rewards_BK, batch.mask_BK) != 0).any()):
        warnings.warn(
            "td_gae with gamma < 1 or with rewards before the last turn is not a Bellman equation (its V(s') has not seen the next "
            "observation)",
            stacklevel=2,
        )
    rewards_BK, bootstrap_B = _behind_the_end(batch, bootstrap, dense)
    return td_gae_targets(batch.q_BK, rewards_BK, batch.mask_BK, gamma=gamma, lambd=lambd, bootstrap_B=bootstrap_B)


def td_qv(batch: LabelBatch, *, gamma: float = 1.0, lambd: float = 0.95, bootstrap: bool = False, dense: bool = False) -> torch.Tensor:
    """Registry entry `td_qv` (ours): the λ-return over states, the target of Q(s_t, a_t) and of V(s_t) alike.

        δ_t = r_t + γ V_{t+1} − V_t
        G_t = V_t + Σ_k (γλ)^k δ_{t+k}

    V_t is the model's own value read before the action, so it has seen the observation that `td_gae` leaves out: this is a Bellman equation
    for stochastic and partly observed environments, for rewards at every turn and for any γ. λ = 0 is one-step TD, λ = 1 the return.

    Args:
        bootstrap, dense: as in `td_gae`; the value behind the end of an episode that a limit cut is the model's score of its last turn.

    Raises:
        ValueError: the batch has no V.
    """
    if batch.v_BK is None:
        raise ValueError("v_BK is None; td_qv wants the model's values at the states")
    rewards_BK, bootstrap_B = _behind_the_end(batch, bootstrap, dense)
    return turn_gae(rewards_BK, batch.v_BK, batch.mask_BK, gamma=gamma, lambd=lambd, bootstrap_value_B=bootstrap_B)[1]


def _behind_the_end(batch: LabelBatch, bootstrap: bool, dense: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rewards, and the value behind the last turn: the model's own score of it where a limit cut the episode and `bootstrap` is on."""
    if not bootstrap:
        return batch.rewards_BK, None
    last_BK = last_valid(batch.mask_BK)
    cut_B = batch.truncated_B & ~batch.terminated_B
    rewards_BK = batch.rewards_BK if dense else torch.where(last_BK & cut_B[:, None], 0.0, batch.rewards_BK)
    last_q_B = torch.where(last_BK, batch.q_BK, 0.0).sum(1)
    return rewards_BK, torch.where(cut_B, last_q_B, 0.0)


@torch.no_grad()
def progress_targets(targets_BK: torch.Tensor, v_BK: torch.Tensor, mask_BK: torch.Tensor, *, values: str) -> torch.Tensor:
    """Targets of a head of its own for progress, from those of the promise.

        values "previous_q":  Â_t = Q̂_t − Q̂_{t−1},  Â_0 = Q̂_0 − V(s_0)    (arXiv 2511.08325, Eq 7-8)
        values "state":       Â_t = Q̂_t − V(s_t)                           (Eq 5)

    Args:
        targets_BK: Q̂_t; NaN: no label.
        v_BK: the model's own V(s_t).
        mask_BK: bool, True = a turn.
        values: how V(s_t) is read.

    Returns:
        targets of A_t, no gradient; NaN where one of the two is missing and at masked places.
    """
    checks.same_layout(mask_BK, targets_BK=targets_BK, v_BK=v_BK)
    if values not in ("previous_q", "state"):
        raise ValueError(f"values is {values!r}; wanted 'previous_q' or 'state'")
    before_BK = v_BK
    if values == "previous_q":
        valid = ValidEntries(mask_BK)
        first_B1 = valid.gather(v_BK)[:, :1]
        before_BK = valid.scatter(torch.cat([first_B1, valid.gather(targets_BK)[:, :-1]], dim=1))
    return torch.where(mask_BK, targets_BK - before_BK, float("nan"))


@torch.no_grad()
def outcome_all(batch: LabelBatch) -> torch.Tensor:
    """Registry entry `outcome_all` (PVM): Q̂_t = r at every turn, the λ = 1 end of `td_gae` (baseline of arXiv 2511.08325)."""
    return torch.where(batch.mask_BK, batch.outcome_B[:, None].to(batch.q_BK.dtype), 0.0)


@torch.no_grad()
def outcome_last(batch: LabelBatch) -> torch.Tensor:
    """Registry entry `outcome_last` (ORM): Q̂_T = r at the last turn, no label (NaN) at the others."""
    nan = torch.full_like(batch.q_BK, float("nan"))
    return torch.where(last_valid(batch.mask_BK), batch.outcome_B[:, None].to(batch.q_BK.dtype), nan)


def _before_last(x_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    return torch.where(mask_BK & ~last_valid(mask_BK), x_BK, 0.0)
