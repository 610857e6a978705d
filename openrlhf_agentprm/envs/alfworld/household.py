"""Households sampled for ALFWorld's engine, and what may be asked for in them.

The floor plans (receptacles, standing points, classes of objects) and what goes where are ALFWorld's own, read from the installed
package. Only the number and the places of the objects are drawn here.
"""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import alfworld
from alfworld.gen import constants

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
# ALFRED's scenes for validation in unseen rooms; the scenes of its hidden test set are used for nothing.
UNSEEN_SCENES = (10, 219, 308, 424)
_HIDDEN_TEST_SCENES = (9, 29, 215, 226, 315, 325, 404, 425)
SEEN_SCENES = tuple(
    n for scenes in constants.SCENE_TYPE.values() for n in scenes if n not in UNSEEN_SCENES and n not in _HIDDEN_TEST_SCENES
)

# Receptacles that the floor plans name without a standing point; they get one at random. Class to number of copies.
_UNPLACED = {
    "StoveBurner": 4,
    "CoffeeMachine": 1,
    "Toaster": 1,
    "GarbageCan": 1,
    "Toilet": 1,
    "ToiletPaperHanger": 1,
    "TowelHolder": 1,
    "HandTowelHolder": 1,
    "LaundryHamper": 1,
    "SinkBasin": 1,
    "BathtubBasin": 1,
}
# Things that stay where they are, and what they stand on.
_FIXTURES = {
    "DeskLamp": {"Desk", "SideTable", "Dresser", "Shelf", "DiningTable", "CoffeeTable"},
    "Television": {"TVStand", "Dresser", "SideTable"},
    "HousePlant": {"SideTable", "DiningTable", "CounterTop", "Shelf", "Dresser"},
}
_ROOM_IN_RECEPTACLE = 8
_GRID = 0.25  # metres between standing points
# Where a task type treats the object, and which classes can be treated there.
_STATIONS = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "Cleanable"),
    "pick_heat_then_place_in_recep": ("Microwave", "Heatable"),
    "pick_cool_then_place_in_recep": ("Fridge", "Coolable"),
}


@dataclass(frozen=True)
class Choice:
    """What a task asks for, by class; without a receptacle it is looked at under a lamp."""

    task_type: str
    thing: str
    receptacle: str = ""
    lamp: str = ""


@dataclass
class Household:
    """Receptacles at standing points, objects in receptacles. Names end in coordinates, as ALFRED's do."""

    scene: int
    receptacles: dict[str, str] = field(default_factory=dict)  # name → class
    places: dict[str, str] = field(default_factory=dict)  # receptacle → standing point
    objects: dict[str, str] = field(default_factory=dict)  # name → class
    inside: dict[str, str] = field(default_factory=dict)  # object → receptacle
    start: str = ""

    def loose(self) -> list[str]:
        """Objects that can be picked up."""
        return [o for o, name in self.objects.items() if name not in _FIXTURES]


def room_of(scene: int) -> str | None:
    """`Kitchen`, `LivingRoom`, `Bedroom` or `Bathroom`; None for a number that is no scene."""
    return next((room for room, scenes in constants.SCENE_TYPE.items() if scene in scenes), None)


def accepts(receptacle: str, thing: str) -> bool:
    """Whether a class of receptacle takes a class of object."""
    return thing in constants.VAL_RECEPTACLE_OBJECTS.get(receptacle, ())


def sample_household(scene: int, rng: random.Random) -> Household:
    """Draw a household in a scene; the same state of `rng` gives the same household in any process."""
    classes, points = _floor_plan(scene)
    fixed = set(constants.RECEPTACLES) - constants.MOVABLE_RECEPTACLES_SET
    home = Household(scene)
    for name, (x, z, rotation, horizon) in points:
        kind = name.rsplit("|", 1)[-1] if name.endswith("Basin") else name.split("|", 1)[0]
        if kind in fixed:
            home.receptacles[name], home.places[name] = kind, _point(x, z, rotation, horizon)
    missing = [kind for kind in classes if kind in _UNPLACED and kind not in home.receptacles.values()]
    _place_receptacles(home, missing, [point for _, point in points], rng)
    step = 0
    while home.start in ("", *home.places.values()):
        home.start = f"loc|{step}|{-step}|{step % 4}|30"
        step += 1
    for name in classes:
        if name not in fixed and not name.endswith("Sliced"):
            _place_objects(home, name, rng)
    return home


@functools.lru_cache(None)
def _floor_plan(scene: int) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Classes present in a scene, and its receptacles with standing points; sorted."""
    folder = Path(alfworld.__file__).parent / "gen" / "layouts"
    classes = json.loads((folder / f"FloorPlan{scene}-objects.json").read_text(encoding="utf-8"))
    points = json.loads((folder / f"FloorPlan{scene}-openable.json").read_text(encoding="utf-8"))
    return sorted(set(classes)), sorted(points.items())


def _point(x: float, z: float, rotation: float, horizon: float) -> str:
    return f"loc|{round(x / _GRID)}|{round(z / _GRID)}|{int(rotation) // 90 % 4}|{int(horizon)}"


def _place_receptacles(home: Household, kinds: list[str], points: list[list[float]], rng: random.Random) -> None:
    xs, zs = [p[0] for p in points] or [0.0], [p[1] for p in points] or [0.0]
    for kind in kinds:
        for _ in range(_UNPLACED[kind]):
            x, z = (round(rng.uniform(min(v), max(v)) / _GRID) * _GRID for v in (xs, zs))
            stem = kind.removesuffix("Basin")
            name = f"{stem}|{_metres(x + 0.3)}|{_metres(rng.choice((0.0, 0.5, 0.9)))}|{_metres(z - rng.random() * 0.2)}"
            name += f"|{kind}" if stem != kind else ""
            home.receptacles[name], home.places[name] = kind, _point(x, z, rng.choice((0, 90, 180, 270)), 30)


def _place_objects(home: Household, name: str, rng: random.Random) -> None:
    """Put one to three copies of a class (one of a fixture) where they may be, rather into emptier receptacles."""
    if name in _FIXTURES:
        spots, copies = [r for r, kind in home.receptacles.items() if kind in _FIXTURES[name]], 1
    else:
        spots, copies = [r for r, kind in home.receptacles.items() if accepts(kind, name)], rng.choice((1, 1, 2, 2, 3))
    for _ in range(copies):
        load = Counter(home.inside.values())
        free = [r for r in spots if load[r] < _ROOM_IN_RECEPTACLE]
        if not free:
            return
        r = rng.choices(free, [1 / (1 + load[r]) for r in free])[0]
        o = f"{name}|{_metres(rng.uniform(-4, 4))}|{_metres(rng.uniform(0.1, 1.9))}|{_metres(rng.uniform(-4, 4))}"
        home.objects[o], home.inside[o] = name, r


def _metres(value: float) -> str:
    return f"{value:+06.2f}"


def choices(home: Household, task_type: str) -> list[Choice]:
    """Everything that a task of this type can ask for in a household and that does not hold already."""
    if room_of(home.scene) not in constants.GOALS_VALID[task_type]:
        return []
    loose = Counter(home.objects[o] for o in home.loose())
    if task_type == "look_at_obj_in_light":
        return [Choice(task_type, name, lamp="DeskLamp") for name in sorted(loose)] if "DeskLamp" in home.objects.values() else []
    station, able = _STATIONS.get(task_type, ("", ""))
    if station and station not in home.receptacles.values():
        return []
    together = Counter((r, home.objects[o]) for o, r in home.inside.items())
    needed = 2 if task_type == "pick_two_obj_and_place" else 1
    found = []
    for name in sorted(loose):
        if loose[name] < needed or (station and name not in constants.VAL_ACTION_OBJECTS[able]):
            continue
        for kind in sorted(set(home.receptacles.values()) - {station}):
            most = max(together[r, name] for r, k in home.receptacles.items() if k == kind)
            if accepts(kind, name) and (station or most < needed):
                found.append(Choice(task_type, name, kind))
    return found
