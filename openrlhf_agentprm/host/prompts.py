"""An environment's tasks as the host's prompt and evaluation files: made by the driver, and at hand on whatever node the trainer runs."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.files import write_whole
from ..envs.mixture import part_of
from ..rollout.config import EnvConfig, check_context


@dataclass(frozen=True)
class PromptFile:
    """A file that goes with the arguments, for a trainer that does not see the driver's folders."""

    path: str
    packed: bytes = field(repr=False)

    def place(self) -> None:
        """Write it where it is not there as it should be."""
        path, text = Path(self.path), zlib.decompress(self.packed).decode()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)


def write_datasets(args: Any) -> None:
    """Point the host at its prompt and evaluation files, one line a task; the executor reads the task in the label."""
    config = EnvConfig.from_namespace(args.env)
    folder = Path(args.ckpt.output_dir).absolute() / "agentprm"
    with config.pool(size=1, spares=0) as pool:
        parts = {"prompts": (config.split, config.tasks(pool))}
        check_context(pool, config.chat(args.actor.model_name_or_path), parts["prompts"][1], args.data.max_len)
        if args.env.eval_tasks:
            parts["evaluation"] = (args.env.eval_split, pool.tasks(args.env.eval_split, 0, args.env.eval_tasks))
    args.agentprm.files = [
        PromptFile(str(folder / f"{name}.jsonl"), zlib.compress(_lines(config.name, split, tasks).encode()))
        for name, (split, tasks) in parts.items()
    ]
    place(args)
    args.data.prompt_dataset = str(folder / "prompts.jsonl")
    args.data.input_key, args.data.label_key = "input", "label"
    args.data.apply_chat_template, args.data.input_template = False, None
    if args.env.eval_tasks:
        args.eval.dataset = str(folder / "evaluation.jsonl")


def place(args: Any) -> None:
    """Have the files of `write_datasets` at hand on this node; the trainer asks for it before it reads them."""
    for file in getattr(getattr(args, "agentprm", None), "files", ()):
        file.place()


def _lines(env: str, split: str, tasks: list[str]) -> str:
    label = {"split": split, "seed": 0}
    rows = [{"input": f"{env}:{task}", "label": json.dumps({"task_id": task, **label}), "datasource": part_of(env, task)} for task in tasks]
    return "".join(json.dumps(row) + "\n" for row in rows)
