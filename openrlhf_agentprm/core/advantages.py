"""Generalised advantage estimation over turns and over tokens, and the small steps around it.

Legend: B episodes, K turns, T tokens. Masks are bool, True = counts. What stands at masked places may be anything, NaN too: it is
never read, and results hold 0 there. No gradient flows through these functions.
"""

from __future__ import annotations

import torch

from . import checks
from .scan import ValidEntries, discounted_suffix_sums


@torch.no_grad()
def turn_gae(
    rewards_BK: torch.Tensor,
    values_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    *,
    gamma: float,
    lambd: float,
    bootstrap_value_B: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE with a turn as the step (Schulman et al., arXiv 1506.02438, Eq 16, over turns).

        δ_t = r_t + γ V_{t+1} − V_t
        A_t = δ_t + γλ A_{t+1}
        R_t = A_t + V_t

    t runs over the valid turns of an episode only; V behind the last valid turn is the bootstrap value, or 0. Observations take no
    part, so their length changes nothing.

    Args:
        rewards_BK: reward of each turn, float32 or float64.
        values_BK: V(s_t), read before the turn's first token is sampled.
        mask_BK: bool, True = a turn.
        gamma: discount a turn, in [0, 1].
        lambd: λ, in [0, 1].
        bootstrap_value_B: V behind the last turn of episodes cut by a limit.

    Returns:
        advantages_BK, returns_BK; 0 at masked places.

    Raises:
        ValueError: a wrong shape, dtype, device or range, with the argument's name.

    >>> r, v, m = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.8]]), torch.ones(1, 2, dtype=torch.bool)
    >>> turn_gae(r, v, m, gamma=1.0, lambd=0.95)[0]
    tensor([[0.4900, 0.2000]])
    """
    return _masked_gae(rewards_BK, values_BK, mask_BK, gamma, lambd, bootstrap_value_B, "BK")


@torch.no_grad()
def token_gae(
    rewards_BT: torch.Tensor,
    values_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    gamma: float,
    lambd: float,
    bootstrap_value_B: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE with an action token as the step: the recursion of `turn_gae` over the tokens whose mask is True.

    A masked token (observation, padding) is passed through: it is neither read nor does it decay anything by γλ. This mends the
    host's GAE, which multiplies by γλ at every masked token as well.

    Args, Returns, Raises: as `turn_gae`, with tokens for turns.
    """
    return _masked_gae(rewards_BT, values_BT, mask_BT, gamma, lambd, bootstrap_value_B, "BT")


def _masked_gae(
    rewards_BT: torch.Tensor,
    values_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    gamma: float,
    lambd: float,
    bootstrap_B: torch.Tensor | None,
    shape: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    checks.same_layout(mask_BT, mask_name=f"mask_{shape}", **{f"rewards_{shape}": rewards_BT, f"values_{shape}": values_BT})
    checks.unit_interval("gamma", gamma)
    checks.unit_interval("lambd", lambd)
    if bootstrap_B is not None:
        checks.per_episode("bootstrap_value_B", bootstrap_B, rewards_BT)
    valid = ValidEntries(mask_BT)
    values_BN = valid.gather(values_BT)
    next_values_BN = torch.nn.functional.pad(values_BN[:, 1:], (0, 1))
    if bootstrap_B is not None:
        next_values_BN = valid.set_last(next_values_BN, bootstrap_B)
    deltas_BN = valid.gather(rewards_BT) + gamma * next_values_BN - values_BN
    deltas_BN = deltas_BN.masked_fill(~valid.mask_BN, 0.0)
    advantages_BN = discounted_suffix_sums(deltas_BN, gamma * lambd)
    return valid.scatter(advantages_BN), valid.scatter(advantages_BN + values_BN)


@torch.no_grad()
def spread_turns(x_BK: torch.Tensor, turn_ids_BT: torch.Tensor) -> torch.Tensor:
    """Give every token its turn's number: y[b, t] = x[b, turn_ids[b, t]], 0 where there is no turn.

    Args:
        x_BK: one number a turn.
        turn_ids_BT: int64, −1 where no turn.

    Returns:
        y_BT, of x's dtype.
    """
    checks.is_tensor("x_BK", x_BK)
    checks.is_tensor("turn_ids_BT", turn_ids_BT)
    checks.floating("x_BK", x_BK)
    if x_BK.device != turn_ids_BT.device:
        raise ValueError(f"turn_ids_BT is on {turn_ids_BT.device}; wanted {x_BK.device}, as x_BK")
    if turn_ids_BT.dtype != torch.int64:
        raise ValueError(f"turn_ids_BT is {turn_ids_BT.dtype}; wanted torch.int64")
    if turn_ids_BT.dim() != 2 or x_BK.dim() != 2 or x_BK.shape[0] != turn_ids_BT.shape[0]:
        raise ValueError(f"x_BK has shape {tuple(x_BK.shape)} and turn_ids_BT {tuple(turn_ids_BT.shape)}; wanted (B, K) and (B, T)")
    if turn_ids_BT.numel() and int(turn_ids_BT.max()) >= x_BK.shape[1]:
        raise ValueError(f"turn_ids_BT holds {int(turn_ids_BT.max())}; wanted ids below K = {x_BK.shape[1]}")
    with_zero_BK = torch.nn.functional.pad(x_BK, (1, 0))
    return with_zero_BK.gather(1, turn_ids_BT.clamp(min=-1) + 1)


@torch.no_grad()
def previous_values(q_BK: torch.Tensor, v0_B: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """V(s_t) = Q(s_{t−1}, a_{t−1}) with V(s_0) given: exact where transitions are deterministic (arXiv 2511.08325, Eq 7-8).

    Args:
        q_BK: Q of each turn.
        v0_B: V of the initial state.
        mask_BK: bool; a masked turn is skipped, so the turn behind it sees the one before it.

    Returns:
        v_BK, 0 at masked places.
    """
    checks.same_layout(mask_BK, q_BK=q_BK)
    checks.per_episode("v0_B", v0_B, q_BK)
    valid = ValidEntries(mask_BK)
    q_BN = valid.gather(q_BK)
    return valid.scatter(torch.cat([v0_B[:, None], q_BN], dim=1)[:, : q_BN.shape[1]])


@torch.no_grad()
def progress(q_BK: torch.Tensor, v_BK: torch.Tensor, mask_BK: torch.Tensor) -> torch.Tensor:
    """A_t = Q(s_t, a_t) − V(s_t) (arXiv 2511.08325, Eq 5); 0 at masked places."""
    checks.same_layout(mask_BK, q_BK=q_BK, v_BK=v_BK)
    return torch.where(mask_BK, q_BK - v_BK, 0.0)
