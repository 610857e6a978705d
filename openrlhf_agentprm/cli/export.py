"""agentprm export PRM_DIR OUT: a finished PRM as a folder that plain transformers and vLLM load, with a model card made from its record."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from .boundary import run_command


def build_parser() -> Parser:
    parser = Parser(prog="agentprm export", description="Write a finished PRM with a model card; scores stay what they are.")
    parser.add_argument("path", metavar="PRM_DIR", help="checkpoint of cli.train_prm")
    parser.add_argument("output", metavar="OUT", help="folder to make")
    parser.add_argument("--export.name", default=None, help="title of the model card (the folder's name)")
    parser.add_argument("--export.base_model", default=None, help="hub name of the model that the training started from, for the card")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    from ..prm.export import check_finished, write_export

    out = Path(args.output)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and is not empty; give another folder")
    record = check_finished(args.path)
    half = out.with_name(f".{out.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        write_export(args.path, half, record, name=args.export.name or out.name, base_model=args.export.base_model)
        if out.exists():
            out.rmdir()
        half.rename(out)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    print(f"exported {args.path} to {out}: weights, tokenizer, agentprm.json and a model card; choose a licence in {out / 'README.md'}")
    return 0


if __name__ == "__main__":
    run_command(main)
