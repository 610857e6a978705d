"""Log-probabilities of actions under a language model: one causal pass, and the vocabulary only where an action's token is predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...core.errors import UserError
from ..model import DTYPES
from ..vocabulary import read_config

_SCALED = ("logit_scale", "logits_scaling", "final_logit_softcapping")
_ROWS = 4096  # of logits at a time in scoring


def check_language_model(path: str) -> None:
    """Refuse what is no language model, or one that does more to its logits than its output embeddings; reads the configuration only.

    Raises:
        UserError: names the model.
    """
    config = read_config(path)
    names = config.architectures or []
    if any("Classification" in name for name in names):
        raise UserError(f"{path!r} is a {', '.join(names)}, not a language model")
    scaled = [name for name in _SCALED if getattr(config.get_text_config(), name, None) not in (None, 1, 1.0)]
    if scaled:
        raise UserError(f"{path!r} changes its logits behind the output embeddings ({', '.join(scaled)}), which is not supported here")


def load_language_model(path: str, *, dtype: str = "fp32", attn_implementation: str = "sdpa") -> Any:
    """A language model.

    Raises:
        UserError: it is none, or cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    check_language_model(path)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is unknown (allowed: {', '.join(DTYPES)})")
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype], attn_implementation=attn_implementation)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"no language model could be loaded from {path!r}: {error}") from error


@contextlib.contextmanager
def unpartitioned() -> Iterator[None]:
    """Models that are loaded here are whole on every process, also where ZeRO-3 would partition them."""
    from transformers.integrations import deepspeed

    module: Any = deepspeed
    before = module._hf_deepspeed_config_weak_ref
    module.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        module._hf_deepspeed_config_weak_ref = before


def action_logprobs(
    model: Any, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, turn_ids_BT: torch.Tensor, rows: int | None = None
) -> torch.Tensor:
    """log π(y_{i+1} | y_≤i) at the positions i that predict a token of an action, 0 elsewhere; float32.

    Hidden states of those positions are gathered before the vocabulary's logits are made, so no (B, T, vocabulary) tensor is.

    Args:
        model: a causal language model, also under LoRA's wrapper.
        input_ids_BT: int64, right-padded.
        attention_mask_BT: 1 at tokens, 0 at padding.
        turn_ids_BT: of `data.layout.turn_ids`.
        rows: logits at a time; None: all at once, as ZeRO-3 wants, whose ranks have to call each module equally often.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(inner, inner.base_model_prefix)
    position_ids = (attention_mask_BT.long().cumsum(-1) - 1).clamp(min=0)
    hidden = backbone(input_ids=input_ids_BT, attention_mask=attention_mask_BT, position_ids=position_ids, use_cache=False)
    inside_BT = turn_ids_BT >= 0
    hidden_NH = hidden.last_hidden_state[inside_BT]
    next_N = input_ids_BT.roll(-1, 1)[inside_BT]  # the last position predicts nothing, so it is in no turn
    head = inner.get_output_embeddings()
    parts = zip(hidden_NH.split(rows), next_N.split(rows), strict=True) if rows and len(next_N) else [(hidden_NH, next_N)]
    found = [-torch.nn.functional.cross_entropy(head(h).float(), tokens, reduction="none") for h, tokens in parts]
    return torch.zeros(turn_ids_BT.shape, device=hidden_NH.device).masked_scatter(inside_BT, torch.cat(found))


@torch.no_grad()
def score_logprobs(model: Any, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, turn_ids_BT: torch.Tensor) -> torch.Tensor:
    """`action_logprobs` of a finished model, on its device, in bounded memory."""
    device = next(model.parameters()).device
    return action_logprobs(model, input_ids_BT.to(device), attention_mask_BT.to(device), turn_ids_BT.to(device), _ROWS)


def action_logprobs_on_call(model: Any) -> None:
    """Make `model(input_ids_BT, attention_mask_BT, turn_ids_BT)` answer `action_logprobs`, for an engine around it."""

    def forward(ids_BT: torch.Tensor, mask_BT: torch.Tensor, turn_ids_BT: torch.Tensor) -> torch.Tensor:
        return action_logprobs(model, ids_BT, mask_BT, turn_ids_BT)

    model.forward = forward


@torch.no_grad()
def next_token_logits(model: Any, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """(N, vocabulary) float32 on the CPU: the logits behind each sequence, from one padded pass."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(s) for s in sequences])
    ids_NT = torch.nn.utils.rnn.pad_sequence([torch.tensor(list(s)) for s in sequences], batch_first=True)
    mask_NT = (torch.arange(ids_NT.shape[1]) < lengths[:, None]).long()
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=ids_NT.to(device), attention_mask=mask_NT.to(device), use_cache=False).last_hidden_state
    last_NH = hidden[torch.arange(len(lengths), device=device), (lengths - 1).to(device)]
    return model.get_output_embeddings()(last_NH).float().cpu()
