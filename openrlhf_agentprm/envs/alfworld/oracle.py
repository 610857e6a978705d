"""Shortest plans from full knowledge of an ALFWorld state, by breadth-first search.

The search runs over an abstraction: where the objects of the goal's class are, what is in hand, open, treated and lit. Only
receptacles that can matter are kept, one of each kind that a plan cannot tell apart. Every command counts one, as a turn does.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .engine import Fact

# What the goal wants done to the object: the command's verb, where it is done, and which objects allow it.
TREATMENTS = {
    "isclean": ("clean", "sinkbasintype", "cleanable"),
    "ishot": ("heat", "microwavetype", "heatable"),
    "iscool": ("cool", "fridgetype", "coolable"),
}


@dataclass(frozen=True)
class Goal:
    """What a game wants: `count` objects of a class, treated, in one receptacle of a class; or one in hand beside a lit lamp.

    Classes are written as in facts: `mugtype`.
    """

    thing: str
    receptacle: str = ""
    treatment: str = ""  # a key of TREATMENTS
    count: int = 1
    lamp: str = ""

    @staticmethod
    def read(problem: str) -> Goal | None:
        """The goal of a PDDL problem; None for one outside ALFWorld's six task types."""
        text = problem[problem.find("(:goal") :].lower()
        things = dict(re.findall(r"\(objecttype \?(\w+) (\w+)\)", text))
        receptacles = set(re.findall(r"\(receptacletype \?\w+ (\w+)\)", text))
        treatments = [name for name in TREATMENTS if f"({name} " in text]
        if any(word in text for word in ("forall", "inreceptacleobject", "issliced")) or len(treatments) > 1:
            return None
        if "(istoggled " in text:
            lit = re.findall(r"\(istoggled \?(\w+)\)", text)[0]
            held = re.findall(r"\(holds \?\w+ \?(\w+)\)", text)
            if len(things) != 2 or len(held) != 1 or receptacles:
                return None
            return Goal(things[held[0]], lamp=things[lit])
        if len(set(things.values())) != 1 or len(receptacles) != 1:
            return None
        return Goal(next(iter(things.values())), receptacles.pop(), "".join(treatments), count=len(things))


class _State(NamedTuple):
    place: str
    held: str | None
    opened: frozenset[str]
    where: tuple[frozenset[str], ...]  # for each object of the goal's class; the published games have objects in two receptacles
    treated: frozenset[str]
    lit: frozenset[str]


class _World:
    """What stays as it is during a plan, and the state that it starts from."""

    def __init__(self, facts: Sequence[Fact], goal: Goal) -> None:
        known: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for name, arguments in facts:
            known[name].append(arguments)
        self.goal = goal
        self.place_of: dict[str, str] = _pairs(known["receptacleatlocation"])
        self.kind_of: dict[str, str] = _pairs(known["receptacletype"])
        class_of: dict[str, str] = _pairs(known["objecttype"])
        self.fits = set(known["cancontain"])
        self.openable = {r for (r,) in known["openable"]}
        self.verb, self.station, able = TREATMENTS.get(goal.treatment, ("", "", "pickupable"))
        allowed = set(known["pickupable"]) & set(known[able])
        self.things = [o for o in sorted(class_of) if class_of[o] == goal.thing and (o,) in allowed]
        inside: dict[str, frozenset[str]] = defaultdict(frozenset)
        for o, r in known["inreceptacle"]:
            inside[o] |= {r} & self.place_of.keys()
        self.lamps = {o: {self.place_of[r] for r in inside[o]} for o in sorted(class_of) if class_of[o] == goal.lamp}
        self.targets = {r for r, kind in self.kind_of.items() if kind == goal.receptacle and (kind, goal.thing) in self.fits}
        held = known["holds"][0][1] if known["holds"] else None
        # What is in hand and of no use must be put down somewhere.
        burden = class_of.get(held, "") if held is not None and held not in self.things else ""
        self.dumps = {r for r, kind in self.kind_of.items() if (kind, burden) in self.fits}
        opened = frozenset(r for (r,) in known["opened"])
        place = known["atlocation"][0][1]
        self.useful = self._useful(place, opened, [inside[o] for o in self.things], [inside[o] for o in self.lamps])
        self.start = _State(
            place,
            held,
            opened & set(self.useful),
            tuple(inside[o] for o in self.things),
            frozenset(o for (o,) in known[goal.treatment] if o in self.things) if goal.treatment else frozenset(),
            frozenset(o for (o,) in known["istoggled"] if o in self.lamps),
        )

    def _useful(self, place: str, opened: frozenset[str], where: Sequence[frozenset[str]], stands: Sequence[frozenset[str]]) -> list[str]:
        """Receptacles that a shortest plan may need: fixed ones, and one of each kind of interchangeable targets and dumps."""
        stations = {r for r, kind in self.kind_of.items() if kind == self.station and r in self.place_of}
        chosen = stations.union(*where, *stands)
        places = {self.place_of[r] for r in chosen} | {place}
        for group in (self.targets, self.dumps):
            seen = set()
            for r in sorted(group & self.place_of.keys(), key=lambda r: (self.place_of[r] not in places, r)):
                near = self.place_of[r] if self.place_of[r] in places else None
                kind = (r in self.openable and r not in opened, near, sum(r in receptacles for receptacles in where))
                if kind not in seen:
                    seen.add(kind)
                    chosen.add(r)
        return sorted(chosen)

    def won(self, state: _State) -> bool:
        if self.goal.lamp:
            return state.held in self.things and any(state.place in self.lamps[lamp] for lamp in state.lit)
        filled = Counter(
            r
            for o, receptacles in zip(self.things, state.where, strict=True)
            for r in receptacles & self.targets
            if not self.goal.treatment or o in state.treated
        )
        return any(count >= self.goal.count for count in filled.values())

    def following(self, state: _State) -> Iterator[tuple[str, _State]]:
        """Commands that can be part of a shortest plan, each with the state after it."""
        for r in self.useful:
            if self.place_of[r] != state.place:
                yield f"go to {r}", state._replace(place=self.place_of[r])
                continue
            if r in self.openable and r not in state.opened:
                yield f"open {r}", state._replace(opened=state.opened | {r})
            else:
                yield from self._hands(r, state)
            if self.verb and self.kind_of[r] == self.station and state.held in self.things and state.held not in state.treated:
                yield f"{self.verb} {state.held} with {r}", state._replace(treated=state.treated | {state.held})
        for lamp, places in self.lamps.items():
            if state.place in places and lamp not in state.lit:
                yield f"use {lamp}", state._replace(lit=state.lit | {lamp})

    def _hands(self, r: str, state: _State) -> Iterator[tuple[str, _State]]:
        """Taking from and putting into a receptacle that can be reached into."""
        if state.held is None:
            for i, o in enumerate(self.things):
                if r in state.where[i]:
                    yield f"take {o} from {r}", state._replace(held=o, where=_with(state.where, i, state.where[i] - {r}))
        elif state.held in self.things:
            if r in self.targets:
                i = self.things.index(state.held)
                yield f"move {state.held} to {r}", state._replace(held=None, where=_with(state.where, i, state.where[i] | {r}))
        elif r in self.dumps:
            yield f"move {state.held} to {r}", state._replace(held=None)


def _pairs(arguments: Sequence[tuple[str, ...]]) -> dict[str, str]:
    return {first: second for (first, second) in arguments}  # noqa: C416  (dict() would not take tuples of any length)


def _with(where: tuple[frozenset[str], ...], i: int, receptacles: frozenset[str]) -> tuple[frozenset[str], ...]:
    return (*where[:i], receptacles, *where[i + 1 :])


def shortest_plan(facts: Sequence[Fact], goal: Goal, limit: int = 400_000) -> list[str] | None:
    """The fewest commands from a state to the goal.

    Args:
        facts: everything that holds, from `Engine.facts`.
        limit: states visited before the search gives up.

    Returns:
        The commands, in the spelling of today's ALFWorld; empty if the goal holds, None if there is no plan within the limit.
    """
    world = _World(facts, goal)
    if world.won(world.start):
        return []
    came: dict[_State, tuple[_State, str] | None] = {world.start: None}
    frontier = [world.start]
    while frontier and len(came) < limit:
        reached = []
        for state in frontier:
            for command, after in world.following(state):
                if after in came:
                    continue
                came[after] = (state, command)
                if world.won(after):
                    return _trace(came, after)
                reached.append(after)
        frontier = reached
    return None


def _trace(came: dict[_State, tuple[_State, str] | None], state: _State) -> list[str]:
    plan = []
    while (step := came[state]) is not None:
        state, command = step
        plan.append(command)
    return plan[::-1]
