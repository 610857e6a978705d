"""Is the mission fulfilled in this state? Asked when the agent declares that it is done."""

from __future__ import annotations

from typing import Any

from minigrid.envs.babyai.core import verifier


def can_be_declared(instruction: Any) -> bool:
    """True for a single instruction whose goal is a property of the state; sequences are not."""
    return isinstance(instruction, verifier.GoToInstr | verifier.PickupInstr | verifier.OpenInstr | verifier.PutNextInstr)


def fulfilled(grid_env: Any) -> bool:
    """The goal of a single instruction, on the present state."""
    goal = grid_env.instrs
    if isinstance(goal, verifier.GoToInstr):
        faced = grid_env.grid.get(*grid_env.front_pos)
        return any(faced is thing for thing in goal.desc.obj_set)
    if isinstance(goal, verifier.PickupInstr):
        return any(grid_env.carrying is thing for thing in goal.desc.obj_set)
    if isinstance(goal, verifier.OpenInstr):
        return any(door.is_open for door in goal.desc.obj_set)
    if isinstance(goal, verifier.PutNextInstr):
        lying = [thing for thing in goal.desc_move.obj_set if thing is not grid_env.carrying]
        fixed = [thing for thing in goal.desc_fixed.obj_set if thing is not grid_env.carrying]
        return any(a is not b and _adjacent(a.cur_pos, b.cur_pos) for a in lying for b in fixed)
    raise TypeError(f"{type(goal).__name__} cannot be checked on a state")


def _adjacent(a: Any, b: Any) -> bool:
    return abs(int(a[0]) - int(b[0])) + abs(int(a[1]) - int(b[1])) == 1
