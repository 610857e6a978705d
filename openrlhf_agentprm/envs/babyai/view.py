"""What the agent sees, as numbered objects and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OBJECTS = ("ball", "box", "key", "door")
Cell = tuple[int, int]


@dataclass(frozen=True)
class Sighting:
    """One visible object. `front` and `right` are steps ahead and to the right of the agent (negative: to the left)."""

    thing: Any  # minigrid's WorldObj
    cell: Cell
    number: int  # among objects of the same colour and type: visible ones, nearest first; with a memory, in the order seen
    front: int
    right: int

    @property
    def name(self) -> str:
        return f"{self.thing.color} {self.thing.type} {self.number}"

    @property
    def state(self) -> str:
        """`open`, `closed` or `locked` for a door, else nothing."""
        if self.thing.type != "door":
            return ""
        return "open" if self.thing.is_open else "locked" if self.thing.is_locked else "closed"


@dataclass(frozen=True)
class View:
    """Visible objects by distance, visible cells, and the cells that the agent may plan over."""

    sightings: list[Sighting]
    visible: dict[Cell, Any]  # cell → WorldObj or None
    covered: frozenset[Cell]
    known: list[Sighting]  # objects that an action can name: the visible ones, and remembered ones behind them


class Memory:
    """What was seen in this episode: objects keep their number, and can be named and walked to when they are out of sight."""

    def __init__(self) -> None:
        # Pairs, not a dict keyed by id(): a copied memory (snapshots) holds copied objects, which have other ids.
        self._numbered: list[tuple[Any, int]] = []
        self._counts: dict[tuple[str, str], int] = {}
        self.cells: set[Cell] = set()

    def number(self, thing: Any) -> int:
        known = next((n for other, n in self._numbered if other is thing), None)
        if known is not None:
            return known
        key = (thing.color, thing.type)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._numbered.append((thing, self._counts[key]))
        return self._counts[key]

    def others(self, visible: list[Sighting], carried: Any) -> list[Sighting]:
        """Remembered objects that are neither in sight nor carried, in the order in which they were first seen."""
        shown = {id(s.thing) for s in visible} | {id(carried)}
        rest = [(thing, n) for thing, n in self._numbered if id(thing) not in shown]
        return [Sighting(thing, (int(thing.cur_pos[0]), int(thing.cur_pos[1])), n, 0, 0) for thing, n in rest]


def look(grid_env: Any, memory: Memory | None = None) -> View:
    """Read the agent's field of view from minigrid's own state, and note it in the memory if there is one."""
    seen_grid, mask = grid_env.gen_obs_grid()
    size = grid_env.agent_view_size
    ax, ay = (int(c) for c in grid_env.agent_pos)
    (fx, fy), (rx, ry) = (tuple(map(int, v)) for v in (grid_env.dir_vec, grid_env.right_vec))
    visible: dict[Cell, Any] = {}
    covered = set()
    found = []
    for column in range(size):
        for row in range(size):
            front, right = size - 1 - row, column - size // 2
            cell = (ax + fx * front + rx * right, ay + fy * front + ry * right)
            if not (0 <= cell[0] < grid_env.width and 0 <= cell[1] < grid_env.height):
                continue
            covered.add(cell)
            if not mask[column, row]:
                continue
            thing = None if (front, right) == (0, 0) else grid_env.grid.get(*cell)
            visible[cell] = thing
            if thing is not None and thing.type in OBJECTS:
                found.append((abs(front) + abs(right), row, column, thing, cell, front, right))
    found.sort(key=lambda f: f[:3])
    numbers = memory or Memory()
    sightings = [Sighting(thing, cell, numbers.number(thing), front, right) for *_, thing, cell, front, right in found]
    if memory is None:
        return View(sightings, visible, frozenset(covered), sightings)
    memory.cells |= covered
    return View(sightings, visible, frozenset(memory.cells), sightings + memory.others(sightings, grid_env.carrying))


def describe_compact(view: View, grid_env: Any) -> str:
    """A short line for small models: names, door states, what is faced and carried; no distances."""
    names = [" ".join(filter(None, (s.state, s.name))) for s in view.sightings]
    parts = ["see " + (", ".join(names) if names else "nothing")]
    faced = grid_env.grid.get(*grid_env.front_pos)
    if faced is not None:
        parts.append("facing wall" if faced.type == "wall" else f"facing {faced.color} {faced.type}")
    if grid_env.carrying:
        parts.append(f"carrying {grid_env.carrying.color} {grid_env.carrying.type}")
    return ". ".join(parts)


def describe_full(view: View, grid_env: Any) -> str:
    """Full sentences with distances, after the manner of AgentGym's text layer."""
    if view.sightings:
        text = "In front of you in this room, you can see several objects: "
        text += " ".join(f"There is a {_full_name(s)} {_place(s)}" for s in view.sightings)
    else:
        text = "You cannot see any objects within sight."
    text += " The room has walls around you."
    barrier = _barrier_ahead(view, grid_env)
    if barrier:
        text += f" You are facing a {barrier[0]} {barrier[1]} steps away."
    held = grid_env.carrying
    return text + (f" You are carrying a {held.color} {held.type}." if held else " You are not carrying anything.")


def _full_name(s: Sighting) -> str:
    return " ".join(filter(None, (s.thing.color, s.state, s.thing.type, str(s.number))))


def _place(s: Sighting) -> str:
    if s.right == 0:
        return f"right in front of you {s.front} steps away."
    side = "right" if s.right > 0 else "left"
    return f"{s.front} steps in front of you and {abs(s.right)} steps to your {side}."


def _barrier_ahead(view: View, grid_env: Any) -> tuple[str, int] | None:
    """The nearest wall or box straight ahead, with its distance."""
    x, y = (int(c) for c in grid_env.agent_pos)
    dx, dy = (int(c) for c in grid_env.dir_vec)
    for distance in range(1, grid_env.agent_view_size):
        cell = (x + dx * distance, y + dy * distance)
        if cell not in view.visible:
            return None
        thing = view.visible[cell]
        if thing is not None and thing.type in ("wall", "box"):
            return thing.type, distance
    return None
