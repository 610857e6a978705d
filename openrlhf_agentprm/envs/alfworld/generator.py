"""Games for ALFWorld's engine, made from a task id: the same id gives the same bytes anywhere.

These are "generated ALFWorld-engine tasks". They use ALFWorld's domain, grammar, goal phrases and floor plans, but they are not the
published games, and scores on them are not scores on ALFWorld's splits.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alfworld.gen import constants
from alfworld.gen.goal_library import gdict
from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH

from ...core.errors import UserError, did_you_mean
from .engine import Engine
from .household import TASK_TYPES, Choice, Household, accepts, choices, room_of, sample_household
from .oracle import Goal, shortest_plan

MARK = "openrlhf_agentprm"  # the value of `generator` in a generated game's traj_data.json
_DRAWS = 100
_ID = re.compile(r"(?P<type>\w+)-scene(?P<scene>\d{1,3})/(?P<seed>\d{1,12})")
_MANGLED = (("-", "_minus_"), ("|", "_bar_"), ("+", "_plus_"), (".", "_dot_"), (",", "_comma_"))
_ABILITIES = ("Cleanable", "Heatable", "Coolable", "Toggleable", "Sliceable")


@dataclass(frozen=True)
class Task:
    """A generated task: its id is `TYPE-sceneN/SEED`, such as `pick_heat_then_place_in_recep-scene12/7`."""

    task_type: str
    scene: int
    seed: int

    def __str__(self) -> str:
        return f"{self.task_type}-scene{self.scene}/{self.seed}"

    @staticmethod
    def parse(task_id: str) -> Task:
        """Read an id.

        Raises:
            UserError: another form, an unknown task type or scene, or a type that its room does not allow.
        """
        match = _ID.fullmatch(task_id)
        if not match:
            raise UserError(
                f"unknown ALFWorld task {task_id[:200]!r}; a generated task is TYPE-sceneN/SEED, such as '{TASK_TYPES[0]}-scene7/0'"
            )
        task = Task(match["type"], int(match["scene"]), int(match["seed"]))
        if task.task_type not in TASK_TYPES:
            raise UserError(f"ALFWorld task {task_id!r}: unknown task type {task.task_type!r}{did_you_mean(task.task_type, TASK_TYPES)}")
        room, allowed = room_of(task.scene), constants.GOALS_VALID[task.task_type]
        if room is None:
            ranges = ", ".join(f"{scenes[0]}-{scenes[-1]}" for scenes in constants.SCENE_TYPE.values())
            raise UserError(f"ALFWorld task {task_id!r}: there is no scene {task.scene} (known: {ranges})")
        if room not in allowed:
            needed = ", ".join(sorted(allowed))
            raise UserError(f"ALFWorld task {task_id!r}: scene {task.scene} is a {room}; {task.task_type} needs one of {needed}")
        return task


def make_game(task: Task, engine: Engine) -> dict[str, str]:
    """The files of a game, name to content. Draws that the engine does not confirm as solvable are passed over, always alike.

    Args:
        engine: plays the oracle's plan; the game is left loaded in it.

    Raises:
        UserError: no draw gives a solvable task of this type in this scene.
    """
    for draw in range(_DRAWS):
        rng = random.Random(f"{task}/{draw}")
        home = sample_household(task.scene, rng)
        options = choices(home, task.task_type)
        if not options:
            continue
        choice = rng.choice(options)
        phrase = rng.choice(gdict[choice.task_type]["templates"]).format(**_words(choice, lower=True))
        game: dict[str, Any] = {
            "pddl_domain": Path(ALFRED_PDDL_PATH).read_text(encoding="utf-8"),
            "grammar": Path(ALFRED_TWL2_PATH).read_text(encoding="utf-8").replace("UNKNOWN GOAL", phrase),
            "pddl_problem": problem_text(home, choice, f"{task.scene}_{task.seed}_{draw}"),
        }
        walkthrough = _confirmed_plan(game, engine)
        if walkthrough:
            game.update(solvable=True, walkthrough=walkthrough)
            return {"game.tw-pddl": _json(game), "traj_data.json": _json(_description(task, choice, phrase))}
    raise RuntimeError(f"no solvable ALFWorld task of type {task.task_type!r} in scene {task.scene} in {_DRAWS} draws; take another scene")


def _confirmed_plan(game: dict[str, Any], engine: Engine) -> list[str] | None:
    """The oracle's plan if the engine, playing it, says that the game is won by the last command and not before."""
    engine.load(game)
    engine.reset()
    goal = Goal.read(engine.problem)
    plan = shortest_plan(engine.facts(), goal) if goal else None
    if not plan or engine.won:
        return None
    for command in plan:
        if engine.won or command not in engine.commands:
            return None
        engine.step(command)
    return plan if engine.won else None


def problem_text(home: Household, choice: Choice, name: str) -> str:
    """The PDDL problem of a household and a goal."""
    things, kinds = sorted(home.objects.items()), sorted(home.receptacles.items())
    thing_classes, kind_classes = sorted(set(home.objects.values())), sorted(set(home.receptacles.values()))
    points = sorted({*home.places.values(), home.start})
    able = constants.VAL_ACTION_OBJECTS
    lines = [f"(define (problem plan_{name})", "(:domain alfred)", "(:objects", "agent1 # agent"]
    lines += [f"{c}Type # otype" for c in thing_classes] + [f"{k}Type # rtype" for k in kind_classes]
    lines += [f"{o} # object" for o, _ in things] + [f"{r} # receptacle" for r, _ in kinds] + [f"{p} # location" for p in points]
    lines += [")", "(:init", f"(atLocation agent1 {home.start})"]
    lines += [f"(receptacleType {r} {k}Type)" for r, k in kinds] + [f"(objectType {o} {c}Type)" for o, c in things]
    lines += [f"(canContain {k}Type {c}Type)" for k in kind_classes for c in thing_classes if accepts(k, c)]
    lines += [f"(pickupable {o})" for o in sorted(home.loose())]
    lines += [f"(isReceptacleObject {o})" for o, c in things if c in constants.MOVABLE_RECEPTACLES_SET]
    lines += [f"(openable {r})" for r, k in kinds if k in constants.OPENABLE_CLASS_SET]
    lines += [f"({ability.lower()} {o})" for ability in _ABILITIES for o, c in things if c in able[ability]]
    lines += [f"(inReceptacle {o} {r})" for o, r in sorted(home.inside.items())]
    lines += [f"(objectAtLocation {o} {home.places[r]})" for o, r in sorted(home.inside.items())]
    lines += [f"(receptacleAtLocation {r} {p})" for r, p in sorted(home.places.items())]
    lines += [")", gdict[choice.task_type]["pddl"].format(**_words(choice))]
    text = "\n".join(lines)
    for sign, word in _MANGLED:
        text = text.replace(sign, word)
    return text.replace("#", "-")  # ALFWorld's goals write '#' for the '-' before a type, so that it survives the mangling


def _words(choice: Choice, lower: bool = False) -> dict[str, str]:
    words = {"obj": choice.thing, "recep": choice.receptacle, "toggle": choice.lamp, "mrecep": ""}
    return {key: word.lower() if lower else word for key, word in words.items()}


def _description(task: Task, choice: Choice, phrase: str) -> dict[str, Any]:
    """What ALFWorld's own loader and experts read beside a game."""
    return {
        "task_id": str(task),
        "task_type": task.task_type,
        "scene": {"floor_plan": f"FloorPlan{task.scene}", "scene_num": task.scene},
        "pddl_params": {
            "object_target": choice.thing,
            "parent_target": choice.receptacle,
            "toggle_target": choice.lamp,
            "mrecep_target": "",
            "object_sliced": False,
        },
        "turk_annotations": {"anns": [{"task_desc": phrase}]},
        "generator": MARK,
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"
