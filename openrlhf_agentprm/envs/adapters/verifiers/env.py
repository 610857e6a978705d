"""Environments of Prime Intellect's verifiers and its Environments Hub, turn by turn (the line that installs it is told where it is missing).

    --env.name verifiers --env.args '{"env": "my_environment", "args": {"difficulty": "easy"}}'

Played are environments of the API that 0.4.0 has no more (`MultiTurnEnv` and what is made of it; 0.1.14 to 0.3.1). Facts of it that this rests
on: an environment's data sets hold the tasks, a rollout's state all that is of an episode; a message of the agent's is followed by the stop
conditions, and where none holds by the environment's answer; a message without a call ends an episode of tools; the reward comes once, at the
end; a reward function that raises is logged and counts as 0, where an error of the episode is made of it here; `max_turns_reached` is told
before other conditions that hold as well.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ....core.errors import UserError
from ...base import is_finite_number
from ..common import NumberedEnv, OwnRandom, Step, brief, of_split
from .ending import Ending, end_dropped
from .episode import Came, Episode, shown, text_of
from .library import INSTALL as INSTALL
from .library import build, library, no_model, tear_down
from .loop import OwnLoop
from .tasks import RowTasks
from .tools import answer_schema, call_in, noting, schema_of

_SEEDS = 1_000_003  # between two seeds of one task
_NEARLY = 1e-6  # what sums of parts of 1 fall short of 1


class VerifiersEnv(NumberedEnv):
    """One rollout an episode; a task is a row of the environment's data set, `NAME/train/NUMBER` or `NAME/eval/NUMBER`.

    Args:
        env: installed Python module with a `load_environment`, or ReasoningGymEnv or TextArenaEnv of the library's own classes. Its code is run.
        args: for `load_environment`, or the class.
        answer_tool: name of a tool that is added to those of the environment, to say a text without a call, which is how an episode of tools
            ends; empty: an action that is no call is that text.
        network: let it connect to a sandbox, a judge or whatever it asks for. No model is lent to it in any case.
        invalid: regular expression; an observation in which it is found says that the action was not understood.
        success: an episode has succeeded if it was not cut by a limit and its reward is at least this.
        graded: the outcome is the reward, not success.
        instruction: what the agent is told about the task, in place of the prompt's system message.
    """

    def __init__(
        self,
        env: str,
        args: Mapping[str, Any] | None = None,
        answer_tool: str = "final_answer",
        network: bool = False,
        invalid: str | None = None,
        success: float = 1.0,
        graded: bool = False,
        instruction: str = "",
    ) -> None:
        if problems := _problems(env, args, answer_tool, network, invalid, success, graded, instruction):
            raise UserError(problems)
        self._invalid = re.compile(invalid) if invalid else None
        end_dropped()
        super().__init__(env, instruction, graded, 1)
        self._told = instruction
        self.success = success
        self.answer_tool = answer_tool
        self._vf = library()
        self._random = OwnRandom()
        self._loop = OwnLoop(env, network)
        with self._random(seed=0):
            self._theirs, self._made = build(self._vf, env, dict(args or {}), network, self._loop)
        self._episode = Episode(self._vf, self._theirs, env)
        self._end = Ending(self, partial(_end, self._episode, self._made, self._loop))
        self._train, self._eval = self._theirs.dataset, self._theirs.eval_dataset
        self._sources = self._split()
        self._client = no_model(self._vf, env, self._loop.refused)
        self._seed = 0
        self._failed_calls: list[Exception] = []
        self._schemas = [schema_of(tool) for tool in self._theirs.tool_defs or []]
        if self._schemas:
            self._prepare_tools()

    def _prepare_tools(self) -> None:
        names = [schema["function"]["name"] for schema in self._schemas]
        if self.answer_tool in names:
            raise UserError(f"answer_tool is {self.answer_tool!r}, which is a tool of {self.name}; give another name ({', '.join(names)})")
        if self.answer_tool:
            self._schemas.append(answer_schema(self.answer_tool))
        schemas = self._schemas
        self.tools = lambda: schemas  # an ability that others have not
        if hasattr(self._theirs, "error_formatter"):
            self._theirs.error_formatter = noting(self._theirs.error_formatter, self._failed_calls)

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self._seed = seed or 0
        return super().reset(seed=seed, options=options)

    def _begin(self, number: int) -> str:
        rows, place = self._rows(number)
        end_dropped()
        self._abandon()
        with self._random(seed=number + _SEEDS * self._seed):
            prompt = self._loop.run(self._episode.begin(rows[place], self._client))
        own = [schema_of(tool) for tool in self._episode.state["tool_defs"]]
        if own != [s for s in self._schemas if s["function"]["name"] != self.answer_tool]:
            raise UserError(f"row {place} of {self.name} has tools of its own; the tools have to be the same for all tasks")
        system = [text_of(message, self.name) for message in prompt if message.role == "system"]
        self.instruction = self._told or "\n\n".join(system)
        return shown([message for message in prompt if message.role != "system"], self.name)

    def _act(self, action: str) -> Step:
        content, calls, problem = self._read(action)
        if problem:
            return problem, 0.0, False, False, {"valid_action": False, "success": False}
        self._failed_calls.clear()
        valid = bool(calls) or self._has_answer(content or "")
        with self._random():
            came = self._loop.run(self._episode.turn(content, calls))
        text = shown(came.messages, self.name)
        valid = valid and not self._failed_calls and not (self._invalid and self._invalid.search(text))
        return self._step(came, text, valid)

    def _step(self, came: Came, text: str, valid: bool) -> Step:
        info: dict[str, Any] = {"valid_action": valid, "success": False}
        if not came.ended:
            return text, 0.0, False, False, info
        if not is_finite_number(came.reward):
            raise RuntimeError(f"the rubric of {self.name} gave the reward {brief(came.reward)}; wanted a finite number")
        reward = float(came.reward)
        info |= {"success": not came.truncated and reward >= self.success - _NEARLY, "outcome": reward}
        return text, reward, not came.truncated, came.truncated, info

    def _read(self, action: str) -> tuple[str | None, list[Any], str]:
        """(the text of the message, its calls, what is wrong with the action)."""
        if not self._schemas:
            return action, [], ""
        name, arguments = call_in(action)
        if name is None and not self.answer_tool:
            return action, [], ""
        names = [schema["function"]["name"] for schema in self._schemas]
        known = ", ".join(names)
        if name is None:
            return None, [], f'No tool was called. Call one of {known} as {{"name": …, "arguments": {{…}}}}.'
        if name == self.answer_tool:
            said = arguments.get("text")
            return (said, [], "") if isinstance(said, str) else (None, [], f"{name} takes text; it was given {brief(arguments)}.")
        if name not in names:
            return None, [], f"There is no tool {brief(name)}. Call one of {known}."
        return None, [self._episode.call(name, json.dumps(arguments))], ""

    def _has_answer(self, text: str) -> bool:
        """Whether the environment's parser finds something in a message of the agent's."""
        try:
            return bool(self._theirs.parser.parse_answer([{"role": "assistant", "content": text}]))
        except Exception:  # some raise what their pattern raises
            return False

    def _abandon(self) -> None:
        """Clean up an episode that was not played to its end; what goes wrong in that is none of the next one's business."""
        with contextlib.suppress(Exception), self._random():
            self._loop.run(self._episode.abandon())

    def close(self) -> None:
        try:
            with self._random():
                self._end()
        finally:
            super().close()

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return of_split(self._sources, split)

    def _split(self) -> dict[str, RowTasks]:
        """Rows to train on and to test on where there are both, else parts of the ones that there are."""
        if self._train is not None and self._eval is not None:
            shares = {
                "train": ("train", self._train, "most"),
                "validation": ("train", self._train, "last"),
                "test": ("eval", self._eval, "all"),
            }
        else:
            name, rows = ("train", self._train) if self._eval is None else ("eval", self._eval)
            shares = {"train": (name, rows, "most but two"), "validation": (name, rows, "last"), "test": (name, rows, "last but one")}
        found = {split: RowTasks(f"{self.name}/{name}", len(rows), share) for split, (name, rows, share) in shares.items()}
        if empty := [split for split, tasks in found.items() if not tasks]:
            sizes = {name: len(rows) for name, rows, _ in shares.values()}
            raise UserError(f"{self.name} has too few rows for a task in each split (rows: {sizes}; nothing for {', '.join(empty)})")
        return found

    def _number(self, task_id: str) -> int:
        """Rows of both data sets are counted on."""
        for source, rows, before in (("train", self._train, 0), ("eval", self._eval, len(self._train or ()))):
            found = re.fullmatch(f"{re.escape(self.name)}/{source}/([0-9]{{1,9}})", task_id)
            if found and rows is not None and int(found[1]) < len(rows):
                return before + int(found[1])
        sizes = {source: len(rows) for source, rows in (("train", self._train), ("eval", self._eval)) if rows is not None}
        raise UserError(f"task {task_id!r} is no row of {self.name}, such as {self.tasks('train')[0]!r} (rows: {sizes})")

    def _rows(self, number: int) -> tuple[Any, int]:
        before = len(self._train or ())
        return (self._train, number) if number < before else (self._eval, number - before)


def _end(episode: Episode, made: list[Any], loop: OwnLoop) -> None:
    """Clean up what still runs, tear all down and close the loop."""
    try:
        with contextlib.suppress(Exception):
            loop.run(episode.abandon())
    finally:
        tear_down(made, loop)


def _problems(
    env: object, args: object, answer_tool: object, network: object, invalid: object, success: object, graded: object, instruction: object
) -> list[str]:
    """What is wrong with arguments."""
    problems = []
    if not isinstance(env, str) or not re.fullmatch(r"[\w./-]+", env):
        problems.append(f"env is {env!r}; wanted the name of a Python module with a load_environment, or ReasoningGymEnv or TextArenaEnv")
    if args is not None and not (isinstance(args, Mapping) and all(isinstance(name, str) for name in args)):
        problems.append(f"args is {args!r}; wanted names and values")
    if not is_finite_number(success):
        problems.append(f"success is {success!r}; wanted a number")
    for name, value in (("network", network), ("graded", graded)):
        if not isinstance(value, bool):
            problems.append(f"{name} is {value!r}; wanted true or false")
    for name, value in (("answer_tool", answer_tool), ("instruction", instruction), ("invalid", invalid)):
        if not isinstance(value, str) and not (name == "invalid" and value is None):
            problems.append(f"{name} is {value!r}; wanted a text")
    try:
        re.compile(invalid if isinstance(invalid, str) else "")
    except re.error as error:
        problems.append(f"invalid is no regular expression: {error}")
    return problems
