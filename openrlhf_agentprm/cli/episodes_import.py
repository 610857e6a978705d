"""agentprm episodes import: the tokens of a policy for episodes that others recorded as text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import UserError

_SHOWN = 5


def add_import_flags(group: argparse._ArgumentGroup) -> None:
    from ..agents.parsing import ACTION_FORMATS
    from ..rollout.flags import add_chat_flags

    add = group.add_argument
    add("--import.format", default="messages", choices=["messages", "agentgym", "agent_prm"], help="what the file, or folder, holds")
    add("--import.env", default=None, help="name of the environment (as the rows say)")
    add("--import.split", default="train", choices=["train", "validation", "test"], help="which tasks they are")
    add("--import.outcome", type=float, default=None, help="outcome of rows that tell none, from 0 to 1")
    add("--import.policy", default="imported", help="who played")
    add("--import.skip_bad", action="store_true", help="leave out rows that are not right, and count them; else nothing is imported")
    add("--policy.model_name_or_path", default=None, help="folder or hub name whose tokenizer makes the tokens")
    add("--data.max_len", type=int, default=2048, help="context in tokens; episodes that outgrow it are left out and counted")
    add("--env.action_format", default="action_only", choices=list(ACTION_FORMATS), help="how the actions are to be read")
    add_chat_flags(group)


def import_episodes(source: str, output: str, args: Any) -> int:
    """Read all rows, then write; the same command again adds nothing."""
    from tqdm import tqdm

    from ..agents.digest import text_digest
    from ..data.store import EpisodeWriter
    from ..rollout.config import EnvConfig
    from ..rollout.recorded import read_recorded
    from ..rollout.recorded_rows import About, RowError
    from ..rollout.retell import retell

    how, model = vars(args)["import"], args.policy.model_name_or_path
    if not model:
        raise UserError("--policy.model_name_or_path is required: the tokenizer that makes the episodes' tokens")
    chat = EnvConfig.from_namespace(args.env, name=how.env or "").chat(model)
    sampling = {"recorded": how.format, "format": text_digest(chat.identity()), "max_len": args.data.max_len}
    found = list(read_recorded(Path(source), how.format, About(how.env, how.split, how.outcome, how.policy, sampling)))
    bad = [f"{source}, {where}: {row}" for where, row in found if isinstance(row, RowError)]
    if bad and not how.skip_bad:
        more = (
            [f"and {len(bad) - _SHOWN} more; --import.skip_bad leaves them out"]
            if len(bad) > _SHOWN
            else ["--import.skip_bad leaves it out"]
        )
        raise UserError([*bad[:_SHOWN], *more])
    episodes = [row for _, row in found if not isinstance(row, RowError)]
    if not episodes:
        raise UserError(f"{source} holds no episode in the format {how.format!r}")
    added = long = 0
    with EpisodeWriter(output) as writer:
        for episode in tqdm(episodes, desc="episodes", unit="ep", mininterval=1.0):
            told = retell(episode, sampling, chat, args.data.max_len, [turn.action for turn in episode.turns])
            if told.status.has_outcome:
                added += writer.add(told)
            else:
                long += 1
    print(f"{added} episodes imported into {output}; {long} longer than --data.max_len {args.data.max_len}, {len(bad)} not right")
    return 0
