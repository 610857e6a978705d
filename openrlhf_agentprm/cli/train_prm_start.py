"""Which checkpoints a kind of reward model may be trained on from."""

from __future__ import annotations

from typing import Any

_LANGUAGE_MODELS = ("implicit",)  # kinds whose checkpoint has no head: another kind puts a fresh one on it


def start_problems(args: Any) -> list[str]:
    """A start whose head is another one than `--prm.name` trains: of another kind, output or number of heads.

    `scalar`, and a two-label classifier of TRL's, may go on as any kind that has one label. Language models, and other makers' other checkpoints,
    are for the kind's `start` to judge.
    """
    from ..prm.kinds import trainable
    from ..prm.model import foreign_kind
    from ..prm.record import Record
    from ..prm.vocabulary import read_config

    start, name, kind = args.model.model_name_or_path, args.prm.name, trainable(args.prm.name)
    before = Record.load(start)
    other_heads = name in _LANGUAGE_MODELS or getattr(kind, "labels", 1) != 1  # a kind that does not say is judged by its `start`
    if before.method == "unknown" and foreign_kind(start) == "trl" and other_heads:
        return [
            f"{start} is a two-label classifier of another maker, which goes on as --prm.name scalar or another kind with one score; --prm.name "
            f"{name} starts from a language model"
        ]
    if before.method == "unknown" or (before.kind in _LANGUAGE_MODELS and name not in _LANGUAGE_MODELS):
        return []
    one_label = getattr(kind, "labels", None) == 1
    if before.kind != name and not (before.kind == "scalar" and one_label):
        also = " or scalar" if one_label and name != "scalar" else ""
        return [
            f"{start} is of kind {before.kind}; --prm.name {name} goes on from one of kind {name}{also}, or starts from a language model"
        ]
    if name == "heads" and (heads := read_config(start).num_labels) != args.prm.heads:
        return [f"--prm.heads is {args.prm.heads}, but {start} has {heads}"]
    if name not in _LANGUAGE_MODELS and (output := kind.recorded(args).get("output", "linear")) != before.output:
        which = f"--loss.kind {args.loss.kind}" if name in ("scalar", "heads", "hierarchical") else f"--prm.name {name}"
        return [f"{which} trains a {output} output, but {start} has a {before.output} one"]
    return []
