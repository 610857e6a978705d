"""Scoring the actions of one node in one pass: the prefix once, every action behind it.

A row holds  prefix, action 1, action 2, …  Each token sees the prefix and what stands before it in its own action, and has the position that it
would have directly behind the prefix. So an action's score is that of the prefix with the action alone, and the prefix is read once for all of
them: with L tokens of prefix and M actions of a tokens, L + M·a tokens in place of M·(L + a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch

from ..core.errors import UserError
from ..data.layout import Span
from .read_out import head
from .scoring import ScalarPRM, is_plain, length_batches


@dataclass
class Branches:
    """A node and its actions.

    Args:
        prefix: tokens up to the actions.
        spans: of the actions among them.
        actions: tokens of each action.
    """

    prefix: Sequence[int]
    spans: Sequence[Span]
    actions: Sequence[Sequence[int]]

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(map(len, self.actions))


def takes_branches(prm: object) -> TypeGuard[ScalarPRM]:
    """Whether a PRM's attention takes any mask: full causal attention in every layer, by sdpa or eager, and one linear score a token."""
    if not (isinstance(prm, ScalarPRM) and is_plain(type(prm))) or prm.record.output not in ("linear", "sigmoid"):
        return False
    model: Any = prm.model
    config = getattr(model, "config", None)
    if config is None or getattr(model, "score", None) is None or head(model).out_features != 1:
        return False
    config = config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    masked = config._attn_implementation in ("sdpa", "eager") and getattr(model, "_supports_attention_backend", False)
    return masked and layers == {"full_attention"} and not slides


@torch.no_grad()
def score_branches(prm: ScalarPRM, nodes: Sequence[Branches], *, max_tokens: int = 16_384) -> list[tuple[torch.Tensor, float]]:
    """Q of every action and V of the node, as `score_all` gives them for the prefix with each action alone.

    Args:
        nodes: each with one action or more.
        max_tokens: padded tokens a batch; a batch's mask has the square of its width for each row.

    Returns:
        (q_M float32 on the CPU, v) of each node.
    """
    found: list[tuple[torch.Tensor, float]] = [(torch.empty(0), 0.0)] * len(nodes)
    for rows in length_batches([node.length for node in nodes], max_tokens):
        scores = _pass(prm, [nodes[i] for i in rows])
        for row, i in enumerate(rows):
            q_M, v = scores[row]
            found[i] = (q_M, v)
    return found


def _pass(prm: ScalarPRM, nodes: Sequence[Branches]) -> list[tuple[torch.Tensor, float]]:
    ids_BT, positions_BT, branch_BT = _packed(nodes)
    model: Any = prm.model
    if int(ids_BT.max()) >= model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"the paths hold token {int(ids_BT.max())}, but the PRM knows {model.get_input_embeddings().num_embeddings}: "
            "it was made for another tokenizer"
        )
    device = next(model.parameters()).device
    mask = tree_mask(branch_BT.to(device))[:, None]
    if model.config.get_text_config()._attn_implementation == "eager":
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min)
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=ids_BT.to(device), attention_mask=mask, position_ids=positions_BT.to(device), use_cache=False)
    weight = head(model).weight.float()
    found = []
    for row, node in enumerate(nodes):
        start, places = len(node.prefix), []
        for action in node.actions:
            start += len(action)
            places.append(start - 1)
        before = node.spans[-1][1] if prm.record.values.startswith("previous_q") and node.spans else len(node.prefix)
        scores = torch.nn.functional.linear(hidden.last_hidden_state[row, [*places, before - 1]].float(), weight).squeeze(-1).cpu()
        if prm.record.output == "sigmoid":
            scores = scores.sigmoid()
        v = 0.0 if prm.record.values == "previous_q_from_0" and not node.spans else float(scores[-1])
        found.append((scores[:-1], v))
    return found


def tree_mask(branch_BT: torch.Tensor) -> torch.Tensor:
    """Which token sees which: what stands before it, in the prefix (0) or in its own branch.

    Args:
        branch_BT: int64, 0 in the prefix, 1, 2, … in the actions, −1 at padding.

    Returns:
        (B, T, T) bool, True where row t sees column u.

    >>> tree_mask(torch.tensor([[0, 1, 1, 2]]))[0].int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [1, 0, 0, 1]], dtype=torch.int32)
    """
    width = branch_BT.shape[1]
    before = torch.ones(width, width, dtype=torch.bool, device=branch_BT.device).tril()
    return before & ((branch_BT[:, None, :] == 0) | (branch_BT[:, None, :] == branch_BT[:, :, None]))


def _packed(nodes: Sequence[Branches]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, positions and branch numbers, right-padded."""
    width = max(node.length for node in nodes)
    ids_BT, positions_BT = (torch.zeros(len(nodes), width, dtype=torch.long) for _ in range(2))
    branch_BT = torch.full((len(nodes), width), -1, dtype=torch.long)
    for row, node in enumerate(nodes):
        length, prefix = node.length, len(node.prefix)
        ids = [*node.prefix, *(token for action in node.actions for token in action)]
        positions = [*range(prefix), *(prefix + i for action in node.actions for i in range(len(action)))]
        branches = [0] * prefix + [number for number, action in enumerate(node.actions, 1) for _ in action]
        for tensor, values in ((ids_BT, ids), (positions_BT, positions), (branch_BT, branches)):
            tensor[row, :length] = torch.tensor(values, dtype=torch.long)
    return ids_BT, positions_BT, branch_BT
