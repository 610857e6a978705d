"""Of what keys a recipe and its stages are, and of what kinds their values: what is wrong is told in words, all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import did_you_mean

TOP = ("name", "description", "run_dir", "seed", "vars", "shared", "stages")
STAGE = ("command", "launcher", "title", "output", "flags", "minutes", "processes")

_LAUNCHERS = ("python", "deepspeed")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "command": (lambda v: isinstance(v, str), "the name of a command"),
    "launcher": (lambda v: v in _LAUNCHERS, "python or deepspeed"),
    "flags": (lambda v: v is None or isinstance(v, dict), "flags and their values, or nothing"),
    "minutes": (lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0, "a number"),
    "processes": (lambda v: _whole(v, 1), "a whole number of 1 or more"),
}


def shape_problems(source: Mapping[str, Any]) -> list[str]:
    """What is wrong with a recipe whose blocks are repeated already."""
    problems = [f"unknown key {key!r}{did_you_mean(str(key), TOP)} (known: {', '.join(TOP)})" for key in source if key not in TOP]
    problems += [f"the key {key!r} is missing" for key in ("name", "stages") if key not in source]
    if not isinstance(source.get("vars") or {}, dict):
        problems.append(f"vars is {source['vars']!r}; wanted names and values")
    if not _whole(source.get("seed", 0), 0):
        problems.append(f"seed is {source['seed']!r}; wanted a whole number of 0 or more")
    stages = source.get("stages")
    if stages is not None and (not isinstance(stages, dict) or not stages):
        return [*problems, "'stages' must map stage names to stages"]
    for name, stage in (stages or {}).items():
        problems += [f"stage {name!r}{problem}" for problem in _stage_problems(stage)]
    return problems


def _stage_problems(stage: Any) -> list[str]:
    if not isinstance(stage, dict):
        return [f" must be a mapping with {', '.join(STAGE)}"]
    problems = [f": unknown key {key!r}{did_you_mean(str(key), STAGE)}" for key in stage if key not in STAGE]
    problems += [": the key 'command' is missing"] if "command" not in stage else []
    wrong = {key: wanted for key, (fits, wanted) in _KINDS.items() if key in stage and not fits(stage[key])}
    return problems + [f": {key} is {stage[key]!r}; wanted {wanted}" for key, wanted in wrong.items()]


def can_be_built(source: Mapping[str, Any]) -> bool:
    """Whether the flags of all stages can be looked at, whatever else is wrong."""
    stages = source.get("stages")
    if "name" not in source or not isinstance(stages, dict) or not isinstance(source.get("vars") or {}, dict):
        return False
    wanted = ("command", "flags")
    return all(
        isinstance(s, dict) and "command" in s and all(_KINDS[key][0](s[key]) for key in wanted if key in s) for s in stages.values()
    )
