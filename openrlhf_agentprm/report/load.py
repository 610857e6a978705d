"""What a run folder says of itself: its recipe, machine and versions, and which stages are done.

The report knows stages by their command, never by their name, so it reads the run of any recipe.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import UserError

_NUMBER = re.compile(r"-\.?\d")  # an argument such as -1 is a value, not a flag


@dataclass(frozen=True)
class Stage:
    """A stage of the recipe as the run left it.

    Args:
        state: "done", "begun" (running, interrupted or failed) or "waiting".
        flags: its command line, each flag with its values.
        seconds: what the process took that finished it.
    """

    name: str
    command: str
    title: str
    output: Path
    state: str
    flags: dict[str, list[str]] = field(default_factory=dict)
    seconds: float | None = None
    finished: str = ""

    @property
    def label(self) -> str:
        return self.title or self.name

    def flag(self, name: str, default: str = "") -> str:
        """The flag's first value; `default` where it was not given."""
        values = self.flags.get(name)
        return values[0] if values else default


@dataclass(frozen=True)
class RunFolder:
    """A run: the folder as it lies now, and what `recipe.yaml` and `run.json` recorded."""

    path: Path
    name: str
    description: str
    seed: int
    recorded_dir: str
    stages: list[Stage]
    about: dict[str, Any]

    def done(self, *commands: str) -> list[Stage]:
        return [s for s in self.stages if s.command in commands and s.state == "done"]

    def started(self, *commands: str) -> list[Stage]:
        return [s for s in self.stages if s.command in commands and s.state != "waiting"]

    def locate(self, recorded: str) -> Path:
        """Where a path of a command line lies now, also when the run folder was moved or copied."""
        path = Path(recorded)
        try:
            return self.path / path.relative_to(self.recorded_dir)
        except ValueError:
            return path

    def checkpoint(self, stage: Stage) -> Path:
        """The folder of the model that a training stage saved."""
        return self.locate(stage.flag("ckpt.output_dir", str(stage.output)))

    def origin(self, recorded: str) -> Stage | None:
        """The stage that wrote a path; None for a path from outside the run. A selection's link is what it leads to."""
        path = self.locate(recorded)
        if path.is_symlink():
            path = self.path / os.path.relpath(path.resolve(), self.path.resolve())
        makers = [s for s in self.stages if path == s.output or s.output in path.parents]
        return max(makers, key=lambda s: len(s.output.parts), default=None)


def load_run(run_dir: str | Path) -> RunFolder:
    """Read a run folder.

    Raises:
        UserError: it is no run folder, a file of it cannot be read, or no stage has finished.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the run_dir of a recipe (agentprm run RECIPE makes one)")
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} is not a run folder: it has no recipe.yaml (agentprm run RECIPE writes it); check the path")
    recipe = _read_recipe(folder / "recipe.yaml")
    about = _read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    entries = recipe["stages"].items()
    lines = [shlex.split(line) for line in about.get("launch_lines", [])]
    if len(lines) != len(entries):
        lines = [[]] * len(entries)
    stages = [_stage(folder, name, entry, line) for (name, entry), line in zip(entries, lines, strict=True)]
    stages = [stage for stage in stages if stage.command != "report"]  # it is being written
    if not any(stage.state == "done" for stage in stages):
        begun = ", ".join(s.name for s in stages if s.state == "begun")
        raise UserError(
            f"no stage of the run in {folder} has finished, so there is nothing to report"
            + (f" (begun: {begun}); wait for it, or look at {folder}/logs" if begun else "; start it with agentprm run")
        )
    return RunFolder(
        folder,
        str(recipe.get("name", folder.name)),
        str(recipe.get("description", "")),
        int(recipe.get("seed", 0)),
        str(recipe.get("run_dir", folder)),
        stages,
        about,
    )


def flags_of(argv: Sequence[str]) -> dict[str, list[str]]:
    """A launch line's flags with their values; a switch has none.

    >>> flags_of(["python", "-m", "x", "--a.b", "1", "--c", "--d", "2", "-3"])
    {'a.b': ['1'], 'c': [], 'd': ['2', '-3']}
    """
    flags: dict[str, list[str]] = {}
    values: list[str] = []
    for word in argv:
        if word.startswith("-") and not _NUMBER.match(word):
            values = flags[word.lstrip("-")] = []
        else:
            values.append(word)
    flags.pop("m", None)
    return flags


def _stage(folder: Path, name: str, entry: dict[str, Any], launch_line: list[str]) -> Stage:
    """A stage counts as done when its record stands, its output is there, and it was not begun anew since."""
    output = folder / str(entry.get("output", name))
    record, begun = folder / "state" / f"{name}.json", folder / "state" / f"{name}.begun"
    stage = Stage(name, str(entry.get("command", "")), str(entry.get("title", "")), output, "waiting", flags_of(launch_line))
    if record.is_file() and output.exists():
        done = _read_json(record)
        began = begun.read_text(encoding="utf-8").partition("\n")[0] if begun.is_file() else None
        if began in (None, done.get("mark", began)):
            argv = shlex.split(str(done.get("command", ""))) or launch_line
            seconds, finished = float(done["seconds"]), str(done.get("finished", ""))
            return replace(stage, state="done", flags=flags_of(argv), seconds=seconds, finished=finished)
    return replace(stage, state="begun") if begun.is_file() else stage


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from error
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(entry, dict) for entry in stages.values()):
        raise UserError(f"{path} names no stages, so it is not the recipe of a run")
    return recipe


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; a JSON object was expected")
    return value
