"""Other actions at an episode's states, scored in the episode's own pass.

A row is the episode's tokens, the trunk, and behind them the branches: the tokens of actions that were not taken. A branch at a turn sees the
trunk up to where that turn's action begins, and itself, and stands at the positions that the action had taken; nothing sees a branch. So
every state is computed once, and an action costs its own tokens. Legend: B rows, T tokens, K turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ...core.errors import UserError
from ...data.layout import Span, TurnPositions
from ..read_out import head
from ..scoring import make_batch

Branch = tuple[int, Sequence[int]]
"""The turn at whose state it begins, and its tokens."""


@dataclass
class BranchBatch:
    """A padded batch of trunks with branches."""

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    branch_BT: torch.Tensor  # int64: 0 in the trunk and in padding, from 1 in branches
    seen_BT: torch.Tensor  # int64: how much of the trunk a branch sees
    positions: TurnPositions
    branch_end_BK: torch.Tensor  # int64: the last token of the branch at a turn, 0 where none begins

    def to(self, device: torch.device) -> Any:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @property
    def bias(self) -> torch.Tensor | None:
        """Which token sees which, (B, T, T) bool; None where no row has a branch and the causal order says all."""
        if not bool(self.branch_BT.any()):
            return None
        order_T = torch.arange(self.input_ids_BT.shape[1], device=self.input_ids_BT.device)
        causal_TT = order_T[:, None] >= order_T[None]
        asks, asked = self.branch_BT[:, :, None], self.branch_BT[:, None]
        trunk_BTT = (asked == 0) & ((asks == 0) | (order_T < self.seen_BT[:, :, None]))
        real_BTT = self.attention_mask_BT.bool()[:, None]
        return (causal_TT & real_BTT & (trunk_BTT | (asks == asked))) | torch.eye(len(order_T), dtype=torch.bool, device=order_T.device)


def branch_batch(token_ids: Sequence[Sequence[int]], spans: Sequence[Sequence[Span]], branches: Sequence[Sequence[Branch]]) -> BranchBatch:
    """Rows of trunks with at most one branch a turn."""
    rows = [[*ids, *(token for _, tokens in own for token in tokens)] for ids, own in zip(token_ids, branches, strict=True)]
    batch = make_batch(rows, spans)
    shape = batch.input_ids_BT.shape
    branch_BT, seen_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    position_ids_BT = torch.arange(shape[1]).repeat(shape[0], 1)
    branch_end_BK = torch.zeros_like(batch.positions.q_BK)
    for row, (ids, own) in enumerate(zip(token_ids, branches, strict=True)):
        at = len(ids)
        for number, (turn, tokens) in enumerate(own, 1):
            start, end = spans[row][turn][0], at + len(tokens)
            branch_BT[row, at:end], seen_BT[row, at:end] = number, start
            position_ids_BT[row, at:end] = torch.arange(start, start + len(tokens))
            branch_end_BK[row, turn] = end - 1
            at = end
    return BranchBatch(
        batch.input_ids_BT, batch.attention_mask_BT, position_ids_BT, branch_BT, seen_BT, batch.positions, branch_end_BK
    )  # fmt: skip


def check_branches(config: Any, attn_implementation: str) -> list[str]:
    """Why a model's attention cannot take branches."""
    found = []
    if attn_implementation not in ("sdpa", "eager"):
        found.append(f"--ds.attn_implementation {attn_implementation} takes no branches behind a prefix; take sdpa")
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or []) - {"full_attention"}
    if not kinds and getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True):
        kinds = {"sliding_attention"}
    if kinds:
        found.append(f"the model has layers of {', '.join(sorted(kinds))}, which take no branches behind a prefix")
    return found


def read_places(
    model: Any,
    input_ids_BT: torch.Tensor,
    attention_mask_BT: torch.Tensor,
    places_BP: torch.Tensor,
    position_ids_BT: torch.Tensor | None = None,
    sees_BTT: torch.Tensor | None = None,
) -> torch.Tensor:
    """What a scalar PRM's head gives at places, (B, P) float32; with `sees_BTT` in place of the causal order."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(inner, inner.base_model_prefix)
    if position_ids_BT is None:
        position_ids_BT = (attention_mask_BT.long().cumsum(-1) - 1).clamp(min=0)
    mask = attention_mask_BT
    if sees_BTT is not None:
        dtype = backbone.get_input_embeddings().weight.dtype
        mask = torch.zeros(sees_BTT.shape, dtype=dtype, device=sees_BTT.device).masked_fill(~sees_BTT, torch.finfo(dtype).min)[:, None]
    hidden = backbone(input_ids=input_ids_BT, attention_mask=mask, position_ids=position_ids_BT, use_cache=False)
    h_BTH = hidden.last_hidden_state
    rows = torch.arange(h_BTH.shape[0], device=h_BTH.device)[:, None]
    return torch.nn.functional.linear(h_BTH[rows, places_BP].float(), head(model).weight.float()).squeeze(-1)


def read_places_on_call(model: Any) -> None:
    """Make `model(...)` answer `read_places`, for an engine around it."""

    def forward(*given: torch.Tensor | None) -> torch.Tensor:
        return read_places(model, *given)  # type: ignore[arg-type]

    model.forward = forward


def refuse(problems: list[str]) -> None:
    if problems:
        raise UserError(problems)
