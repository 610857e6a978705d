"""AgentGym's own manner of playing BabyAI, to the letter: its server's texts, action names, plans and rewards.

An action is a plan of minigrid's moves, made from what is in sight: walls, boxes, balls and keys are in the way; doors, even closed ones, and
hidden cells are not. Its moves are made until one changes nothing in sight; success in the middle ends no plan, and the last move's reward
is the action's. So `toggle and go through`, whose last move is a step, never fulfils a mission to open a door; `toggle` does.

The texts are those of AgentGym's server (arXiv 2406.04151; MIT), commit 3ef9235.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from .agentgym_routes import AHEAD, FORWARD, LEFT, RIGHT, Cell, Routes

_PICKUP, _DROP, _TOGGLE = 3, 4, 5  # minigrid's numbers of moves
LEVEL_IDS = {"GoToObjS6": "GoToObjS4"}  # minigrid 2.3.1, which the server takes, gives its room the size of four
COMPLETED = "The task is completed."
_TYPES = {2: "wall", 4: "door", 5: "key", 6: "ball", 7: "box"}  # minigrid's numbers
_COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
_DOORS = ("open", "closed", "locked")
_SOLID = ("wall", "box", "ball", "key")
_PORTABLE = ("key", "ball", "box")
Plans = dict[str, list[int]]


@dataclass(frozen=True)
class _Thing:
    """What is in sight in a cell; `front` and `right` are steps ahead and to the right."""

    kind: str
    name: str
    cell: Cell
    front: int
    right: int


@dataclass(frozen=True)
class Told:
    """What the server answers; `rewarded` by the last move, and `listed` is whether the action was."""

    text: str
    rewarded: bool
    listed: bool


class Server:
    """A level as AgentGym's server plays it.

    Args:
        grid_env: minigrid's environment, reset.
        image: of the view, as the reset gave it.
    """

    def __init__(self, grid_env: Any, image: Any) -> None:
        self.grid_env = grid_env
        self.goal = str(grid_env.mission).replace("then", "and").replace("after you", "and")
        self._image: Any = None
        self._description = ""
        self.plans: Plans = {}
        self._refusals: dict[str, str] = {}
        self._look(image)

    def first(self) -> str:
        """The first observation, without the goal."""
        return self._with_actions(self._description)

    def step(self, action: str) -> Told:
        """Carry out an action; what is none is answered with a message."""
        action = action.lower().strip()
        listed = action in self.plans
        if "check" in action:
            return Told(self._with_actions(f"You can take the following actions: {', '.join(self.plans)}"), False, listed)
        if not self.plans.get(action):
            unknown = "The action is not recognized. Please check valid actions."
            text = "No change in state." if listed or not action else self._refusals.get(action, unknown)
            return Told(self._with_actions(text), False, listed)
        for move in self.plans[action]:
            observed, reward, completed, _, _ = self.grid_env.step(move)
            if (observed["image"] == self._image).all():
                break
            self._image = observed["image"]
        self._look(observed["image"])
        text = self._description + (f"\n {COMPLETED}" if completed else "")
        return Told(self._with_actions(text), bool(reward > 0), True)

    def facing_pickup(self) -> str:
        """The action that picks up what is faced; none: empty."""
        return next((name for name, plan in self.plans.items() if plan == [_PICKUP]), "")

    def _with_actions(self, text: str) -> str:
        return f"{text}\nAvailable actions: [" + ", ".join(f'"{name}"' for name in self.plans) + "]"

    def _look(self, image: Any) -> None:
        self._image = image
        self._things = _in_sight(self.grid_env, image)
        ahead = sorted((t.front, t.kind) for t in self._things if t.right == 0 and t.kind in ("box", "wall"))
        self._barrier = ahead[0] if ahead else None
        self._description = self._describe()
        self.plans = {"turn left": [LEFT], "turn right": [RIGHT]}
        self._refusals = {}
        if self._barrier is None or self._barrier[0] > 1:
            self.plans["move forward"] = [FORWARD]
        else:
            self._refusals["move forward"] = "There is a barrier in front of you, you can't move forward."
        route = Routes(self.grid_env, {t.cell for t in self._things if t.kind in _SOLID})
        if self.grid_env.carrying is None:
            self._offer("pickup", _PORTABLE, route, [_PICKUP])
        self._offer_drop()
        self._offer_doors(route)
        self._offer("go to", (*_PORTABLE, "door"), route, [])
        self.plans["check available actions"] = []

    def _describe(self) -> str:
        text = "You cannot see any objects within sight."
        if self._things:
            text, seen = "In front of you in this room, you can see several objects: ", Counter[str]()
            for t in self._things:
                if t.kind != "wall":
                    seen[t.name] += 1
                    text += f"There is a {t.name} {seen[t.name]} {_place(t)}  "
        text += "The room has walls around you. "
        if self._barrier:
            text += f"You are facing a {self._barrier[1]} {self._barrier[0]} steps away. "
        held = self.grid_env.carrying
        return text + (f"You are carrying a {held.color} {held.type}." if held else "You are not carrying anything.")

    def _offer(self, verb: str, kinds: tuple[str, ...], route: Routes, after: list[int]) -> None:
        """An action for each thing that a way leads to, numbered among those; without a way a refusal by the number that it would have."""
        reached = Counter[str]()
        for t in self._things:
            if t.kind not in kinds:
                continue
            path, action = route.to(t.cell), f"{verb} {t.name} {reached[t.name] + 1}"
            if path is None:
                self._refusals[action] = f"You cannot {action}, as there is no path leading to it."
            else:
                reached[t.name] += 1
                self.plans[action] = path + after

    def _offer_drop(self) -> None:
        why = "you are not carrying anything"
        if self.grid_env.carrying is not None:
            why = "there is already an object in front of you"
            if not any((t.front, t.right) == (1, 0) and t.kind in _SOLID for t in self._things):
                self.plans["drop"] = [_DROP]
                return
        self._refusals["drop"] = f"You cannot drop the object, as {why}."

    def _offer_doors(self, route: Routes) -> None:
        seen = dict[str, int]()
        held = self.grid_env.carrying
        for t in self._things:
            if t.kind != "door":
                continue
            seen[t.name] = seen.get(t.name, 0) + 1
            name = f"{t.name} {seen[t.name]}"
            color, state, _ = t.name.split()
            through, toggle = f"go through {name}", f"toggle and go through {name}"
            if state == "open":
                path = route.to(t.cell, enter=True)
                if path is None:
                    self._refusals[through] = f"You cannot {through}, as there is no path leading to it."
                else:
                    self.plans[through] = path
                continue
            if state == "locked" and (held is None or held.type != "key" or held.color != color):
                why = "the color of the key you are carrying does not match the color of door"
                why = why if held is not None and held.type == "key" else "you are not carrying a key"
                self._refusals[toggle] = f"You cannot {toggle}, as {why}."
                continue
            path = route.to(t.cell)
            if path is None:  # the server writes all its counts in place of the number
                self._refusals[toggle] = f"You cannot toggle and go through {t.name} {seen}, as there is no path leading to it."
            else:
                self.plans[toggle] = [*path, _TOGGLE, FORWARD]
            if path == []:
                self.plans["toggle"] = [_TOGGLE]
            if state == "closed":
                self._refusals[through] = f"You cannot {through}, as it is closed. You should toggle it first."


def _in_sight(grid_env: Any, image: Any) -> list[_Thing]:
    """Things and walls by distance; of equals the farther row, then the one to the left, first."""
    size, facing = grid_env.agent_view_size, int(grid_env.agent_dir)
    (fx, fy), (rx, ry) = AHEAD[facing], AHEAD[(facing + 1) % 4]
    ax, ay = (int(c) for c in grid_env.agent_pos)
    found = []
    for row in range(size):
        for column in range(size):
            front, right = size - 1 - row, column - size // 2
            cell = (ax + fx * front + rx * right, ay + fy * front + ry * right)
            number, color, state = (int(n) for n in image[column, row])
            kind = _TYPES.get(number)
            if kind is None or min(cell) < 0 or (front, right) == (0, 0):
                continue
            name = f"{_COLORS[color]} {_DOORS[state]} door" if kind == "door" else f"{_COLORS[color]} {kind}"
            found.append(_Thing(kind, name, cell, front, right))
    return sorted(found, key=lambda t: t.front + abs(t.right))


def _place(t: _Thing) -> str:
    if t.right == 0:
        return f"right in front of you {t.front} steps away."
    return f"{t.front} steps in front of you and {abs(t.right)} steps to your {'right' if t.right > 0 else 'left'}."
