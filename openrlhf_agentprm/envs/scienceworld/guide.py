"""One episode on the simulator, and an expert for it: the simulator's own solution, from wherever the agent has got to if it still works.

A solution is a list of actions from the start. As long as the agent follows it, its next action is the expert's. When the agent has left it, the
expert tries, by replays, to go on with the rest of it: at once, or behind the way back to the room where it was left. The first that ends at a
score of 100 is the new solution. Replays are exact, so that no action is given that does not lead there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .simulator import Simulator

Task = tuple[str, int, str]

_ROOM = re.compile(r"This (?:room|outside location) is called the (.+?)\.")


class Guide:
    """An episode, with what was done in it.

    Args:
        simulator: no other episode may run on it.
        task_type, variation: the task.
        simplification: as the simulator takes it.
        solutions: the simulator's, by task, for other episodes of the same one.
    """

    def __init__(self, simulator: Simulator, task_type: str, variation: int, simplification: str, solutions: dict[Task, list[str]]) -> None:
        self._simulator = simulator
        self._task: Task = (task_type, variation, simplification)
        self._solutions = solutions
        self._done: list[str] = []
        self._shown = ""
        self._solution: list[str] = []

    def begin(self) -> str:
        """Start the episode, as the package does, with a look around; what is seen."""
        return self._replay(self._done)

    def step(self, action: str) -> str:
        """Carry out an action; the simulator's answer."""
        self._done.append(action)
        self._shown = self._act(action)
        return self._shown

    @property
    def score(self) -> int:
        """−100 to 100."""
        return round(100 * float(self._simulator.call("getScore")))

    @property
    def over(self) -> bool:
        return self.score < 0 or bool(self._simulator.call("getCompleted"))

    def admissible(self) -> list[str]:
        return sorted(set(self._simulator.texts("getValidActionObjectCombinations")))

    def next_action(self) -> str:
        """The expert's.

        Raises:
            RuntimeError: no solution is known from here.
        """
        if not self._solution:
            if self._task not in self._solutions:
                self._load(with_solution=True)
                self._solutions[self._task] = self._simulator.texts("getGoldActionSequence")
                self._go_on(self._done)
            self._solution = self._solutions[self._task]
        if not self._on_path():
            self._find_back()
        return self._solution[len(self._done)]

    # --- helpers ---

    def _on_path(self) -> bool:
        at = len(self._done)
        return at < len(self._solution) and self._solution[:at] == self._done

    def _find_back(self) -> None:
        """A solution from here, in place of the one that was left."""
        shown, left = self._shown, _common(self._solution, self._done)
        rest = self._solution[left:]
        for way in self._ways_back(left):
            self._replay(self._done)
            if self._reaches_the_goal([*way, *rest]):
                self._solution = [*self._done, *way, *rest]
                break
        self._replay(self._done)
        if self._shown != shown:
            raise RuntimeError(f"a replay of {len(self._done)} actions of ScienceWorld's task {self._name} did not lead back")
        if not self._on_path():
            raise RuntimeError(
                f"no solution is known for ScienceWorld's task {self._name} from this state: the expert's was left after {left} actions, "
                "and its rest no longer leads to the goal"
            )

    def _ways_back(self, left: int) -> list[list[str]]:
        """Nothing, or the rooms that were passed since the solution was left, the last one first."""
        self._replay(self._done[:left])
        rooms = [self._room()]
        for action in self._done[left:]:
            self._act(action)
            rooms.append(self._room())
        passed = [a for a, b in zip(rooms, rooms[1:], strict=False) if a != b]
        if not passed:
            return [[]]
        verb = "teleport to" if re.search("easy|teleport", self._task[2]) else "go to"
        return [[], [f"{verb} {room}" for room in reversed(passed)]]

    def _room(self) -> str:
        found = _ROOM.search(str(self._simulator.call("freeActionLook")))
        return found[1] if found else ""

    def _reaches_the_goal(self, actions: Sequence[str]) -> bool:
        for action in actions:
            self._act(action)
            if self.over:
                break
        return self.score >= 100

    @property
    def _name(self) -> str:
        return f"{self._task[0]}/{self._task[1]}"

    def _load(self, *, with_solution: bool = False) -> None:
        self._simulator.call("load", *self._task, with_solution)

    def _replay(self, actions: Sequence[str]) -> str:
        """The task from its start up to behind `actions`; the last answer."""
        self._load()
        return self._go_on(actions)

    def _go_on(self, actions: Sequence[str]) -> str:
        for action in ("look around", *actions):
            self._shown = self._act(action)
        return self._shown

    def _act(self, action: str) -> str:
        return str(self._simulator.call("step", action))


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many actions are the same at the start."""
    for k, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return k
    return min(len(first), len(second))
