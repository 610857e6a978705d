"""agentprm env check NAME: the public checker, on any registered environment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..core.arguments import Parser, parse_nested


def build_parser() -> Parser:
    from ..rollout.config import json_object, positive_int, seconds

    parser = Parser(
        prog="agentprm env",
        description="Check what training relies on: types, determinism, isolation, splits, replay, snapshots, the expert, odd input.",
    )
    parser.add_argument("do", choices=["check"], help="what to do")
    parser.add_argument("name", help="registered environment (agentprm list envs)")
    parser.add_argument("--env.args", type=json_object, default={}, help="its arguments, as a JSON object")
    parser.add_argument("--check.time_limit", type=seconds, default=30.0, help="seconds that one call may take")
    parser.add_argument("--check.steps", type=positive_int, default=12, help="steps of the episodes that are compared")
    parser.add_argument("--check.tasks", type=positive_int, default=3, help="tasks tried")
    return parser


def main(argv: Sequence[str]) -> int:
    args: Any = parse_nested(build_parser(), argv)
    from ..envs.base import make_env
    from ..envs.isolated import check_env_isolated

    make = partial(make_env, args.name, **args.env.args)
    checked = failed = 0
    for result in check_env_isolated(make, args.check.time_limit, steps=args.check.steps, tasks_tried=args.check.tasks):
        mark = "FAILED" if result.problem else "skipped" if result.skipped else "ok"
        text = f"{mark:<8}{result.name}{': ' + (result.problem or result.skipped) if result.problem or result.skipped else ''}"
        print(text.encode(errors="backslashreplace").decode(), flush=True)
        checked += 1
        failed += bool(result.problem)
    print(f"{args.name}: {checked - failed} of {checked} checks passed")
    return 2 if failed else 0
