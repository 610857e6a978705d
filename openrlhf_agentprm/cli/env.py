"""agentprm env check NAME: the public checker, on any registered environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.arguments import Parser, parse_nested


def build_parser() -> Parser:
    from ..rollout.config import json_object

    parser = Parser(
        prog="agentprm env",
        description="Check what training relies on: types, determinism, isolation, splits, replay, snapshots, the expert, odd input.",
    )
    parser.add_argument("do", choices=["check"], help="what to do")
    parser.add_argument("name", help="registered environment (agentprm list envs)")
    parser.add_argument("--env.args", type=json_object, default={}, help="its arguments, as a JSON object")
    parser.add_argument("--check.time_limit", type=float, default=30.0, help="seconds that one call may take")
    parser.add_argument("--check.steps", type=int, default=12, help="steps of the episodes that are compared")
    parser.add_argument("--check.tasks", type=int, default=3, help="tasks tried")
    return parser


def main(argv: Sequence[str]) -> int:
    args: Any = parse_nested(build_parser(), argv)
    from ..envs.base import make_env
    from ..envs.checker import check_env

    make_env(args.name, **args.env.args).close()  # an environment that cannot be built is the user's error, told at once
    results = check_env(
        lambda: make_env(args.name, **args.env.args),
        time_limit=args.check.time_limit,
        steps=args.check.steps,
        tasks_tried=args.check.tasks,
    )
    for result in results:
        mark = "FAILED" if result.problem else "skipped" if result.skipped else "ok"
        print(f"{mark:<8}{result.name}{': ' + (result.problem or result.skipped) if result.problem or result.skipped else ''}")
    failed = sum(bool(r.problem) for r in results)
    print(f"{args.name}: {len(results) - failed} of {len(results)} checks passed")
    return 2 if failed else 0
