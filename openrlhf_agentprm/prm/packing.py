"""Packing: the episodes of a micro-batch as one row without padding, each attending to itself alone.

Under flash attention the row goes through its kernels for sequences of unlike lengths; under sdpa each sequence is attended on its own, so
neither computes a score between two episodes. Legend: B episodes, T padded tokens, N tokens of all episodes, K turns, H features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..core.errors import UserError
from ..data.layout import TurnPositions
from .dataset import PRMBatch

BY_SEQUENCE = "sdpa_by_sequence"
"""The name under which transformers finds `attend_by_sequence`."""
_UNKNOWN = ("softcap", "s_aux", "position_bias")  # what some models give to attention, and a plain softmax would leave out


def enable_packing(model: Any) -> None:
    """Make `read_out` of this model pack its rows.

    Raises:
        UserError: its attention is neither flash attention nor sdpa.
    """
    from transformers import AttentionInterface

    found = model.config._attn_implementation
    if found == "sdpa":
        AttentionInterface.register(BY_SEQUENCE, attend_by_sequence)
        model.set_attn_implementation(BY_SEQUENCE)
    elif "flash_attention" not in found:
        raise UserError(f"--ds.packing_samples wants --ds.attn_implementation sdpa or flash_attention_2, and came with {found}")
    model.packs_rows = True


def packed_hidden(backbone: Any, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, places_BK: torch.Tensor) -> torch.Tensor:
    """Hidden states (B, K, H) at places of each episode, from one row (1, N) of all episodes whose position ids begin anew at each."""
    kept_BT = attention_mask_BT.bool()
    lengths_B = kept_BT.sum(1)
    ends = torch.nn.functional.pad(lengths_B.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths_B.max())
    hidden = backbone(
        input_ids=input_ids_BT[kept_BT][None],
        position_ids=(attention_mask_BT.long().cumsum(-1) - 1)[kept_BT][None],
        use_cache=False,
        cu_seq_lens_q=ends,
        cu_seq_lens_k=ends,
        max_length_q=longest,
        max_length_k=longest,
    )
    return hidden.last_hidden_state[0][ends[:-1, None] + places_BK]


def attend_by_sequence(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of every sequence of a row to itself, as transformers calls attention.

    Args:
        query, key, value: (1, heads, N, size); fewer heads of keys are shared.
        sliding_window: tokens that a token sees, itself among them.
        cu_seq_lens_q: where sequences end, 0 first; without it, right-padded rows (B, heads, T, size), whose padding no token sees.

    Raises:
        UserError: the model asks of attention what this does not compute.
    """
    if asked := [name for name in _UNKNOWN if more.get(name) is not None]:
        raise UserError(f"--ds.packing_samples: this model's attention has {', '.join(asked)}; train it without packing")
    ends = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    lengths = [end - start for start, end in zip(ends[:-1], ends[1:], strict=True)]
    found = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        window = _window_mask(q.shape[2], sliding_window, q.device)
        found.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=window, dropout_p=dropout, is_causal=window is None, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """What a token sees through a window, bool; None where the window is wider than the sequence."""
    if window is None or length <= window:
        return None
    behind = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (behind >= 0) & (behind < window)


@torch.no_grad()
def check_apart(scores: Callable[[PRMBatch], Sequence[torch.Tensor]], device: torch.device) -> None:
    """Refuse a model whose packed episodes see each other, as through a recurrent layer: another neighbour must not change a score.

    Args:
        scores: Q and V of a batch's turns.

    Raises:
        UserError: the second episode's scores change with the tokens of the first.
    """
    ids_BT = torch.arange(1, 25).expand(2, -1) % 8
    places_BK = torch.tensor([[11, 23], [11, 23]])
    positions = TurnPositions(places_BK, places_BK - 8, torch.ones(2, 2, dtype=torch.bool))
    none_BK, none_B = torch.zeros(2, 2), torch.zeros(2)
    pair = PRMBatch(ids_BT, torch.ones_like(ids_BT), positions, none_BK, none_B, none_B.bool(), none_B.bool()).to(device)
    other = replace(pair, input_ids_BT=torch.stack([torch.ones_like(ids_BT[0]), ids_BT[1]]).to(device))
    for before, after in zip(scores(pair), scores(other), strict=True):
        if not torch.allclose(before[1], after[1], rtol=1e-4, atol=1e-5):
            raise UserError("--ds.packing_samples: this model's layers carry one episode's tokens into the next; train it without packing")
