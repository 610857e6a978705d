"""The action grammar: minigrid's own moves, and AgentGym's high-level ones as plans of such moves.

High level: `go to red ball 1`, `pickup blue key 1`, `toggle and go through green door 1`, `go through green door 1`, `drop`, `toggle`,
`turn left`, `turn right`, `move forward`, `check available actions`. Ours in addition: `drop next to red ball 1`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from .view import Cell, Sighting, View

LOW_LEVEL = {
    "turn left": "left",
    "turn right": "right",
    "move forward": "forward",
    "pickup": "pickup",
    "drop": "drop",
    "toggle": "toggle",
}
_HIGH_LEVEL_MOVES = ("turn left", "turn right", "move forward", "drop", "toggle")
_TARGETED = ("go to", "pickup", "go through", "toggle and go through", "drop next to")
_PATTERN = re.compile(
    rf"(?P<verb>{'|'.join(sorted(_TARGETED, key=len, reverse=True))}) (?P<color>\w+) (?:(?:open|closed|locked) )?(?P<type>\w+)(?: (?P<number>\d+))?$"
)
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclass(frozen=True)
class Done:
    """What became of an action; `terminated` and `success` are minigrid's word on the mission."""

    valid: bool
    why: str = ""
    terminated: bool = False
    success: bool = False


def normalise(text: str) -> str:
    """Lower case, single spaces, no final stop; `pick up` is `pickup`."""
    text = " ".join(text.lower().replace("pick up", "pickup").split())
    return text.strip(" .\"'")


def admissible(grid_env: Any, view: View, level: str) -> list[str]:
    """Actions that can be carried out now, as far as the agent can see or remember."""
    if level == "low":
        return [action for action in LOW_LEVEL if _plain_move(action, grid_env)[0] is not None]
    found = [a for a in _HIGH_LEVEL_MOVES if _moves(a, grid_env, view)[0] is not None]
    for s in view.known:
        found += [a for a in (f"{verb} {s.name}" for verb in _TARGETED) if _moves(a, grid_env, view)[0] is not None]
    return [*found, "check available actions"]


def carry_out(text: str, grid_env: Any, view: View, level: str, *, stop_at_end: bool) -> Done:
    """Plan and make the moves of an action; a move that changes nothing ends it as invalid.

    Args:
        stop_at_end: make no further move once minigrid holds the mission for ended.
    """
    if level == "low":
        if text not in LOW_LEVEL:
            return Done(False, f"the action is not one of: {', '.join(LOW_LEVEL)}")
        moves, why = _plain_move(text, grid_env)
    else:
        moves, why = _moves(text, grid_env, view)
    if moves is None:
        return Done(False, why)
    for move in moves:
        before = _state(grid_env)
        _, reward, terminated, _, _ = grid_env.step(getattr(grid_env.actions, move))
        if terminated and stop_at_end:
            return Done(True, terminated=True, success=reward > 0)
        if _state(grid_env) == before:
            return Done(False, f"{move} changed nothing")
    return Done(True)


def _moves(text: str, grid_env: Any, view: View) -> tuple[list[str] | None, str]:
    """The plan of a high-level action, or None and why it cannot be made."""
    if text in _HIGH_LEVEL_MOVES:
        return _plain_move(text, grid_env)
    match = _PATTERN.match(text)
    if not match:
        return None, "the action is not recognized"
    wanted = (match["color"], match["type"], int(match["number"] or 1))
    target = next((s for s in view.known if (s.thing.color, s.thing.type, s.number) == wanted), None)
    if target is None:
        return None, f"there is no {match['color']} {match['type']} {wanted[2]} in sight"
    return _targeted(match["verb"], target, grid_env, view)


def _plain_move(text: str, grid_env: Any) -> tuple[list[str] | None, str]:
    faced = grid_env.grid.get(*grid_env.front_pos)
    if text == "move forward" and faced is not None and not faced.can_overlap():
        return None, "something is in the way"
    if text == "drop" and (grid_env.carrying is None or faced is not None):
        return None, "nothing is carried" if grid_env.carrying is None else "there is no room in front"
    if text == "pickup" and (grid_env.carrying is not None or faced is None or not faced.can_pickup()):
        return None, "something is carried already" if grid_env.carrying is not None else "there is nothing to pick up in front"
    if text == "toggle" and (faced is None or faced.type not in ("door", "box")):
        return None, "there is nothing to toggle in front"
    return [LOW_LEVEL[text]], ""


def _targeted(verb: str, target: Sighting, grid_env: Any, view: View) -> tuple[list[str] | None, str]:
    thing, held = target.thing, grid_env.carrying
    is_door = thing.type == "door"
    if verb == "pickup" and (is_door or held is not None):
        return None, "a door cannot be carried" if is_door else "something is carried already"
    if "through" in verb and not is_door:
        return None, "only a door can be gone through"
    if verb == "go through":
        if not thing.is_open:
            return None, "the door is not open"
        return _or_no_path(_path(grid_env, view, target.cell, enter=True))
    if verb == "drop next to":
        return _drop_next_to(target, grid_env, view)
    if verb == "toggle and go through" and thing.is_open:
        return None, "the door is open already"
    if verb == "toggle and go through" and thing.is_locked and not (held and held.type == "key" and held.color == thing.color):
        return None, "the door is locked and its key is not carried"
    path = _path(grid_env, view, target.cell, enter=False)
    after = {"pickup": ["pickup"], "toggle and go through": ["toggle", "forward"]}.get(verb, [])
    return _or_no_path(path + after if path is not None else None)


def _drop_next_to(target: Sighting, grid_env: Any, view: View) -> tuple[list[str] | None, str]:
    if grid_env.carrying is None:
        return None, "nothing is carried"
    here = tuple(int(c) for c in grid_env.agent_pos)
    spots = [(target.cell[0] + dx, target.cell[1] + dy) for dx, dy in _STEPS]
    free = [spot for spot in spots if spot in view.covered and spot != here and grid_env.grid.get(*spot) is None]
    paths = [p for p in (_path(grid_env, view, spot, enter=False) for spot in free) if p is not None]
    return _or_no_path(min(paths, key=len) + ["drop"] if paths else None)


def _or_no_path(path: list[str] | None) -> tuple[list[str] | None, str]:
    return (path, "") if path is not None else (None, "there is no path")


def _path(grid_env: Any, view: View, goal: Cell, *, enter: bool) -> list[str] | None:
    """Fewest moves until the agent faces the goal (or stands in it); cells hidden inside the field of view count as free."""
    known_cells = view.visible.keys() | {s.cell for s in view.known}

    def free(cell: Cell) -> bool:
        if cell not in view.covered:
            return False
        thing = grid_env.grid.get(*cell) if cell in known_cells else None
        return thing is None or thing.can_overlap()

    start = (int(grid_env.agent_pos[0]), int(grid_env.agent_pos[1]), int(grid_env.agent_dir))
    came: dict[tuple[int, int, int], tuple[tuple[int, int, int], str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        x, y, facing = state
        ahead = (x + _STEPS[facing][0], y + _STEPS[facing][1])
        if ((x, y) if enter else ahead) == goal:
            return _trace(came, state)
        following = [((x, y, (facing - 1) % 4), "left"), ((x, y, (facing + 1) % 4), "right")]
        if free(ahead) and (enter or ahead != goal):
            following.insert(0, ((*ahead, facing), "forward"))
        for after, move in following:
            if after not in came:
                came[after] = (state, move)
                queue.append(after)
    return None


def _trace(came: dict[Any, Any], state: Any) -> list[str]:
    moves = []
    while came[state] is not None:
        state, move = came[state]
        moves.append(move)
    return moves[::-1]


def _state(grid_env: Any) -> tuple[Any, ...]:
    """Everything that a move can change, for telling whether it did."""
    faced = grid_env.grid.get(*grid_env.front_pos)
    door = (faced.is_open, faced.is_locked) if faced is not None and faced.type == "door" else None
    return (*map(int, grid_env.agent_pos), grid_env.agent_dir, id(grid_env.carrying), id(faced), door)
