"""agentprm env check|play|fetch NAME: the public checker, on any registered environment; a person plays; and data that it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError


def build_parser() -> Parser:
    from ..core.argument_types import json_object, positive_int, seconds, seed

    parser = Parser(prog="agentprm env", description="Check what training relies on, play an episode yourself, or fetch what it needs.")
    parser.add_argument(
        "do",
        choices=["check", "play", "fetch"],
        help="check: types, determinism, isolation, splits, replay, snapshots, the expert, odd input, threads, forks, memory, times; "
        "play: in this terminal; fetch: data that is not in the package (textcraft's recipes)",
    )
    parser.add_argument("name", help="registered environment (agentprm list envs)")
    parser.add_argument("--env.args", type=json_object, default={}, help="its arguments, as a JSON object")
    check = parser.add_argument_group("check").add_argument
    check("--check.time_limit", type=seconds, default=30.0, help="seconds that one call may take")
    check("--check.steps", type=positive_int, default=12, help="steps of the episodes that are compared")
    check("--check.episodes", type=positive_int, default=500, help="episodes over which memory is watched (or 20 seconds)")
    check("--check.tasks", type=positive_int, default=3, help="tasks tried")
    play = parser.add_argument_group("play").add_argument
    play("--play.task", default=None, help="id of the task (the split's first)")
    play("--play.split", default="train", choices=["train", "validation", "test"], help="whose first task")
    play("--play.seed", type=seed, default=0, help="seed of the reset")
    fetch = parser.add_argument_group("fetch").add_argument
    fetch("--fetch.archive", default=None, help="the archive, where it is here already; else it is downloaded")
    return parser


def main(argv: Sequence[str]) -> int:
    args: Any = parse_nested(build_parser(), argv)
    from ..core.registry import ENVS
    from ..envs.base import make_env

    if args.do == "fetch":
        if (fetch := getattr(ENVS.load(args.name), "fetch", None)) is None:
            raise UserError(f"the environment {args.name!r} needs no data that is fetched")
        print(fetch(args.fetch.archive))
        return 0
    make = partial(make_env, args.name, **args.env.args)
    return _check(make, args) if args.do == "check" else _play(make, args.play)


def _check(make: Callable[[], Any], args: Any) -> int:
    from ..envs.isolated import check_env_isolated

    checked = failed = 0
    how = {"steps": args.check.steps, "tasks_tried": args.check.tasks, "episodes": args.check.episodes}
    for result in check_env_isolated(make, args.check.time_limit, **how):
        mark = "FAILED" if result.problem else "skipped" if result.skipped else "ok"
        more = result.problem or result.skipped or result.told
        _say(f"{mark:<8}{result.name}{': ' + more if more else ''}")
        checked += 1
        failed += bool(result.problem)
    print(f"{args.name}: {checked - failed} of {checked} checks passed")
    return 2 if failed else 0


def _play(make: Callable[[], Any], flags: Any) -> int:
    """One episode by what is typed; an empty line lists actions, `:expert` takes the expert's, `:quit` or Ctrl-D leaves."""
    with contextlib.closing(make()) as env:
        _play_one(env, flags)
    return 0


def _play_one(env: Any, flags: Any) -> None:
    from ..envs.base import HasAdmissibleActions, HasExpert, HasTasks, ability

    tasks, listing, expert = (ability(env, kind) for kind in (HasTasks, HasAdmissibleActions, HasExpert))
    if flags.task is None and tasks is not None and not len(tasks.tasks(flags.split)):
        raise UserError(f"the split {flags.split!r} has no task")
    task = flags.task if flags.task is not None or tasks is None else tasks.tasks(flags.split)[0]
    observation, info = env.reset(seed=flags.seed, options={"task_id": task} if task is not None else None)
    _say(f"task {task}\n{info['instruction']}\n\n{observation}")
    total, turn = 0.0, 0
    while (action := _typed()) is not None:
        if action == ":expert":
            if expert is None:
                _say("(it has no expert)")
                continue
            action = expert.expert_action()
            _say(f"(the expert: {action})")
        elif not action:
            _say("; ".join(listing.admissible_actions()) if listing else "(it lists no actions)")
            continue
        observation, reward, terminated, truncated, info = env.step(action)
        total, turn = total + float(reward), turn + 1
        _say(("" if info["valid_action"] else "(not understood)\n") + str(observation))
        if terminated or truncated:
            outcome = info.get("outcome")
            _say(
                f"{'success' if info['success'] else 'no success'} after {turn} actions, rewards {total:g}"
                + (f", outcome {outcome:g}" if outcome else "")
            )
            break


def _typed() -> str | None:
    """What was typed; None to leave."""
    try:
        text = input("> ").strip()
    except EOFError:
        return None
    return None if text == ":quit" else text


def _say(text: str) -> None:
    print(text.encode(errors="backslashreplace").decode(), flush=True)
