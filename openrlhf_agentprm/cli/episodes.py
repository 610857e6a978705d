"""agentprm episodes stats|show|export DIR: what was collected."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..core.arguments import Parser, parse
from ..core.errors import UserError


def build_parser() -> Parser:
    parser = Parser(prog="agentprm episodes", description="Look at an episode store.")
    parser.add_argument("do", choices=["stats", "show", "export"], help="figures of the store, one episode to read, or JSON lines")
    parser.add_argument("store", help="folder of the store")
    parser.add_argument("--id", default=None, help="show: an episode's id, or its beginning (the first episode)")
    parser.add_argument("--status", default=None, help="show, export: only episodes that ended so")
    parser.add_argument("--task", default=None, help="show, export: only episodes of this task")
    parser.add_argument("--output", default=None, help="export: file to write (standard output)")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parse(build_parser(), argv)
    from ..data.store import EpisodeStore

    store = EpisodeStore(args.store)
    {"stats": _stats, "show": _show, "export": _export}[args.do](store, args)
    return 0


def _stats(store: Any, args: Any) -> None:
    from ..data.episode import Status

    statuses: Counter[str] = Counter()
    columns = ["env", "split", "task_id", "status", "outcome", "policy", "turns", "token_ids"]
    turns, tokens, longest, tasks, who, outcomes = [], 0, 0, set(), set(), []
    for row in store.rows(columns):
        statuses[row["status"]] += 1
        turns.append(len(row["turns"]))
        tokens += len(row["token_ids"])
        longest = max(longest, len(row["token_ids"]))
        tasks.add(row["task_id"])
        who.add((row["env"], row["split"], row["policy"]))
        if Status(row["status"]).has_outcome:
            outcomes.append(row["outcome"])
    count = len(turns)
    if not count:
        print("no episode has finished yet")
        return
    for env, split, policy in sorted(who):
        print(f"{env} {split}, played by {policy}")
    print(
        f"{count} episodes of {len(tasks)} tasks, {sum(turns)} turns ({sum(turns) / count:.1f} an episode), "
        f"mean outcome {sum(outcomes) / max(1, len(outcomes)):.3f} of the {len(outcomes)} that have one"
    )
    print(f"{tokens} tokens ({tokens / count:.0f} an episode, at most {longest})")
    print("  ".join(f"{status} {n}" for status, n in statuses.most_common()))


def _chosen(store: Any, args: Any) -> Any:
    for row in store.rows():
        if args.status in (None, row["status"]) and args.task in (None, row["task_id"]) and row["episode_id"].startswith(args.id or ""):
            yield row


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
    file = open(args.output, "w", encoding="utf-8") if args.output else sys.stdout  # noqa: SIM115
    try:
        for row in _chosen(store, args):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    finally:
        if args.output:
            file.close()
