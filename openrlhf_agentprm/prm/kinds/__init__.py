"""Kinds of reward models: which one a checkpoint is, and what a kind brings that `train_prm` can train.

A kind is a class of the registry `reward_models`. To be trained it needs what `Trainable` lists; `ScalarPRM` (prm/scoring.py) has all of it, so
most kinds derive from it and say what differs: their objective, how a score is read, which flags they read.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...core.errors import UserError
from ...core.registry import REWARD_MODELS
from ...data.episode import Episode
from ..dataset import Labels
from ..model import foreign_kind
from ..objective import Objective
from ..record import Record
from .http import is_url

AUTO = "auto"
"""`--prm.name` where nothing is said: what the checkpoint says that it is."""


class Trainable(Protocol):
    """A class of the registry `reward_models` that can be trained; beside `load` and `score` it has these, all static.

    It may have `supports`: "packing" where its model reads out by `read_out` or `read_heads`, "replay" where its objective weighs episodes by
    iteration.
    """

    def start(self, path: str, **options: Any) -> Any:
        """The model to train, from a language model or an earlier checkpoint; options as in `prm.model.start_from`."""

    def on_call(self, model: Any) -> None:
        """Make `model(...)` answer what the objective asks of it, so that an engine around it runs it through its own `forward`."""

    def objective(self, train: Sequence[Episode], args: Any, labels: Labels | None) -> Objective: ...

    def problems(self, args: Any) -> list[str]:
        """What is wrong with the flags of `train_prm`, before anything is read."""

    def recorded(self, args: Any) -> dict[str, Any]:
        """Fields of the checkpoint's `Record`: values, output, value_trained, scale; method where it is no label's, and further options."""

    def reads(self, args: Any) -> Collection[str]:
        """Optional: the flags of the groups label, loss and prm that it reads, as patterns ("label.*"). The others are refused where they are
        given, and are not recorded. Without this it is taken to read all of them."""

    def start_options(self, args: Any) -> dict[str, Any]:
        """Optional: further options of `start`."""

    def scale(self, args: Any) -> str:
        """Optional: the scale of `recorded`, where that reads more than flags."""


def kind_of(path: str) -> str:
    """The registry's name of a checkpoint, by its record; of another maker's, by its class; of an address or its file, `remote`."""
    if is_url(path) or Path(path, "remote.json").is_file() or Path(path).is_file():  # checkpoints are folders
        return "remote"
    if by_file := next((kind for kind in ("ensemble", "generative") if Path(path, f"{kind}.json").is_file()), None):
        return by_file
    record = Record.load(path)
    return record.kind if record.method != "unknown" else foreign_kind(path) or record.kind


def is_remote(name: str, path: str) -> bool:
    """Whether a reward model is served elsewhere."""
    return (kind_of(path) if name == AUTO else name) == "remote"


def load_kind(name: str, path: str) -> Any:
    """The class of a reward model, by name or, with `AUTO`, by its checkpoint."""
    return REWARD_MODELS.load(kind_of(path) if name == AUTO else name)


def check_reward_model(name: str, path: str, policy: str | None = None) -> None:
    """Refuse, from files alone, a checkpoint that is not of its kind or does not speak the policy's tokens; kinds without `check` pass.

    Raises:
        UserError: names the checkpoint and the policy.
    """
    kind, recorded = load_kind(name, path), kind_of(path)
    check = getattr(kind, "check", None)
    if check is not None:
        check(path, policy)
    if getattr(kind, "labels", 1) != getattr(REWARD_MODELS.load(recorded), "labels", 1) and name not in (AUTO, recorded):
        raise UserError(f"{path!r} is of kind {recorded}, whose heads are others than those that --prm.name {name} reads")


def records_of(name: str, path: str) -> list[Record]:
    """What a reward model tells of itself: a kind that has `describe(path)` by that, others by the checkpoints that they are made of."""
    from .ensemble import checkpoints_of

    describe = getattr(load_kind(name, path), "describe", None)
    return [describe(path)] if describe is not None else [Record.load(folder) for folder in checkpoints_of(name, path)]


def trainable(name: str) -> Any:
    """A kind that `train_prm` can train.

    Raises:
        UserError: it cannot be trained.
    """
    kind = REWARD_MODELS.load(name)
    if not hasattr(kind, "objective"):
        able = [n for n in REWARD_MODELS.names() if hasattr(REWARD_MODELS.load(n), "objective")]
        raise UserError(f"--prm.name {name} cannot be trained (those that can: {', '.join(able)})")
    return kind


LABELLED = ("label.*", "loss.kind", "loss.beta", "loss.value_coef", "loss.reduce")
"""Flags of every kind whose turns are regressed on labels."""


OF_ALL = ("prm.name", "prm.step_delimiter", "prm.step_delimiter_text")
"""Flags of every kind."""


_OF_RETURNS = ("label.gamma", "label.lambd", "label.bootstrap_enable")


def reads(args: Any, flag: str) -> bool:
    """Whether the kind that is trained, on the labels that it is trained on, reads a flag, such as "loss.beta"."""
    if flag in _OF_RETURNS and (args.label.sidecar or args.label.name not in ("td_gae", "td_qv")):
        return False
    if flag == "label.dense_rewards_enable" and args.label.name in ("outcome_all", "outcome_last"):
        return False
    listed = getattr(REWARD_MODELS.load(args.prm.name), "reads", None)
    return listed is None or flag in OF_ALL or any(fnmatch.fnmatch(flag, pattern) for pattern in listed(args))


def flags(args: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of every flag that is some kind's."""
    for group in ("label", "loss", "prm"):
        for name, value in vars(getattr(args, group)).items():
            yield f"{group}.{name}", value
    for name in ("expert_dataset", "next_actions"):
        yield f"data.{name}", getattr(args.data, name)
