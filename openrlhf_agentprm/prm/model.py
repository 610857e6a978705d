"""The PRM checkpoint: transformers' token-classification class of a backbone, one label, a head without bias.

One folder gives the same scores in `AutoModelForTokenClassification`, in vLLM's pooling runner, in the host as a critic, and here. The host's
critic drops a bias silently, so there is none; dropout is 0. `agentprm.json` beside the weights records how the model was made and is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from .read_out import head
from .record import Record
from .vocabulary import check_same_vocabulary, read_config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
QWEN_MATH_PRM = "Qwen2ForProcessRewardModel"  # the class that its makers' configuration names


def start_from(
    model_name_or_path: str,
    *,
    dtype: str = "bf16",
    attn_implementation: str = "sdpa",
    seed: int = 0,
    labels: int = 1,
    whole: Callable[[list[torch.Tensor]], contextlib.AbstractContextManager] = lambda weights: contextlib.nullcontext(),
) -> Any:
    """A PRM to be trained: a checkpoint of ours as it is, a two-label one of TRL as one label, or a language model's backbone under a fresh head.

    Two labels with a record are two heads of ours (`two_head`, `heads`), which no difference makes one score of.

    Args:
        labels: scores a token.
        whole: makes weights that are partitioned over processes whole for a while (the host's `whole_weights`).

    Raises:
        UserError: the model has no token-classification class, or cannot be loaded.
    """
    config = read_config(model_name_or_path)
    if labels == 1 and is_two_label(config) and Record.load(model_name_or_path).method == "unknown":
        from .kinds.foreign_weights import one_label

        model = _load(model_name_or_path, config, dtype, attn_implementation)
        with whole(list(model.score.parameters())):
            model = one_label(model, model_name_or_path)
        check_head(model, model_name_or_path)
        return model
    fresh = not _is_token_classifier(config)
    if fresh:
        config.num_labels = labels
        config.classifier_dropout = 0.0
        config.token_classification_bias = False
        config.problem_type = "regression"
    model = _load(model_name_or_path, config, dtype, attn_implementation)
    if fresh:
        with whole([head(model).weight]):
            if head(model).weight.numel():
                _fresh_head(head(model).weight, seed)
    check_head(model, model_name_or_path, labels)
    return model


def _fresh_head(weight: torch.Tensor, seed: int) -> None:
    """N(0, 0.02²), the same on every rank."""
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.02)


def check_checkpoint(path: str, policy: str | None = None, labels: int | None = None) -> None:
    """Refuse what is no PRM with so many scores a token (None: any number), and one that does not speak the policy's tokens; reads no weights.

    Raises:
        UserError: names both models.
    """
    config = read_config(path)
    if not _is_token_classifier(config):
        raise UserError(
            f"{path!r} is a {', '.join(config.architectures or ['model of unknown class'])}, not a process reward model "
            "(a …ForTokenClassification checkpoint with one label); train one with cli.train_prm"
        )
    if labels is not None:
        _check_labels(config.num_labels, path, labels)
    if policy is not None:
        check_same_vocabulary(path, policy)


def is_prm(path: str) -> bool:
    """True for a token-classification checkpoint; reads its configuration only."""
    return _is_token_classifier(read_config(path))


def load_prm(path: str, *, dtype: str = "fp32", attn_implementation: str = "sdpa", labels: int | None = 1) -> Any:
    """A finished PRM for scoring.

    Args:
        labels: scores a token that it must have; None: any number.

    Raises:
        UserError: it is no token-classification checkpoint with so many labels and no bias.
    """
    check_checkpoint(path)
    config = read_config(path)
    model = _load(path, config, dtype, attn_implementation)
    check_head(model, path, labels)
    return model.eval()


def check_head(model: Any, path: str, labels: int | None = 1) -> None:
    score = getattr(model, "score", None)
    if score is None:
        raise UserError(
            f"{path!r}: its token-classification class has no head named 'score', which the other readers of the checkpoint expect"
        )
    if labels is not None:
        _check_labels(score.out_features, path, labels)
    if score.bias is not None:
        raise UserError(
            f"{path!r} has a bias in its head, which the host's critic drops silently; retrain with token_classification_bias=False"
        )


def _check_labels(found: int, path: str, labels: int) -> None:
    if found != labels:
        kind = "a scalar PRM" if labels == 1 else "this one"
        foreign = (labels, found) == (1, 2) and Record.load(path).method == "unknown"
        more = "; --prm.name trl scores such a checkpoint, and cli.train_prm starts from it" if foreign else ""
        raise UserError(f"{path!r} scores {found} label{'s' * (found != 1)} a token; {kind} has {labels}{more}")


def save_prm(model: Any, tokenizer: Any, folder: str | Path, record: Record) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record.save(folder)


def is_two_label(config: Any) -> bool:
    """True for a token classifier with two labels, as TRL's PRMTrainer saves it."""
    return _is_token_classifier(config) and config.num_labels == 2


def foreign_kind(path: str) -> str | None:
    """The registry's name of another maker's PRM, by its configuration; None of anything else."""
    try:
        config = read_config(path)
    except UserError:
        return None
    if QWEN_MATH_PRM in (config.architectures or []):
        return "qwen_math_prm"
    return "trl" if is_two_label(config) else None


def _is_token_classifier(config: Any) -> bool:
    return any("TokenClassification" in name for name in config.architectures or [])


def _load(path: str, config: Any, dtype: str, attn_implementation: str) -> Any:
    from transformers import AutoModelForTokenClassification

    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is unknown (allowed: {', '.join(DTYPES)})")
    try:
        return AutoModelForTokenClassification.from_pretrained(
            path, config=config, dtype=DTYPES[dtype], attn_implementation=attn_implementation
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"no process reward model could be made of {path!r}: {error}") from error
