"""A recipe: named stages, each a command of this package with its flags.

    name: quickstart
    run_dir: runs/quickstart
    seed: 0
    vars: {tasks: 500}
    stages:
      sft:
        command: train_sft
        launcher: deepspeed
        title: supervised warm start
        output: sft                      # below run_dir; ${stages.sft} in later flags
        flags:
          model.model_name_or_path: ${stages.policy0}
          train.seed: ${seed}

`${seed}`, `${run_dir}`, `${vars.NAME}` and `${stages.NAME}` (the output of an earlier stage) are filled in; `${output}` is the stage's own
output. `shared:` holds mappings that stages merge by YAML anchors; nothing else reads it. A block of stages may be repeated (pipeline/repeat.py).
Every mistake of a recipe is told at once.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..core.arguments import problems_of
from ..core.errors import UserError, did_you_mean
from .folders import recipes_folder
from .repeat import expand
from .shape import TOP, can_be_built, shape_problems

Parsers = Mapping[str, Callable[[], argparse.ArgumentParser]]
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


@dataclass
class Stage:
    """One command line, and the flags that it was made of, filled in. `minutes` is what it took on the machine that the recipe names, for
    the estimate of the time left."""

    name: str
    command: str
    argv: list[str]
    output: Path
    needs: list[str]
    launcher: str = "python"
    title: str = ""
    minutes: float = 1.0
    processes: int = 1
    flags: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recipe:
    name: str
    description: str
    run_dir: Path
    seed: int
    stages: list[Stage]
    source: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [s.name for s in self.stages]
        raise UserError(f"recipe {self.name!r} has no stage {name!r}{did_you_mean(name, names)} (stages: {', '.join(names)})")


def find_recipe(name_or_path: str) -> Path:
    """A path as it is, or the name of a recipe of ours."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    ours = {p.stem: p for p in recipes_folder().glob("*.yaml")}
    if name_or_path in ours:
        return ours[name_or_path]
    raise UserError(f"no recipe {name_or_path!r}{did_you_mean(name_or_path, ours)} (a path, or one of: {', '.join(sorted(ours))})")


def load_recipe(name_or_path: str, changes: Sequence[str], parsers: Parsers) -> Recipe:
    """Read, change, fill in and check a recipe.

    Args:
        changes: `--set` entries: `seed=1`, `run_dir=…`, `vars.NAME=…` or `STAGE.FLAG=…`, values in YAML; of a repeated stage `ppo.FLAG` is
            meant for every iteration and `ppo-2.FLAG` for one.
        parsers: each command's parser.

    Raises:
        UserError: everything that is wrong with it.
    """
    path = find_recipe(name_or_path)
    try:
        source = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(source, dict):
        raise UserError(f"{path} holds {type(source).__name__}; a recipe is a mapping with the keys {', '.join(TOP)}")
    repeated, problems = _change(source, changes)
    problems += shape_problems(source)
    stages, more = _build(source, parsers) if can_be_built(source) else ([], [])
    if problems := problems + more:
        raise UserError([f"{path}: {problem}" for problem in _once(problems, repeated)])
    return Recipe(
        str(source["name"]), str(source.get("description", "")), Path(_run_dir(source)), int(source.get("seed", 0)), stages, source
    )


def _change(source: dict[str, Any], changes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Apply `--set` entries: those of the recipe as a whole, then, once its blocks are repeated, those of stages, of every iteration or of one.

    Returns:
        The names in their block of stages that are repeated, and problems.
    """
    problems: list[str] = []
    of_stages: list[tuple[str, Any]] = []
    variables = source["vars"] if isinstance(source.get("vars"), dict) else {}
    for change in changes:
        key, eq, text = change.partition("=")
        if not eq:
            problems.append(f"--set {change!r} is not KEY=VALUE")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            problems.append(f"--set {change!r}: {text!r} is not valid YAML ({str(error).splitlines()[0]}); put quotes around a text")
            continue
        first, _, rest = key.partition(".")
        if key in ("seed", "run_dir"):
            source[key] = value
        elif first == "vars" and rest in variables:
            variables[rest] = value
        else:
            of_stages.append((key, value))
    named = list(variables)
    repeated, found = expand(source)
    problems += found
    stages = source["stages"] if isinstance(source.get("stages"), dict) else {}
    for key, value in of_stages:
        first, _, rest = key.partition(".")
        meant = [name for name in stages if first in (name, repeated.get(name))] if rest else []
        for name in meant:
            if isinstance(stages[name], dict) and isinstance(stages[name].get("flags") or {}, dict):  # else told with its shape
                stages[name]["flags"] = (stages[name].get("flags") or {}) | {rest: value}
        if not meant:
            known = ["seed", "run_dir", *[f"vars.{v}" for v in named], *[f"{s}.FLAG" for s in stages]]
            problems.append(f"--set {key!r} names nothing in the recipe{did_you_mean(key, known)} (known: {', '.join(known)})")
    return repeated, problems


def _build(source: dict[str, Any], parsers: Parsers) -> tuple[list[Stage], list[str]]:
    run_dir = _run_dir(source)
    values: dict[str, Any] = {"seed": source.get("seed", 0), "run_dir": run_dir}
    stages: list[Stage] = []
    problems: list[str] = []
    for name, value in (source.get("vars") or {}).items():
        wrong: list[str] = []
        values[f"vars.{name}"] = _fill(value, values, [], wrong)
        problems += [f"vars.{name}: {problem}" for problem in wrong]
    for name, entry in source["stages"].items():
        used: list[str] = []
        wrong = []
        flags = {key: _fill(value, values, used, wrong) for key, value in (entry.get("flags") or {}).items()}
        output = Path(run_dir) / str(entry.get("output", name))
        problems += [f"stage {name!r}: {problem}" for problem in wrong]
        command = entry["command"]
        if command not in parsers:
            problems.append(f"stage {name!r}: unknown command {command!r}{did_you_mean(command, parsers)} (known: {', '.join(parsers)})")
        else:
            flags = _fill(flags, {"output": str(output)}, [], [])
            argv = arguments(flags)
            found = problems_of(parsers[command](), argv)
            problems += [f"stage {name!r}: {problem}" for problem in found if "'${" not in problem]  # told already
            needs = sorted({u.partition(".")[2] for u in used if u.startswith("stages.")})
            if command == "report":  # it reads the whole run
                needs = [s.name for s in stages]
            extra = {k: entry[k] for k in ("launcher", "title", "minutes", "processes") if k in entry}
            stages.append(Stage(name, command, argv, output, needs, flags=flags, **extra))
        values[f"stages.{name}"] = str(output)
    return stages, problems


def _fill(value: Any, values: Mapping[str, Any], used: list[str], wrong: list[str]) -> Any:
    """Replace `${…}`; a text that is one reference takes the value's own type."""
    if isinstance(value, list):
        return [_fill(v, values, used, wrong) for v in value]
    if isinstance(value, dict):
        return {k: _fill(v, values, used, wrong) for k, v in value.items()}
    if not isinstance(value, str):
        return value

    def look_up(name: str) -> Any:
        if name == "output" or name in values:
            used.append(name)
            return values.get(name, "${output}")
        if not name.startswith("output") and values.get("output") is None:
            wrong.append(f"${{{name}}} is not defined here{did_you_mean(name, values)} (known: {', '.join(values)}, output)")
        return f"${{{name}}}"

    whole = _REFERENCE.fullmatch(value)
    if whole:
        return look_up(whole[1])
    return _REFERENCE.sub(lambda m: str(look_up(m[1])), value)


def arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags as a command line: true is the flag alone, false and null leave it out, lists are several values, mappings are JSON."""
    argv: list[str] = []
    for key, value in flags.items():
        if value is None or value is False:
            continue
        argv.append(f"--{key}")
        if value is True:
            continue
        for item in value if isinstance(value, list) else [value]:
            argv.append(json.dumps(item) if isinstance(item, dict) else str(item))
    return argv


def _once(problems: Sequence[str], repeated: Mapping[str, str]) -> list[str]:
    """A mistake in a repeated stage is told of one iteration, the first."""
    told: dict[str, str] = {}
    for problem in problems:
        stage = next((name for name in repeated if problem.startswith(f"stage '{name}':")), "")
        told.setdefault(problem.replace(f"'{stage}'", repeated[stage], 1) if stage else problem, problem)
    return list(told.values())


def _run_dir(source: Mapping[str, Any]) -> str:
    return str(source.get("run_dir") or f"runs/{source['name']}")
