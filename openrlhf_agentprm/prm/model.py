"""The PRM checkpoint: transformers' token-classification class of a backbone, one label, a head without bias.

One folder gives the same scores in `AutoModelForTokenClassification`, in vLLM's pooling runner, in the host as a critic, and here. The host's
critic drops a bias silently, so there is none; dropout is 0. `agentprm.json` beside the weights records how the model was made and is read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..data.layout import TurnPositions
from ..data.steps import Delimiters
from .vocabulary import check_same_vocabulary, read_config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
VALUES = ("previous_q", "state")
OUTPUTS = {"mse": "linear", "soft_bce": "sigmoid", "pqm": "linear", "pairs": "linear"}  # by loss
SCALES = {  # what a score is
    "probability": "Q estimates the outcome",
    "share": "Q is the share of the outcome that is earned so far",
    "order": "only which of two scores is higher means something",
    "judgement": "Q judges the turn by a rule of its label and does not estimate the outcome",
}
ENDS_AS_OUTCOME = ("probability", "share")  # scales whose last score estimates the outcome, so that its squared error means something
QWEN_MATH_PRM = "Qwen2ForProcessRewardModel"  # the class that its makers' configuration names
_RECORD = "agentprm.json"


@dataclass
class Record:
    """Contents of `agentprm.json`.

    Args:
        kind: the registry's name of the reward model.
        method: label method that made the targets.
        values: how V(s_t) is read: "previous_q" (the score of the turn before, V(s_0) for the first), "previous_q_from_0" (the same with
            V(s_0) = 0) or "state" (before the action).
        output: what stands between head and score: "linear" (nothing) or "sigmoid".
        value_trained: V was trained at the states; without it V(s_0) is no value at all.
        step_delimiter: token ids that ended a step of a response (`data.steps`); none: its turns were whole responses.
        scale: what a score is, one of `SCALES`; all but "probability" are no values for PPO.
    """

    method: str = ""
    values: str = "previous_q"
    output: str = "linear"
    value_trained: bool = True
    step_delimiter: list[list[int]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    kind: str = "scalar"
    scale: str = "probability"

    @property
    def delimiters(self) -> Delimiters:
        return tuple(sorted(tuple(sequence) for sequence in self.step_delimiter))

    def save(self, folder: str | Path) -> None:
        self.versions = {name: _version(name) for name in ("openrlhf-agentprm", "openrlhf", "transformers", "torch")}
        (Path(folder) / _RECORD).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Record:
        """The record, or defaults with untrained values for a checkpoint of another maker."""
        path = Path(folder) / _RECORD
        if not path.is_file():
            return cls(method="unknown", value_trained=False)
        return cls(**json.loads(path.read_text(encoding="utf-8")))


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


def head(model: Any) -> torch.nn.Linear:
    """The score head, also under LoRA's wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    score = inner.score
    return score.modules_to_save["default"] if hasattr(score, "modules_to_save") else score


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


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
