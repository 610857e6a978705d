"""A demonstrator that searches ALFWorld's rooms as a policy must: it knows the goal and what it has seen, not where things are.

The oracle (oracle.py) goes straight to hidden objects: who learns from it learns to guess, and is not shown what to do after a wrong guess.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from .engine import Engine
from .oracle import TREATMENTS, Goal


class Searcher:
    """Chooses among the admissible commands.

    The first rule that applies: light the lamp that stands here, with the object in hand; put a finished object into its place; treat what is in
    hand; take what is asked for; put down anything else; open what it stands before, if it has not looked inside or wants to put something in; go
    where the object in hand is to be treated, put or lit; go to a receptacle where it has not looked, drawn at random. Having looked into all of
    them, it begins anew.

    Args:
        goal: of the running game.
        engine: with the game running. Of its facts only those are read that an agent knows of itself: what it holds and what it has treated.
        noise: probability of a random admissible command in a turn.
        seed: of the draws.
    """

    def __init__(self, goal: Goal, engine: Engine, *, noise: float, seed: int) -> None:
        self._thing, self._target, self._lamp = (name.removesuffix("type") for name in (goal.thing, goal.receptacle, goal.lamp))
        self._verb, station, _ = TREATMENTS.get(goal.treatment, ("", "", ""))
        self._treatment, self._station = goal.treatment, station.removesuffix("type")
        self._engine, self._noise, self._random = engine, noise, random.Random(seed)
        self._place = ""  # the receptacle that it stands before
        self._looked: set[str] = set()  # receptacles whose inside it has seen
        self._lamps: set[str] = set()  # receptacles where it has seen the lamp

    def next_action(self) -> str:
        commands = self._engine.commands
        if self._place and f"open {self._place}" not in commands:
            self._looked.add(self._place)
        if self._lamp and any(c.startswith(f"use {self._lamp} ") for c in commands):
            self._lamps.add(self._place)
        stray = self._random.random() < self._noise
        chosen = self._random.choice(commands) if stray else next(self._sensible(commands), "look")
        if chosen.startswith("go to "):
            self._place = chosen.removeprefix("go to ")
        return chosen

    def _sensible(self, commands: list[str]) -> Iterator[str]:
        """Commands that serve the goal, the most pressing first."""
        facts = self._engine.facts()
        held = next((arguments[1] for name, arguments in facts if name == "holds"), "")
        treated = {arguments[0] for name, arguments in facts if name == self._treatment}
        useful = _class(held) == self._thing
        wanted = (self._target if held in treated or not self._verb else self._station) if useful else ""
        if useful and self._lamp:
            yield from (c for c in commands if c.startswith(f"use {self._lamp} "))
        if useful and wanted == self._target:
            yield from (c for c in commands if c.startswith(f"move {held} to {wanted} "))
        elif useful:
            yield from (c for c in commands if c.startswith(f"{self._verb} {held} with "))
        if not held:
            yield from (c for c in commands if c.startswith(f"take {self._thing} ") and not self._is_done(c, treated))
        elif not useful:
            yield from (c for c in commands if c.startswith(f"move {held} to "))
        if self._place not in self._looked or (wanted and _class(self._place) == wanted):
            yield from (c for c in commands if c == f"open {self._place}")
        yield from self._ways(commands, wanted, useful)

    def _is_done(self, take: str, treated: set[str]) -> bool:
        """Whether this takes an object away from where it is to stay."""
        thing, _, receptacle = take.removeprefix("take ").partition(" from ")
        return _class(receptacle) == self._target and (not self._verb or thing in treated)

    def _ways(self, commands: list[str], wanted: str, useful: bool) -> Iterator[str]:
        """Where to go: where the object in hand is wanted or a lamp was seen, else where it has not looked."""
        goals = [c.removeprefix("go to ") for c in commands if c.startswith("go to ")]
        near = [r for r in goals if (wanted and _class(r) == wanted) or (useful and r in self._lamps)]
        if not near and self._looked.issuperset(goals):
            self._looked.clear()
        chosen = near or [r for r in goals if r not in self._looked]
        if chosen:
            yield f"go to {self._random.choice(chosen)}"


def _class(name: str) -> str:
    """`drawer` of `drawer 3`."""
    return name.rpartition(" ")[0]
