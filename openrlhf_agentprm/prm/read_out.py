"""Scores of every turn from one forward pass: hidden states at the turns' last tokens and states, under the score heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..data.layout import TurnPositions


def head(model: Any) -> torch.nn.Linear:
    """The score head, also under LoRA's wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    score = inner.score
    return score.modules_to_save["default"] if hasattr(score, "modules_to_save") else score


def read_heads(
    model: Any, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, positions: TurnPositions
) -> tuple[torch.Tensor, torch.Tensor]:
    """What M heads give at every turn, from one forward pass: q = h[end − 1], v = h[start − 1], the heads in float32.

    Args:
        model: a PRM (the backbone may be in any dtype).
        input_ids_BT: int64, right-padded.
        attention_mask_BT: 1 at tokens, 0 at padding.
        positions: where the turns stand.

    Returns:
        q_BKM, v_BKM in float32; at masked turns whatever stands at token 0.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(inner, inner.base_model_prefix)
    places_BK = torch.cat([positions.q_BK, positions.v_BK], dim=1).to(input_ids_BT.device)
    if getattr(inner, "packs_rows", False):
        from .packing import packed_hidden

        both_BKH = packed_hidden(backbone, input_ids_BT, attention_mask_BT, places_BK)
    else:
        both_BKH = _padded_hidden(backbone, input_ids_BT, attention_mask_BT, places_BK)
    q_BKM, v_BKM = torch.nn.functional.linear(both_BKH.float(), head(model).weight.float()).chunk(2, dim=1)
    return q_BKM, v_BKM


def read_out(
    model: Any, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, positions: TurnPositions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and V of every turn, (B, K), by the one head of a scalar PRM; else as `read_heads`."""
    q_BK1, v_BK1 = read_heads(model, input_ids_BT, attention_mask_BT, positions)
    return q_BK1.squeeze(-1), v_BK1.squeeze(-1)


def _padded_hidden(backbone: Any, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, places_BK: torch.Tensor) -> torch.Tensor:
    """Hidden states (B, K, H) at places of right-padded rows.

    No token sees what stands behind it, so sdpa is spared the mask of the padding: it then takes its causal kernel, for the same scores.
    """
    given: dict[str, Any] = {}
    if backbone.config._attn_implementation != "sdpa" or not bool(attention_mask_BT[:, 0].all()):
        given["attention_mask"] = attention_mask_BT
        given["position_ids"] = (attention_mask_BT.long().cumsum(-1) - 1).clamp(min=0)
    h_BTH = backbone(input_ids=input_ids_BT, use_cache=False, **given).last_hidden_state
    return h_BTH[torch.arange(h_BTH.shape[0], device=h_BTH.device)[:, None], places_BK]


def read_out_on_call(model: Any) -> None:
    """Make `model(input_ids_BT, attention_mask_BT, q_positions_BK, v_positions_BK)` answer `read_out`.

    An engine that wraps the model then runs it through its own `forward`, as ZeRO needs to gather weights and to count micro-batches.
    """
    _on_call(model, read_out)


def read_heads_on_call(model: Any) -> None:
    """The same with `read_heads`."""
    _on_call(model, read_heads)


def _on_call(model: Any, read: Callable[..., Any]) -> None:
    def forward(ids_BT: torch.Tensor, mask_BT: torch.Tensor, q_BK: torch.Tensor, v_BK: torch.Tensor) -> Any:
        return read(model, ids_BT, mask_BT, TurnPositions(q_BK, v_BK, torch.ones_like(q_BK, dtype=torch.bool)))

    model.forward = forward
