"""Who can play: a scripted expert for single missions, minigrid's bot for the rest, and a demonstrator that errs on purpose."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from typing import Any

from minigrid.envs.babyai.core import verifier

from .actions import LOW_LEVEL
from .goals import fulfilled
from .view import Sighting, View

_MOVE_NAMES = {move: name for name, move in LOW_LEVEL.items()}


class ScriptedExpert:
    """High-level expert for a single mission inside one room; explores by turning and walking until it knows what it needs."""

    def __init__(self, grid_env: Any) -> None:
        self.grid_env = grid_env
        self._explored = 0

    def action(self, view: View) -> str:
        """The next action, or an empty text when the mission is fulfilled."""
        env, goal = self.grid_env, self.grid_env.instrs
        if fulfilled(env):
            return ""
        sightings = view.known
        if isinstance(goal, verifier.GoToInstr):
            return self._towards("go to", goal.desc.obj_set, sightings)
        if isinstance(goal, verifier.PickupInstr):
            return self._fetch(goal.desc.obj_set, sightings)
        if isinstance(goal, verifier.OpenInstr):
            return self._open(goal.desc.obj_set, sightings)
        if any(env.carrying is thing for thing in goal.desc_move.obj_set):
            return self._towards("drop next to", goal.desc_fixed.obj_set, sightings)
        return self._fetch(goal.desc_move.obj_set, sightings)

    def _towards(self, verb: str, wanted: list[Any], sightings: list[Sighting]) -> str:
        target = _first(wanted, sightings)
        return f"{verb} {target.name}" if target else self._explore()

    def _fetch(self, wanted: list[Any], sightings: list[Sighting]) -> str:
        if self.grid_env.carrying is not None:
            return "drop" if self.grid_env.grid.get(*self.grid_env.front_pos) is None else "turn left"
        return self._towards("pickup", wanted, sightings)

    def _open(self, wanted: list[Any], sightings: list[Sighting]) -> str:
        target, held = _first(wanted, sightings), self.grid_env.carrying
        door = wanted[0]
        if not door.is_locked or (held and held.type == "key" and held.color == door.color):
            return f"toggle and go through {target.name}" if target else self._explore()
        keys = [s.thing for s in sightings if s.thing.type == "key" and s.thing.color == door.color]
        return self._fetch(keys, sightings) if keys or held is not None else self._explore()

    def _explore(self) -> str:
        self._explored += 1
        ahead = self.grid_env.grid.get(*self.grid_env.front_pos)
        return "move forward" if self._explored % 4 == 0 and ahead is None else "turn left"


class BotExpert:
    """minigrid's bot, low level. It must be told every move, so it plays along in a twin of the environment."""

    def __init__(self, twin: Any) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        self._twin = twin
        self._bot = BabyAIBot(twin)
        self._last: Any = None
        self._advice: Any = None

    def observe(self, move: Any) -> None:
        """The agent made this move."""
        self._advise()
        with contextlib.redirect_stdout(io.StringIO()):
            self._twin.step(move)
        self._last, self._advice = move, None

    def action(self) -> str:
        name = self._twin.actions(self._advise()).name
        return _MOVE_NAMES.get(name, "turn left")

    def _advise(self) -> Any:
        """The bot's advice for this state; it wants to be asked once a state and told what was done in the one before."""
        if self._advice is None:
            self._advice = self._bot.replan(self._last)
        return self._advice


def short_sighted(env: Any, *, noise: float, seed: int, stop_early: float = 0.5) -> Callable[[], str]:
    """A demonstrator with a systematic error, for data in which some episodes fail and length does not tell which.

    With probability `noise` it does the verb that the task needs to the nearest visible object that can take it, right or wrong; after such
    an act on a wrong object it declares itself done with probability `stop_early`.
    """
    rng = random.Random(seed)
    strayed = False

    def next_action() -> str:
        nonlocal strayed
        good = env.expert_action()
        if strayed and rng.random() < stop_early:
            strayed = False
            return "done"
        strayed = False
        if rng.random() < noise:
            near = _nearest_act(env.grid_env, env.view, good)
            strayed = near is not None and near != good
            return near or good
        return good

    return next_action


def _nearest_act(grid_env: Any, view: View, good: str) -> str | None:
    """The task's verb on the nearest object that can take it; None when nothing is in sight or the expert is done."""
    if good == "done":
        return None
    verb = next((v for v in ("go to", "pickup", "toggle and go through", "drop next to") if good.startswith(v)), None)
    goal, held = grid_env.instrs, grid_env.carrying
    if verb is None:
        defaults: dict[type, str] = {verifier.GoToInstr: "go to", verifier.OpenInstr: "toggle and go through"}
        verb = defaults.get(type(goal), "drop next to" if held and isinstance(goal, verifier.PutNextInstr) else "pickup")
    fits = [s for s in view.sightings if verb == "go to" or (s.thing.type == "door") == ("through" in verb)]
    return f"{verb} {fits[0].name}" if fits else None


def _first(wanted: list[Any], sightings: list[Sighting]) -> Sighting | None:
    return next((s for s in sightings if any(s.thing is thing for thing in wanted)), None)
