"""Discounted suffix sums over the valid entries of each row, fast and without overflow.

Shapes: B episodes, T turns or tokens, N the largest number of valid entries in a row.
"""

from __future__ import annotations

import torch

_BLOCK = 128


class ValidEntries:
    """The True places of a mask, moved to the left of each row: gaps and padding drop out of every recursion.

    Args:
        mask_BT: bool.
    """

    def __init__(self, mask_BT: torch.Tensor) -> None:
        self.mask_BT = mask_BT
        counts_B = mask_BT.sum(dim=1)
        width = max(1, int(counts_B.max())) if mask_BT.numel() else 1
        self.counts_B = counts_B
        self.mask_BN = torch.arange(width, device=mask_BT.device) < counts_B[:, None]

    def gather(self, x_BT: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """(B, T) to (B, N); `fill` behind the last valid entry. Masked entries of `x_BT` are never read."""
        x_BN = x_BT.new_full(self.mask_BN.shape, fill)
        x_BN[self.mask_BN] = x_BT[self.mask_BT]
        return x_BN

    def scatter(self, x_BN: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """(B, N) back to (B, T); `fill` at masked places."""
        x_BT = x_BN.new_full(self.mask_BT.shape, fill)
        x_BT[self.mask_BT] = x_BN[self.mask_BN]
        return x_BT

    def set_last(self, x_BN: torch.Tensor, value_B: torch.Tensor | float) -> torch.Tensor:
        """A copy of `x_BN` with `value_B` at each row's last valid entry; rows without one stay as they are."""
        rows = self.counts_B > 0
        x_BN = x_BN.clone()
        last_B = self.counts_B[rows] - 1
        x_BN[rows, last_B] = value_B[rows] if isinstance(value_B, torch.Tensor) else value_B
        return x_BN


def last_valid(mask_BT: torch.Tensor) -> torch.Tensor:
    """True at the last True place of each row; nowhere in a row without one.

    >>> last_valid(torch.tensor([[True, False, True, False], [False, False, False, False]]))
    tensor([[False, False,  True, False],
            [False, False, False, False]])
    """
    return mask_BT & (mask_BT.flip(1).cumsum(1).flip(1) == 1)


def discounted_suffix_sums(x_BN: torch.Tensor, decay: float) -> torch.Tensor:
    """y_t = x_t + decay · y_{t+1}, with y = 0 behind the end.

    Long rows are cut into blocks: inside a block the sum is a product with the upper triangle decay^(j−i); the carry from block
    to block is the same recursion with decay^block, solved by recursion. Every power is at most 1, so nothing overflows.

    Args:
        x_BN: float32 or float64.
        decay: in [0, 1].
    """
    if decay == 0.0 or x_BN.shape[1] <= 1:
        return x_BN.clone()
    if decay == 1.0:
        return x_BN.flip(1).cumsum(1).flip(1)
    if x_BN.shape[1] <= _BLOCK:
        return x_BN @ _decay_triangle(x_BN.shape[1], decay, x_BN)
    rows, width = x_BN.shape
    blocks = -(-width // _BLOCK)
    x_BCL = torch.nn.functional.pad(x_BN, (0, blocks * _BLOCK - width)).view(rows, blocks, _BLOCK)
    y_BCL = x_BCL @ _decay_triangle(_BLOCK, decay, x_BN)
    carry_BC = discounted_suffix_sums(y_BCL[:, :, 0].contiguous(), decay**_BLOCK)
    powers_L = decay ** torch.arange(_BLOCK, 0, -1, device=x_BN.device, dtype=torch.float64)
    y_BCL[:, :-1] += carry_BC[:, 1:, None] * powers_L.to(x_BN.dtype)
    return y_BCL.reshape(rows, blocks * _BLOCK)[:, :width]


def _decay_triangle(size: int, decay: float, like: torch.Tensor) -> torch.Tensor:
    """M[j, i] = decay^(j − i) for j ≥ i, else 0, so that (x @ M)_i = Σ_{j ≥ i} decay^(j−i) x_j."""
    steps = torch.arange(size, device=like.device, dtype=torch.float64)
    exponent = steps[:, None] - steps[None, :]
    return torch.where(exponent >= 0, decay ** exponent.clamp(min=0), 0.0).to(like.dtype)
