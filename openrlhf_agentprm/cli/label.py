"""python -m openrlhf_agentprm.cli.label: labels that need a whole episode store, made beforehand for train_prm."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from ..core.registry import LABELS
from ..rollout.config import json_object
from .boundary import run_command


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.label",
        description=(
            "Label every turn of an episode store by a method that needs the whole store, into a sidecar that "
            "train_prm --label.sidecar reads. Methods that label from the model's own scores need no such stage: train_prm makes them."
        ),
    )
    add = parser.add_argument
    add("--data.dataset", required=True, help="episode store")
    add("--label.name", default="mc_visits", choices=LABELS.names(), help="method (agentprm list labels)")
    add("--label.options", type=json_object, default={}, help="options of the method, as a JSON object")
    add("--label.output", required=True, help="folder of the sidecar")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..data.store import EpisodeStore
    from ..host.ppo_checks import unknown_options

    args = parse_nested(build_parser(), argv)
    method = LABELS.load(args.label.name)
    if not hasattr(method, "annotate"):
        raise UserError(f"--label.name {args.label.name} is made from the model's own scores while it trains: give it to train_prm")
    if problems := unknown_options("--label.options", args.label.options, method.annotate):
        raise UserError(problems)
    store = EpisodeStore(args.data.dataset)
    began = time.monotonic()
    sidecar = method.annotate(store, **args.label.options)
    sidecar.cost["seconds"] = round(time.monotonic() - began, 3)
    about = {"method": args.label.name, "options": args.label.options, "dataset": args.data.dataset}
    sidecar.save(args.label.output, about)
    for name, value in {**sidecar.figures, **sidecar.cost}.items():
        print(f"{name.replace('_', ' '):<20} {value}")
    return 0


if __name__ == "__main__":
    run_command(main)
