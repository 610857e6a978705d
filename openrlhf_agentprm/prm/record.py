"""`agentprm.json`, beside a PRM's weights: how the model was made and is read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..data.steps import Delimiters

VALUES = ("previous_q", "state")
OUTPUTS = {"mse": "linear", "soft_bce": "sigmoid", "pqm": "linear", "pairs": "linear"}  # by loss
SCALES = {  # what a score is
    "probability": "Q estimates the outcome",
    "share": "Q is the share of the outcome that is earned so far",
    "order": "only which of two scores is higher means something",
    "judgement": "Q judges the turn by a rule of its label and does not estimate the outcome",
}
ENDS_AS_OUTCOME = ("probability", "share")  # scales whose last score estimates the outcome, so that its squared error means something
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
        reference: how the scores of its own data are distributed, "promise" and "progress" by turn, as `core.monitors.quantile_points`; PPO compares
            those of its rollouts with them.
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
    reference: dict[str, Any] = field(default_factory=dict)

    @property
    def delimiters(self) -> Delimiters:
        return tuple(sorted(tuple(sequence) for sequence in self.step_delimiter))

    def save(self, folder: str | Path) -> None:
        self.versions = {name: _version(name) for name in ("openrlhf-agentprm", "openrlhf", "transformers", "torch")}
        (Path(folder) / _RECORD).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Record:
        """The record, or defaults with untrained values for a checkpoint of another maker.

        Raises:
            UserError: it is torn, or a later version wrote it.
        """
        path = Path(folder) / _RECORD
        if not path.is_file():
            return cls(method="unknown", value_trained=False)
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            why = "" if isinstance(given, dict) and "method" in given else "no method in it"
        except ValueError as error:
            why = str(error)
        if why:
            raise UserError(f"{path} is not the record of a PRM ({why}): it was cut off or edited; train or copy the checkpoint anew")
        if unknown := sorted(given.keys() - cls.__dataclass_fields__.keys()):
            raise UserError(f"{path} has {', '.join(unknown)}, which this version does not know: a newer openrlhf-agentprm wrote it")
        empty = cls()
        if wrong := [name for name, value in given.items() if type(value) is not type(getattr(empty, name))]:
            raise UserError(f"{path} is not the record of a PRM: {', '.join(f'{name} is {given[name]!r}' for name in wrong)}")
        return cls(**given)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
