"""A demonstrator that searches ALFWorld's rooms as a policy must: it knows the goal and what it has seen, not where things are.

The oracle (oracle.py) goes straight to hidden objects: who learns from it learns to guess, and is not shown what to do after a wrong guess.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from .engine import Engine, Fact
from .oracle import TREATMENTS, Goal


class Searcher:
    """Chooses among the admissible commands.

    The first rule that applies: light the lamp that stands here, with the object in hand; put a finished object into its place; treat what is in
    hand; take what is asked for; put down anything else; open what it stands before, if it has not looked inside or wants to put something in; go
    where the object in hand is to be treated, put or lit; go where it has seen what is asked for; go to a receptacle where it has not looked,
    drawn at random. Having looked into all of them, it begins anew. Several objects go to one receptacle: the first of its class where one stands.

    Args:
        goal: of the running game.
        engine: with the game running. Of its facts only those are read that an agent knows: what it holds, what it has treated, and what is in the
            receptacle that it looks into.
        noise: probability of a random admissible command in a turn.
        seed: of the draws.
    """

    def __init__(self, goal: Goal, engine: Engine, *, noise: float, seed: int) -> None:
        self._thing, self._target, self._lamp = (name.removesuffix("type") for name in (goal.thing, goal.receptacle, goal.lamp))
        self._verb, station, _ = TREATMENTS.get(goal.treatment, ("", "", ""))
        self._treatment, self._station = goal.treatment, station.removesuffix("type")
        self._several = goal.count > 1
        self._engine, self._noise, self._random = engine, noise, random.Random(seed)
        self._place = ""  # the receptacle that it stands before
        self._home = ""  # where several objects are gathered, once that is settled
        self._seen: dict[str, set[str]] = {}  # what is asked for, by the receptacles that it has looked into
        self._lamps: set[str] = set()  # receptacles where it has seen the lamp

    def next_action(self) -> str:
        commands = self._engine.commands
        facts = self._engine.facts()
        held = next((arguments[1] for name, arguments in facts if name == "holds"), "")
        treated = {arguments[0] for name, arguments in facts if name == self._treatment}
        self._look(commands, facts, treated)
        stray = self._random.random() < self._noise
        chosen = self._random.choice(commands) if stray else next(self._sensible(commands, held, treated), "look")
        if chosen.startswith("go to "):
            self._place = chosen.removeprefix("go to ")
        return chosen

    def _look(self, commands: list[str], facts: Sequence[Fact], treated: set[str]) -> None:
        """Remember what the receptacle before it shows; closed, it shows nothing."""
        if not self._place or f"open {self._place}" in commands:
            return
        here = {arguments[0] for name, arguments in facts if name == "inreceptacle" and arguments[1] == self._place}
        self._seen[self._place] = {thing for thing in here if _class(thing) == self._thing}
        if self._lamp and any(c.startswith(f"use {self._lamp} ") for c in commands):
            self._lamps.add(self._place)
        finished = self._seen[self._place] & treated if self._verb else self._seen[self._place]
        if self._several and not self._home and _class(self._place) == self._target and finished:
            self._home = self._place

    def _sensible(self, commands: list[str], held: str, treated: set[str]) -> Iterator[str]:
        """Commands that serve the goal, the most pressing first."""
        useful = _class(held) == self._thing
        treat = useful and bool(self._verb) and held not in treated
        wanted = self._station if treat else (self._home or self._target) if useful else ""
        if useful and self._lamp:
            yield from (c for c in commands if c.startswith(f"use {self._lamp} "))
        if treat:
            yield from (c for c in commands if c.startswith(f"{self._verb} {held} with "))
        elif useful:
            yield from (c for c in commands if c.startswith(f"move {held} to ") and _is(c.partition(" to ")[2], wanted))
        if not held:
            yield from (c for c in commands if c.startswith(f"take {self._thing} ") and self._is_wanted(*_taken(c), treated))
        elif not useful:
            yield from (c for c in commands if c.startswith(f"move {held} to "))
        if self._place not in self._seen or (wanted and _is(self._place, wanted)):
            yield from (c for c in commands if c == f"open {self._place}")
        yield from self._ways(commands, held, wanted, treated)

    def _is_wanted(self, thing: str, receptacle: str, treated: set[str]) -> bool:
        """Whether an object is not yet where it is to stay."""
        stays = _is(receptacle, (self._home or self._target) if self._several else self._target)
        return not stays or (bool(self._verb) and thing not in treated)

    def _ways(self, commands: list[str], held: str, wanted: str, treated: set[str]) -> Iterator[str]:
        """Where to go: where the object in hand is wanted or a lamp was seen, where it has seen what it asks for, else where it has not looked."""
        goals = [c.removeprefix("go to ") for c in commands if c.startswith("go to ")]
        if held:
            near = [r for r in goals if (wanted and _is(r, wanted)) or r in self._lamps]
        else:
            near = [r for r in goals if any(self._is_wanted(thing, r, treated) for thing in self._seen.get(r, ()))]
        if not near and self._seen.keys() >= set(goals):
            self._seen.clear()
        chosen = near or [r for r in goals if r not in self._seen]
        if chosen:
            yield f"go to {self._random.choice(chosen)}"


def _class(name: str) -> str:
    """`drawer` of `drawer 3`."""
    return name.rpartition(" ")[0]


def _is(receptacle: str, wanted: str) -> bool:
    """Whether it is the receptacle that is wanted, or one of the class that is."""
    return wanted in (receptacle, _class(receptacle))


def _taken(command: str) -> tuple[str, str]:
    """Object and receptacle of `take … from …`."""
    thing, _, receptacle = command.removeprefix("take ").partition(" from ")
    return thing, receptacle
