"""Weights of other makers: every one of them from safetensors, none of their code run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from ...core.errors import UserError

logger = logging.getLogger(__name__)


def one_label(model: Any, path: str) -> Any:
    """A two-label classifier as one with a single score, to be trained on: w = w₁ − w₀, so that sigmoid(w·h) is P(label 1) but for the bias.

    The difference of the biases is left out, as a PRM's head has none.
    """
    old = classifier(model, path)
    new = torch.nn.Linear(old.in_features, 1, bias=False, dtype=old.weight.dtype, device=old.weight.device)
    with torch.no_grad():
        new.weight.copy_(old.weight[1:] - old.weight[:1])
        lost = 0.0 if old.bias is None else float(old.bias[1] - old.bias[0])
    if lost:
        logger.warning("%s: the bias of its head (%.3g between its labels) is left out", path, lost)
    model.score = new
    model.num_labels = 1
    config = model.config
    config.num_labels = 1
    config.classifier_dropout = 0.0
    config.token_classification_bias = False
    config.problem_type = "regression"
    return model


def classifier(model: Any, path: str) -> Any:
    """The head of a token classifier."""
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise UserError(f"{path!r}: a {type(model).__name__} has no linear head named 'score'")
    return head


def whole_model(kind: Any, path: str, dtype: torch.dtype, attn_implementation: str) -> Any:
    """A model all of whose weights are in the checkpoint."""
    try:
        model, about = kind.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"no process reward model could be made of {path!r}: {error}") from error
    if about["missing_keys"] or about.get("mismatched_keys"):
        missing = sorted(map(str, [*about["missing_keys"], *about.get("mismatched_keys", [])]))
        raise UserError(f"{path!r} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]}")
    return model


def tensors_of(path: str, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors by name from a checkpoint's safetensors."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    index = cached_file(path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    files = {"model.safetensors"}
    if index is not None:
        names = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        files = {file for name, file in names.items() if name.startswith(prefix)}
    found: dict[str, torch.Tensor] = {}
    for file in sorted(files):
        with safe_open(str(cached_file(path, file)), framework="pt") as weights:
            found |= {name: weights.get_tensor(name) for name in weights.keys() if name.startswith(prefix)}  # noqa: SIM118
    return found
