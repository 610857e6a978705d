"""The losses of a scalar PRM (`--loss.kind`): what each learns from, the flags that it reads, and what the scores then are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..objective import Objective, TurnRegression, scale_of_labels
from . import LABELLED
from .ranking import Preferences, Ranking

_FROM_THE_MODEL = ("td_gae", "td_qv")


@dataclass(frozen=True)
class Loss:
    """An entry of `LOSSES`.

    Args:
        objective: from the episodes, the flags and labels made beforehand.
        reads: flags, as in `Trainable.reads`.
        problems: what is wrong with them.
        recorded: fields of the checkpoint's `Record`.
    """

    objective: Callable[..., Objective]
    reads: Sequence[str]
    problems: Callable[[Any], list[str]]
    recorded: Callable[[Any], dict[str, Any]]


def regression_problems(args: Any) -> list[str]:
    """What is wrong with the flags of a regression on labels; kinds whose heads are trained so call it too."""
    if args.loss.kind not in ("mse", "soft_bce"):
        return [f"--loss.kind {args.loss.kind} is of --prm.name scalar; --prm.name {args.prm.name} takes mse or soft_bce"]
    if wrong := _wrong_numbers(args):
        return wrong
    if args.loss.value_coef <= 0 and (args.label.name == "td_qv" or args.label.values == "state"):
        return [
            f"--loss.value_coef {args.loss.value_coef:g} trains no V, which --label.name {args.label.name} with --label.values "
            f"{args.label.values} reads"
        ]
    return []


def _wrong_numbers(args: Any) -> list[str]:
    shares = {"--label.gamma": args.label.gamma, "--label.lambd": args.label.lambd}
    weights = {"--loss.beta": args.loss.beta, "--loss.value_coef": args.loss.value_coef}
    found = [f"{flag} is {value:g}; wanted a number from 0 to 1" for flag, value in shares.items() if not 0 <= value <= 1]
    return found + [
        f"{flag} is {value:g}; wanted a number of 0 or more"
        for flag, value in weights.items()
        if value is not None and not 0 <= value < float("inf")
    ]


def regression_recorded(args: Any) -> dict[str, Any]:
    trained = args.loss.value_coef > 0 and args.label.name != "outcome_last"
    return {"values": args.label.values, "value_trained": trained, "scale": scale_of_labels(args)}


def _ranking_problems(args: Any) -> list[str]:
    found = []
    if args.label.name in _FROM_THE_MODEL:
        found.append(
            f"--loss.kind pqm wants turns that are right (a target of 0.5 or more) or wrong; --label.name {args.label.name} makes targets of the "
            "model's own scores, of which only the order means something here: give --label.sidecar (mc_hard, rpe, …) or --label.name outcome_all"
        )
    if not 0 <= args.loss.zeta < float("inf"):
        found.append(f"--loss.zeta is {args.loss.zeta}; wanted a number of 0 or more (2 and 4 in arXiv 2410.11287)")
    return found


def _preference_problems(args: Any) -> list[str]:
    found = []
    if not args.label.sidecar:
        found.append("--loss.kind pairs wants preference pairs: make them with cli.label and give the folder as --label.sidecar")
    if not 0 <= args.loss.margin_coef < float("inf"):
        found.append(f"--loss.margin_coef is {args.loss.margin_coef}; wanted a number of 0 or more")
    return found


LOSSES = {
    "mse": Loss(TurnRegression, LABELLED, regression_problems, regression_recorded),
    "soft_bce": Loss(TurnRegression, LABELLED, regression_problems, regression_recorded),
    "pqm": Loss(
        Ranking,
        ("label.name", "label.sidecar", "label.options", "label.shuffle_seed", "loss.kind", "loss.zeta"),
        _ranking_problems,
        lambda args: {"values": "previous_q_from_0", "value_trained": True, "scale": "order"},
    ),
    "pairs": Loss(
        Preferences,
        ("label.name", "label.sidecar", "loss.kind", "loss.margin_coef"),
        _preference_problems,
        lambda args: {"values": "previous_q", "value_trained": False, "scale": "order"},
    ),
}
