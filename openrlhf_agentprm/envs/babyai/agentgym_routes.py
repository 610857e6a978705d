"""Ways through what is in sight, as AgentGym's BabyAI server finds them."""

from __future__ import annotations

from typing import Any

LEFT, RIGHT, FORWARD = 0, 1, 2  # minigrid's numbers of moves
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))
Cell = tuple[int, int]
State = tuple[int, int, int]  # cell and direction


class Routes:
    """Shortest ways from where the agent stands. Of several to one state the one that is found last is taken.

    They stay within the field of view, and on the sides towards smaller coordinates that the server measures from, one row or column more.

    Args:
        grid_env: minigrid's environment.
        solid: cells that are in the way.
    """

    def __init__(self, grid_env: Any, solid: set[Cell]) -> None:
        facing, size = int(grid_env.agent_dir), grid_env.agent_view_size
        x, y = (int(c) for c in grid_env.agent_pos)
        (fx, fy), (rx, ry) = AHEAD[facing], AHEAD[(facing + 1) % 4]
        self._start = (x, y, facing)
        self._xs = _span(x + fx * (size - 1) - rx * (size // 2), rx - fx, size)
        self._ys = _span(y + fy * (size - 1) - ry * (size // 2), ry - fy, size)
        self._solid = solid

    def to(self, goal: Cell, enter: bool = False) -> list[int] | None:
        """Moves until the goal is faced (or entered); None: there is no way."""
        came: dict[State, tuple[State, int]] = {}
        done: set[State] = set()
        # The server puts a state in its queue once for each way to it: what is met first ends the search, what is put last is its way.
        first, last = [self._start], [self._start]
        while first:
            for state in first:
                x, y, facing = state
                ahead = (x + AHEAD[facing][0], y + AHEAD[facing][1])
                if ((x, y) if enter else ahead) == goal:
                    return self._trace(came, state)
            done.update(first)
            first = list(dict.fromkeys(after for state in first for _, after in self._following(state) if after not in done))
            order: dict[State, None] = {}
            for state in last:
                for move, after in self._following(state):
                    if after not in done:
                        order.pop(after, None)
                        order[after] = None
                        came[after] = (state, move)
            last = list(order)
        return None

    def _following(self, state: State) -> list[tuple[int, State]]:
        x, y, facing = state
        dx, dy = AHEAD[facing]
        moves = [(FORWARD, (x + dx, y + dy, facing)), (LEFT, (x, y, (facing - 1) % 4)), (RIGHT, (x, y, (facing + 1) % 4))]
        return [(m, (x, y, d)) for m, (x, y, d) in moves if x in self._xs and y in self._ys and (x, y) not in self._solid]

    def _trace(self, came: dict[State, tuple[State, int]], state: State) -> list[int]:
        moves = []
        while state != self._start:
            state, move = came[state]
            moves.append(move)
        return moves[::-1]


def _span(corner: int, step: int, size: int) -> range:
    return range(corner, corner + size) if step > 0 else range(corner - size, corner + 1)
