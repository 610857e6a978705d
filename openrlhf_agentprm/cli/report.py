"""agentprm report RUN_DIR: one self-contained HTML file; as a recipe's stage, python -m openrlhf_agentprm.cli.report."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.arguments import Parser, parse, parse_nested
from .boundary import run_command


def build_parser() -> Parser:
    """Flags of the stage; the command takes the folder as its argument."""
    parser = Parser(prog="agentprm report", description="Write one self-contained HTML file about a run; it needs no network to open.")
    parser.add_argument("--report.run_dir", required=True, help="folder of a run")
    parser.add_argument("--report.output", default=None, help="file to write (report.html in the folder)")
    return parser


def main(argv: Sequence[str]) -> int:
    """`agentprm report RUN_DIR [--output FILE]`."""
    parser = Parser(prog="agentprm report", description=build_parser().description)
    parser.add_argument("run_dir", help="folder of a run")
    parser.add_argument("--output", default=None, help="file to write (report.html in the folder)")
    args = parse(parser, argv)
    return _write(args.run_dir, args.output)


def stage(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    return _write(args.report.run_dir, args.report.output)


def _write(run_dir: str, output: str | None) -> int:
    from ..report.build import build_report

    print(build_report(run_dir, output))
    return 0


if __name__ == "__main__":
    run_command(stage)
