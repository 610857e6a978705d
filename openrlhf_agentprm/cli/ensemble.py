"""python -m openrlhf_agentprm.cli.ensemble: several PRMs as one reward model, a folder with `ensemble.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..core.arguments import Parser, parse_nested
from .boundary import run_command


def build_parser() -> Parser:
    from ..prm.kinds.ensemble import COMBINE

    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.ensemble",
        description="Make one reward model of several: a folder that evaluate, search and train_ppo_ray take as --prm.model_name_or_path.",
    )
    add = parser.add_argument
    add("--ensemble.members", nargs="+", required=True, help="PRM folders of one tokenizer, two or more")
    add("--ensemble.combine", default="mean", choices=COMBINE, help="mean, the lowest, or mean − kappa · standard deviation")
    add("--ensemble.kappa", type=float, default=1.0, help="lcb: how many standard deviations below the mean")
    add("--ensemble.output", required=True, help="folder to write")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..data.files import write_whole
    from ..prm.kinds.ensemble import FILE, EnsemblePRM

    args = parse_nested(build_parser(), argv).ensemble
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    members = [os.path.relpath(Path(m).resolve(), folder.resolve()) for m in args.members]
    write_whole(folder / FILE, json.dumps({"members": members, "combine": args.combine, "kappa": args.kappa}, indent=1) + "\n")
    try:
        EnsemblePRM.check(str(folder))
    except BaseException:
        (folder / FILE).unlink()
        raise
    print(f"{len(members)} members, {args.combine}: {folder}")
    return 0


if __name__ == "__main__":
    run_command(main)
