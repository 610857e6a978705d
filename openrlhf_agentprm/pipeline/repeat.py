"""Stages that are repeated: a block of a recipe, written once, becomes ordinary stages with the iteration behind their names.

    stages:
      sft: {…}
      loop:
        repeat: ${vars.iterations}       # episodes-1, prm-1, ppo-1, episodes-2, …
        start: {ppo: "${stages.sft}", prm: "${stages.sft}"}      # what ${stages.ppo@previous} is in the first iteration
        stages:
          episodes: {command: collect, flags: {policy.model_name_or_path: "${stages.ppo@previous}", …}}
          prm: {command: train_prm, flags: {data.dataset: "${stages.episodes@all}", …}}
          ppo: {command: train_ppo_ray, flags: {prm.model_name_or_path: "${stages.prm}", …}}

Inside the block `${stages.NAME}` is the same iteration's stage, `${stages.NAME@previous}` the one of the iteration before, `${stages.NAME@all}`
those up to this iteration and `${iteration}` its number, from 1. Elsewhere `@last` is the last iteration's and `@all` every one. Several are
joined by commas, or are an item each where the reference is an item of a list. No flag of an iteration tells how many there are to be, so
more of them can follow later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import did_you_mean

_BLOCK = ("repeat", "start", "stages")
_STAGE = re.compile(r"\$\{stages\.([^}@]*)(?:@(previous|all|last))?\}")
_VARIABLE = re.compile(r"\$\{vars\.([^}]*)\}")


def expand(source: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Put the stages of every block of a recipe in its place.

    A variable that is a block's count and nothing else is taken out with it: in the recipe that is left it would do nothing.

    Returns:
        Of every stage that was made the name in its block, and what is wrong with the blocks, in words.
    """
    stages = source.get("stages")
    if not isinstance(stages, dict):
        return {}, []
    variables = source["vars"] if isinstance(source.get("vars"), dict) else {}
    names: dict[str, str] = {}
    flat: dict[str, Any] = {}
    problems: list[str] = []
    counts: dict[str, int] = {}  # of the iterations, by stage
    for name, entry in stages.items():
        if not (isinstance(entry, dict) and "repeat" in entry):
            flat[name] = _outside(entry, counts) if isinstance(entry, dict) else entry
            continue
        found, count = _block_problems(name, entry, variables)
        problems += found
        for number in range(1, count + 1) if not found else ():
            made, wrong = _iteration(entry["stages"], entry.get("start") or {}, number)
            problems += wrong + [f"stage {stage!r} is there twice" for stage in made if stage in flat or stage in stages]
            flat |= made
            names |= {f"{of}-{number}": of for of in entry["stages"]}
        counts |= dict.fromkeys(entry.get("stages") or {}, count)
    for entry in stages.values():
        used = _VARIABLE.fullmatch(str(entry.get("repeat"))) if isinstance(entry, dict) else None
        if used and f"${{vars.{used[1]}}}" not in str(flat):
            variables.pop(used[1], None)
    source["stages"] = flat
    return names, problems


def _block_problems(name: str, block: Mapping[str, Any], variables: Mapping[str, Any]) -> tuple[list[str], int]:
    """What is wrong with a block, and how often it is to be repeated."""
    problems = [f"block {name!r}: unknown key {key!r}{did_you_mean(key, _BLOCK)}" for key in block if key not in _BLOCK]
    stages, start, count = block.get("stages"), block.get("start") or {}, block["repeat"]
    used = _VARIABLE.fullmatch(count) if isinstance(count, str) else None
    count = variables.get(used[1], count) if used else count
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        problems.append(f"block {name!r}: repeat is {count!r}; wanted a whole number of 1 or more, or a ${{vars.NAME}} that is one")
    if not isinstance(stages, dict) or not all(isinstance(s, dict) and isinstance(s.get("flags") or {}, dict) for s in stages.values()):
        return [*problems, f"block {name!r}: stages must map names to stages, whose flags are mappings"], 0
    if any("repeat" in stage for stage in stages.values()):
        problems.append(f"block {name!r}: a block inside a block is not repeated")
    if not isinstance(start, dict):
        return [*problems, f"block {name!r}: start must map stages of the block to what stands for them"], 0
    problems += [
        f"block {name!r}: start names {key!r}, no stage of the block{did_you_mean(key, stages)}" for key in start if key not in stages
    ]
    return problems, 0 if problems else count


def _iteration(stages: Mapping[str, Any], start: Mapping[str, str], number: int) -> tuple[dict[str, Any], list[str]]:
    """The block's stages of one iteration."""
    made: dict[str, Any] = {}
    problems: list[str] = []
    for name, stage in stages.items():

        def referred(of: str, which: str, name: str = name) -> list[str]:
            if of not in stages:
                if which:
                    problems.append(
                        f"stage '{name}-{number}': ${{stages.{of}@{which}}} is of no stage of the block{did_you_mean(of, stages)}"
                    )
                return [_reference(of)]
            if which == "all":
                return [_reference(f"{of}-{i}") for i in range(1, number + 1)]
            if which == "last":
                problems.append(f"stage '{name}-{number}': ${{stages.{of}@last}} is not known inside the block; take @previous or @all")
            if which == "previous" and number == 1 and of not in start:
                problems.append(f"stage '{name}-1': nothing is before ${{stages.{of}@previous}}; say in start what stands for it")
            if which == "previous":
                return [_reference(f"{of}-{number - 1}") if number > 1 else str(start.get(of, ""))]
            return [_reference(f"{of}-{number}")]

        flags = _rewritten(stage.get("flags") or {}, referred, {"${iteration}": str(number)})
        made[f"{name}-{number}"] = {**stage, "flags": flags} | _named(stage, number)
    return made, problems


def _named(stage: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Title and output of one iteration."""
    named: dict[str, Any] = {"title": f"{stage['title']}, iteration {number}"} if stage.get("title") else {}
    if "output" in stage:
        stem, dot, suffix = str(stage["output"]).rpartition(".")
        named["output"] = f"{stem}-{number}.{suffix}" if dot else f"{suffix}-{number}"
    return named


def _outside(entry: dict[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """A stage that is not repeated, with its references to those before it that are."""

    def referred(of: str, which: str) -> list[str]:
        if which not in ("last", "all") or of not in counts:
            return [_reference(f"{of}@{which}" if which else of)]
        return [_reference(f"{of}-{i}") for i in range(1 if which == "all" else counts[of], counts[of] + 1)]

    return {**entry, "flags": _rewritten(entry["flags"], referred, {})} if isinstance(entry.get("flags"), dict) else entry


def _reference(stage: str) -> str:
    return f"${{stages.{stage}}}"


def _rewritten(value: Any, referred: Any, texts: Mapping[str, str]) -> Any:
    """A flag's value with its references to stages replaced by `referred`: stage and which one → references to ordinary stages, or other texts."""
    if isinstance(value, dict):
        return {key: _rewritten(v, referred, texts) for key, v in value.items()}
    if isinstance(value, list):
        return [item for v in value for item in _items(v, referred, texts)]
    if not isinstance(value, str):
        return value
    if value in texts:
        return int(texts[value])
    for old, new in texts.items():
        value = value.replace(old, new)
    return _STAGE.sub(lambda m: ",".join(referred(m[1], m[2] or "")), value)


def _items(value: Any, referred: Any, texts: Mapping[str, str]) -> Sequence[Any]:
    whole = _STAGE.fullmatch(value) if isinstance(value, str) else None
    if whole and whole[2] == "all":
        return list(referred(whole[1], "all"))
    return [_rewritten(value, referred, texts)]
