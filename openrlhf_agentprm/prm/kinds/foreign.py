"""PRMs of other makers, each with the read-out that its maker trained: two labels a token, a turn's score is P(label 1).

`TRLPRM`: transformers' token-classification class with two labels, as TRL's PRMTrainer saves it. TRL puts a step separator ("\\n" unless
another was chosen) behind each step and labels its last token.
`QwenMathPRM`: Qwen2.5-Math-PRM (arXiv 2501.07301): Qwen2 under a head of two layers, score = Linear → ReLU → Linear with two labels, read at
the token `<extra_0>` behind each step. The weights are read into transformers' own Qwen2Model; the code that comes with them is not run.

Episodes hold no such separators, so they are put in: behind an action's last token, but before the special token that ends its message, where
a step's end would stand. What follows sees them, as it did in training. Neither maker trained V(s_0): it is what the head says of the prompt.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...agents.chat import load_tokenizer
from ...core.batches import ProcessScores
from ...core.errors import UserError
from ..model import DTYPES, QWEN_MATH_PRM, is_two_label
from ..record import Record
from ..scoring import ScoreBatch, make_batch, values_as_recorded
from ..vocabulary import read_config
from .foreign_weights import classifier, tensors_of, whole_model
from .separators import episodes_of, marked

logger = logging.getLogger(__name__)
_READ_OUT = "readout.json"


class TwoLabelPRM(ABC):
    """P(label 1) at the last token of what stands behind each action.

    Args:
        backbone: gives hidden states.
        head: two numbers a token, in float32.
        separator_ids: put behind each action, unless it ends with them; without any, the action's last token is read.
        closing_ids: tokens that end a message; a separator goes before them.
    """

    name = ""
    separator: str | None = None

    def __init__(self, backbone: Any, head: torch.nn.Module, separator_ids: Sequence[int], closing_ids: Sequence[int]) -> None:
        self.backbone = backbone.eval()
        self.head = head.float().eval()
        self.separator_ids = list(separator_ids)
        self.closing_ids = set(closing_ids) - set(separator_ids)
        self.record = _record(self.name)

    @classmethod
    def load(cls, path: str, *, dtype: str = "fp32", attn_implementation: str = "sdpa", device: str | torch.device = "cpu") -> TwoLabelPRM:
        """From a checkpoint of its maker; `readout.json` beside the weights may name another separator.

        Raises:
            UserError: it is none, its weights do not fit, or it is no safetensors.
        """
        cls.check(path)
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r} is unknown (allowed: {', '.join(DTYPES)})")
        tokenizer = load_tokenizer(path)
        separator_ids = cls._separator_ids(path, tokenizer)
        backbone, head = cls._weights(path, DTYPES[dtype], attn_implementation)
        logger.warning("%s: its V(s) was not trained, so the progress of every first turn is noise", path)
        return cls(backbone.to(device), head.to(device), separator_ids, tokenizer.all_special_ids)

    @classmethod
    def check(cls, path: str, policy: str | None = None) -> None:
        """Refuse what its maker did not make, and one that does not speak the policy's tokens; reads no weights."""
        cls._check_config(path, read_config(path))
        tokenizer = load_tokenizer(path)
        separator_ids = cls._separator_ids(path, tokenizer)
        if policy is not None:
            _check_tokens(path, tokenizer, policy, separator_ids)

    @classmethod
    def describe(cls, path: str) -> Record:
        """What is known of it: V was not trained."""
        return _record(cls.name)

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU; V(s_t) is the score of the turn before."""
        vocabulary = self.backbone.get_input_embeddings().num_embeddings
        if int(batch.input_ids_BT.max()) >= vocabulary:
            raise UserError(
                f"the episodes hold token {int(batch.input_ids_BT.max())}, but the PRM knows {vocabulary}: it was made for another tokenizer"
            )
        marked = self._marked(batch)
        device = next(self.backbone.parameters()).device
        mask_BT = marked.attention_mask_BT.to(device)
        h_BTH = self.backbone(
            input_ids=marked.input_ids_BT.to(device),
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        rows = torch.arange(h_BTH.shape[0], device=device)[:, None]
        read_B2K = torch.cat([marked.positions.q_BK, marked.positions.v_BK], dim=1).to(device)
        p_B2K = self.head(h_BTH[rows, read_B2K].float()).softmax(-1)[..., 1]
        q_BK, v_BK = p_B2K.cpu().chunk(2, dim=1)
        return values_as_recorded(q_BK, v_BK, marked.positions.mask_BK, self.record)

    def _marked(self, batch: ScoreBatch) -> ScoreBatch:
        """The batch with separators put in; its Q positions are those of their last tokens."""
        tokens, spans = episodes_of(batch)
        if not self.separator_ids:
            return make_batch(tokens, spans)
        found = [marked(ids, s, self.separator_ids, self.closing_ids) for ids, s in zip(tokens, spans, strict=True)]
        return make_batch([ids for ids, _ in found], [places for _, places in found])

    @classmethod
    def _separator_ids(cls, path: str, tokenizer: Any) -> list[int]:
        text = _separator(path, cls.separator)
        return tokenizer.encode(text, add_special_tokens=False) if text else []

    @classmethod
    @abstractmethod
    def _check_config(cls, path: str, config: Any) -> None:
        """Refuse what its maker did not make."""

    @classmethod
    @abstractmethod
    def _weights(cls, path: str, dtype: torch.dtype, attn_implementation: str) -> tuple[Any, torch.nn.Module]:
        """(backbone, head)."""


class TRLPRM(TwoLabelPRM):
    """A two-label token classifier, as TRL's PRMTrainer saves it (registry entry `trl`)."""

    name = "trl"
    separator = "\n"

    @classmethod
    def _check_config(cls, path: str, config: Any) -> None:
        told = ", ".join(config.architectures or ["a model of unknown class"])
        if not is_two_label(config):
            raise UserError(
                f"{path!r} is {told} with {config.num_labels} label(s); --prm.name trl scores a …ForTokenClassification checkpoint with two"
            )

    @classmethod
    def _weights(cls, path: str, dtype: torch.dtype, attn_implementation: str) -> tuple[Any, torch.nn.Module]:
        from transformers import AutoModelForTokenClassification

        model = whole_model(AutoModelForTokenClassification, path, dtype, attn_implementation)
        return getattr(model, model.base_model_prefix), classifier(model, path)


class QwenMathPRM(TwoLabelPRM):
    """Qwen2.5-Math-PRM (registry entry `qwen_math_prm`)."""

    name = "qwen_math_prm"
    separator = "<extra_0>"

    @classmethod
    def _check_config(cls, path: str, config: Any) -> None:
        if QWEN_MATH_PRM not in (config.architectures or []):
            told = ", ".join(config.architectures or ["a model of unknown class"])
            raise UserError(f"{path!r} is {told}; --prm.name qwen_math_prm scores a {QWEN_MATH_PRM}")

    @classmethod
    def _separator_ids(cls, path: str, tokenizer: Any) -> list[int]:
        ids = super()._separator_ids(path, tokenizer)
        if len(ids) != 1:
            raise UserError(
                f"{_separator(path, cls.separator)!r} is {len(ids)} tokens in the tokenizer of {path!r}; wanted the one that is read at"
            )
        return ids

    @classmethod
    def _weights(cls, path: str, dtype: torch.dtype, attn_implementation: str) -> tuple[Any, torch.nn.Module]:
        from transformers import Qwen2Model

        backbone = whole_model(Qwen2Model, path, dtype, attn_implementation)
        width = backbone.config.hidden_size
        head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
        found = {name.removeprefix("score."): tensor.float() for name, tensor in tensors_of(path, "score.").items()}
        try:
            head.load_state_dict(found)
        except RuntimeError as error:
            raise UserError(f"the head of {path!r} is not score.0 and score.2 of {width} and 2 numbers: {error}") from error
        return backbone, head


def _record(name: str) -> Record:
    return Record(kind=name, method=name, values="previous_q", output="sigmoid", value_trained=False)


def _separator(path: str, default: str | None) -> str | None:
    """The separator that `readout.json` names, {"separator": text or null}; else the maker's."""
    file = Path(path) / _READ_OUT
    if not file.is_file():
        return default
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}") from error
    if not isinstance(about, dict) or about.keys() != {"separator"} or not isinstance(about["separator"], str | None):
        raise UserError(f'{file} is {about!r}; wanted {{"separator": text}}, or null to read at the action\'s last token')
    return about["separator"]


def _check_tokens(path: str, tokenizer: Any, policy: str, separator_ids: Sequence[int]) -> None:
    """Every token of the policy has to mean the same here; the separator may stand where the policy has a token of its own."""
    theirs = {token: i for i, token in _by_id(load_tokenizer(policy)).items() if i not in separator_ids}
    ours = tokenizer.get_vocab()
    other = [token for token, i in theirs.items() if ours.get(token) != i]
    if other:
        raise UserError(
            f"the PRM {path!r} and the policy {policy!r} have different vocabularies ({len(other)} of the policy's {len(theirs)} tokens are others "
            f"there, such as {other[0]!r}): it would score other words than were said"
        )


def _by_id(tokenizer: Any) -> dict[int, str]:
    return {i: token for token, i in tokenizer.get_vocab().items()}
