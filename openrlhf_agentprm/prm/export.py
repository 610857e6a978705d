"""A finished PRM for others: safetensors, tokenizer, record, and a model card that says how it was made and how it is read."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..agents.chat import load_tokenizer
from ..core.errors import UserError
from ..core.registry import REWARD_MODELS
from .model import check_checkpoint, load_prm
from .record import Record
from .scoring import is_plain
from .vocabulary import read_config

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_HISTORY = "history.jsonl"
_VALUES = {
    "previous_q": "the score of the turn before; of the first turn, the score at the token before its action",
    "previous_q_from_0": "the score of the turn before, and 0 of the first turn",
    "state": "the score at the token before the action (start − 1)",
}
_VALUE_LINES = {
    "previous_q": "v = [logits[spans[0][0] - 1].item(), *q[:-1]]",
    "previous_q_from_0": "v = [0.0, *q[:-1]]",
    "state": "v = [logits[start - 1].item() for start, _ in spans]",
}
_OUTPUTS = {"linear": "the logit itself", "sigmoid": "the sigmoid of the logit"}


def check_finished(path: str) -> Record:
    """The record of a finished checkpoint of ours.

    Raises:
        UserError: the folder is not there, of another maker, of another kind, or lacks a part.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"there is no folder {path!r}; export takes what cli.train_prm wrote")
    record = Record.load(folder)
    if record.method == "unknown":
        if any(folder.glob("*.safetensors")) or (folder / "config.json").is_file():
            raise UserError(
                f"{path!r} has no agentprm.json, which training writes last: it is unfinished, or of another maker; finish the training with "
                "the same command and --ckpt.load_enable"
            )
        raise UserError(f"{path!r} is no checkpoint: it has no config.json, no weights and no agentprm.json")
    if not is_plain(REWARD_MODELS.load(record.kind)):
        raise UserError(
            f"{path!r} is a PRM of the kind {record.kind}, whose scores plain transformers and vLLM cannot give; exported are kinds whose score is "
            "that of one head, such as scalar"
        )
    parts = {"config.json": folder / "config.json", "a tokenizer": folder / "tokenizer_config.json"}
    missing = [name for name, file in parts.items() if not file.is_file()] + ([] if any(folder.glob("*.safetensors")) else ["safetensors"])
    if missing:
        raise UserError(f"{path!r} lacks {', '.join(missing)}: it is unfinished")
    check_checkpoint(path)
    return record


def write_export(path: str, out: Path, record: Record, *, name: str, base_model: str | None = None) -> None:
    """Weights in their own dtype, tokenizer, record, history and README.md.

    Raises:
        UserError: the weights cannot be read.
    """
    dtype = str(getattr(read_config(path), "dtype", None) or "float32").removeprefix("torch.")
    try:
        model = load_prm(path, dtype=_DTYPES.get(dtype, "fp32"))
    except UserError:
        raise
    except Exception as error:  # safetensors tells of a torn file by an exception of its own
        raise UserError(f"the weights of {path!r} cannot be read: {type(error).__name__}: {error}") from error
    model.save_pretrained(out)
    load_tokenizer(path).save_pretrained(out)
    shutil.copyfile(Path(path) / "agentprm.json", out / "agentprm.json")
    history = Path(path) / _HISTORY
    if history.is_file():
        shutil.copyfile(history, out / _HISTORY)
    (out / "README.md").write_text(card(record, read_history(history), model.config, name, base_model), encoding="utf-8")


def read_history(file: Path) -> list[dict[str, Any]]:
    """Rows of the training; none where there is no history."""
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{file} has a line that is no JSON: {error}") from error


def card(record: Record, history: list[dict[str, Any]], config: Any, name: str, base_model: str | None) -> str:
    """The model card. Its licence is left to who publishes it."""
    head = ["---", "library_name: transformers", "pipeline_tag: token-classification"]
    head += ["tags:", "- process-reward-model", "- agents"]
    head += [f"base_model: {base_model}"] if base_model else []
    head += ["---", "", f"# {name}", ""]
    head += [
        f"A process reward model for multi-turn agents: a {config.architectures[0] if config.architectures else 'token classifier'} with one "
        f"label, trained with `{record.method}` labels by openrlhf-agentprm. It scores every turn of an episode in one pass.",
        "",
        "Licence: not chosen yet.",
        "",
    ]
    return "\n".join([*head, *_reading(record, name), *_made(record), *_figures(history), *_versions(record)])


def _reading(record: Record, name: str) -> list[str]:
    squash = ".sigmoid()" if record.output == "sigmoid" else ""
    value = _VALUE_LINES[record.values]
    trained = "" if record.value_trained else " V was not trained at the states: the value of the first turn is noise."
    return [
        "## How to score",
        "",
        f"The action of turn t spans tokens [start, end). Its score Q is {_OUTPUTS[record.output]} at its last token (end − 1); its value V is "
        f"{_VALUES[record.values]}; progress is Q − V.{trained}",
        "",
        "```python",
        "import torch",
        "from transformers import AutoModelForTokenClassification, AutoTokenizer",
        "",
        f'model = AutoModelForTokenClassification.from_pretrained("{name}", dtype=torch.float32).eval()',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "# token_ids: the episode as the policy saw and sampled it; spans: [(start, end)] of its actions",
        "with torch.no_grad():",
        f"    logits = model(torch.tensor([token_ids])).logits[0, :, 0].float(){squash}",
        "q = [logits[end - 1].item() for _, end in spans]",
        value,
        "progress = [a - b for a, b in zip(q, v)]",
        "```",
        "",
        "In vLLM: the pooling runner with the task `token_classify` and `use_activation=False` (its default is a sigmoid)"
        + (", then the sigmoid." if record.output == "sigmoid" else "."),
        "",
    ]


def _made(record: Record) -> list[str]:
    options = _flat(record.options)
    data = _flat(record.data)
    return [
        "## Method",
        "",
        f"Labels: `{record.method}`.",
        "",
        *(_table(("option", "value"), options) if options else ["No options were recorded.", ""]),
        "## Data",
        "",
        *(_table(("", ""), data) if data else ["No summary was recorded.", ""]),
    ]


def _figures(history: list[dict[str, Any]]) -> list[str]:
    if not history:
        return ["## Figures", "", "No history of the training was kept.", ""]
    last = {k: v for k, v in history[-1].items() if k not in ("step", "epoch", "lr")}
    held_out: dict[str, Any] = next((row for row in reversed(history) if any(k.startswith("eval_") for k in row)), {})
    found = {f"{k} (last step)": v for k, v in last.items() if not k.startswith("eval_")}
    found |= {f"{k} (held out, step {held_out['step']})": v for k, v in held_out.items() if k.startswith("eval_")}
    rows = {"steps": history[-1].get("step", len(history)), **found}
    return ["## Figures", "", *_table(("figure", "value"), {k: _number(v) for k, v in rows.items()})]


def _versions(record: Record) -> list[str]:
    return ["## Versions", "", *_table(("package", "version"), record.versions)] if record.versions else []


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested mappings by dotted names; what is empty or null left out; local folders, divided by commas, by their names alone."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": told for inner, told in _flat(value).items()}
        elif value is not None and value != "":
            found[name] = ",".join(map(_name, value.split(","))) if isinstance(value, str) else _number(value)
    return found


def _name(text: str) -> str:
    return Path(text).name if Path(text).is_absolute() else text


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> list[str]:
    return [
        f"| {head[0]} | {head[1]} |",
        "|---|---|",
        *(f"| {name} | {str(value).replace('|', '/')} |" for name, value in rows.items()),
        "",
    ]
