"""agentprm episodes stats|show|export|copy|import: what was collected, and stores made of stores or of others' files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..core.arguments import Parser, nest, parse
from ..core.errors import UserError

ACTIONS = {
    "stats": "figures of the store",
    "show": "one episode to read",
    "export": "JSON lines",
    "copy": "the chosen episodes of a store, or of several joined by commas, into another one",
    "import": "episodes that others recorded as text, into a store",
}


def build_parser() -> Parser:
    from ..data.episode import Status
    from .episodes_import import add_import_flags

    parser = Parser(prog="agentprm episodes", description="Look at an episode store, make one of others, or of files.")
    parser.add_argument("do", choices=list(ACTIONS), help="; ".join(f"{name}: {text}" for name, text in ACTIONS.items()))
    parser.add_argument("store", help="folder of the store; several by commas; import: the file, or the folder of files")
    parser.add_argument("output", nargs="?", default=None, help="copy, import: folder of the store to write")
    choose = parser.add_argument_group("which episodes (show, export, copy)").add_argument
    choose("--id", default=None, help="show, export: an episode's id, or its beginning (the first episode)")
    choose("--status", default=None, choices=[status.value for status in Status], help="only episodes that ended so")
    choose("--task", default=None, help="only episodes of this task")
    choose("--iteration", type=int, default=None, help="only episodes of this iteration")
    choose("--split", default=None, help="only tasks of this split")
    choose("--env.name", default=None, help="only this environment")
    choose("--min_outcome", type=float, default=None, help="only episodes with an outcome of at least that")
    choose("--min_turns", type=int, default=None, help="only episodes of at least so many actions")
    choose("--max_turns", type=int, default=None, help="only episodes of at most so many actions")
    choose("--per_task", type=int, default=None, help="at most so many episodes of each task, drawn by --seed")
    choose("--seed", type=int, default=0, help="of that drawing")
    export = parser.add_argument_group("export").add_argument
    export("--output", dest="export_output", default=None, help="file to write (standard output)")
    export(
        "--format", default="rows", choices=["rows", "messages", "agentgym"], help="the store's rows, OpenAI's messages, AgentGym's files"
    )
    add_import_flags(parser.add_argument_group("import"))
    return parser


def main(argv: Sequence[str]) -> int:
    parser = build_parser()
    args = parse(parser, argv)
    if args.do in ("copy", "import") and not args.output:
        raise UserError(f"agentprm episodes {args.do} wants the folder of the store to write behind {args.store!r}")
    if args.do not in ("copy", "import") and args.output:
        raise UserError(f"unexpected argument {args.output!r}; agentprm episodes {args.do} takes one store")
    if unread := _unread(parser, args):
        raise UserError([f"agentprm episodes {args.do} does not read {flag}" for flag in unread])
    if args.do == "import":
        from .episodes_import import import_episodes

        return import_episodes(args.store, args.output, nest(args))
    from ..data.store import EpisodeStore

    act: Callable[[Any, Any], None] = {"stats": _stats, "show": _show, "export": _export, "copy": _copy}[args.do]
    act(EpisodeStore(args.store), args)
    return 0


def _unread(parser: Parser, args: Any) -> list[str]:
    """Flags that are given and that this action has no use for."""
    reads = {"stats": "", "show": "which", "export": "which export", "copy": "which", "import": "import"}[args.do].split()
    return [
        action.option_strings[-1]
        for group in parser._action_groups
        for action in group._group_actions
        if action.option_strings
        and action.dest != "help"
        and getattr(args, action.dest) != action.default
        and ((group.title or "").split()[0] not in reads or (args.do == "copy" and action.dest == "id"))
    ]


def _choice(args: Any) -> Any:
    from dataclasses import fields

    from ..data.copying import Choice

    return Choice(**{field.name: getattr(args, {"env": "env.name"}.get(field.name, field.name)) for field in fields(Choice)})


def _copy(store: Any, args: Any) -> None:
    from ..data.copying import copy

    found = copy(store, args.output, _choice(args))
    print(f"{found['added']} episodes added to {args.output}" + (f"; {found['there']} were there" if found["there"] else ""))


def _stats(store: Any, args: Any) -> None:
    import pyarrow.compute as pc

    from ..data.episode import Status
    from ..envs.mixture import part_of

    statuses: Counter[str] = Counter()
    turns = tokens = longest = ended = 0
    outcome, tasks = 0.0, set()
    who: set[tuple[str, str, str]] = set()
    for batch in store.batches(["env", "split", "task_id", "status", "outcome", "policy", "turns", "token_ids"]):
        columns = {name: batch.column(name).to_pylist() for name in ("env", "split", "task_id", "status", "outcome", "policy")}
        statuses.update(columns["status"])
        turns += pc.sum(pc.list_value_length(batch.column("turns"))).as_py() or 0
        lengths = pc.list_value_length(batch.column("token_ids"))
        tokens, longest = tokens + (pc.sum(lengths).as_py() or 0), max(longest, pc.max(lengths).as_py() or 0)
        tasks.update(columns["task_id"])
        envs = [part_of(env, task) for env, task in zip(columns["env"], columns["task_id"], strict=True)]
        who.update(zip(envs, columns["split"], columns["policy"], strict=True))
        outcomes = [o for o, s in zip(columns["outcome"], columns["status"], strict=True) if Status(s).has_outcome]
        ended, outcome = ended + len(outcomes), outcome + sum(outcomes)
    if not (count := sum(statuses.values())):
        print("no episode has finished yet")
        return
    for env, split, policy in sorted(who):
        print(f"{env} {split}, played by {policy}")
    print(
        f"{count} episodes of {len(tasks)} tasks, {turns} turns ({turns / count:.1f} an episode), "
        f"mean outcome {outcome / max(1, ended):.3f} of the {ended} that have one"
    )
    print(f"{tokens} tokens ({tokens / count:.0f} an episode, at most {longest})")
    print("  ".join(f"{status} {n}" for status, n in statuses.most_common()))


def _chosen(store: Any, args: Any) -> Iterator[dict[str, Any]]:
    from ..data.copying import chosen

    for batch in chosen(store, _choice(args)):
        yield from (row for row in batch.to_pylist() if row["episode_id"].startswith(args.id or ""))


def _show(store: Any, args: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    row = next(_chosen(store, args), None)
    if row is None:
        raise UserError(f"no episode of {store.path} matches (id {args.id}, status {args.status}, task {args.task})")
    table = Table(title=Text(f"{row['env']} {row['task_id']}: {row['status']}, outcome {row['outcome']:g}"), show_lines=True)
    for name in ("turn", "observation", "action", "reward"):
        table.add_column(name)
    for number, turn in enumerate(row["turns"], 1):
        action = Text(turn["action"], style="" if turn["valid_action"] else "red")
        table.add_row(str(number), Text(turn["observation"]), action, f"{turn['reward']:g}")
    console = Console()
    console.print(Text(row["instruction"], style="bold"))
    console.print(table)
    console.print(Text(row["final_observation"] or row["error"]), Text(f"episode {row['episode_id']}, {len(row['token_ids'])} tokens"))


def _export(store: Any, args: Any) -> None:
    from ..data.exporting import FORMATS

    as_object = FORMATS[args.format]
    file = open(args.export_output, "w", encoding="utf-8") if args.export_output else sys.stdout  # noqa: SIM115
    try:
        for row in _chosen(store, args):
            file.write(json.dumps(as_object(row), ensure_ascii=False) + "\n")
    finally:
        if args.export_output:
            file.close()
