"""What the environments of other libraries share: numbered tasks, a latch behind the end, generators kept apart, answers read out of text."""

from __future__ import annotations

import contextlib
import importlib
import io
import random
import re
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np

from ...core.errors import UserError
from ..base import SPLITS, LazyTasks, SeededTasks, task_of

T = TypeVar("T")
Step = tuple[str, float, bool, bool, dict[str, Any]]
ANSWERS = ("marked", "tags", "boxed", "whole")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_ONE_AT_A_TIME = threading.RLock()  # the generators and the standard output are the process's


class NumberedEnv(gymnasium.Env[str, str]):
    """Tasks `NAME/NUMBER`, and no step without a running episode; a subclass begins an episode of a number and makes a step.

    An error in either leaves no running episode, for what raised once may be in any state.

    Args:
        name: in front of the numbers.
        instruction: what the agent is told about the task.
        graded: the outcome is the sum of rewards, not success.
        tasks_per_split: how many tasks each split lists.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=1_000_000)
    action_space = gymnasium.spaces.Text(max_length=100_000)

    def __init__(self, name: str, instruction: str, graded: bool, tasks_per_split: int) -> None:
        if not isinstance(tasks_per_split, int) or not 1 <= tasks_per_split <= 100_000_000:
            raise UserError(f"tasks_per_split is {tasks_per_split!r}; wanted a whole number from 1 to 100000000")
        self.name = name
        self.instruction = instruction
        self.reward_is_graded = graded
        self.tasks_per_split = tasks_per_split
        self._running = False

    @abstractmethod
    def _begin(self, number: int) -> str:
        """Begin the episode of a number: the first observation."""

    @abstractmethod
    def _act(self, action: str) -> Step:
        """What Gymnasium's `step` returns."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._running = False
        task_id = task_of(self, seed, options)
        observation = self._begin(self._number(task_id))
        self._running = True
        return observation, {"instruction": self.instruction, "valid_action": True}

    def step(self, action: str) -> Step:
        if not self._running:
            raise RuntimeError("step() without a running episode; call reset() first")
        self._running = False
        made = self._act(action)
        self._running = not (made[2] or made[3])
        return made

    def close(self) -> None:
        self._running = False

    def tasks(self, split: str) -> Sequence[str]:
        return SeededTasks([self.name], split, self.tasks_per_split)

    def _number(self, task_id: str) -> int:
        name, _, number = task_id.rpartition("/")
        if name != self.name or not re.fullmatch("[0-9]{1,9}", number):
            raise UserError(f"task {task_id!r} is no '{self.name}/NUMBER', such as {self.tasks('train')[0]!r}")
        return int(number)


class PlacedTasks(LazyTasks):
    """`NAME/NUMBER`, with the numbers of a half-open range."""

    def __init__(self, name: str, low: int, high: int) -> None:
        super().__init__(high - low)
        self._name, self._low = name, low

    def task(self, index: int) -> str:
        return f"{self._name}/{self._low + index}"


def of_split(parts: Mapping[str, T], split: str) -> T:
    """The part of a split, or a `UserError`."""
    if split not in parts:
        raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
    return parts[split]


class OwnRandom:
    """An instance's own state of `random` and `numpy.random`, for a library that draws from the process's generators.

    with own():         what draws in here goes on from where this instance stopped
    with own(seed=3):   … or from a seed

    The process's generators are as before behind the block, one instance is in it at a time, and what is printed in it is dropped.
    """

    def __init__(self) -> None:
        self._states = _states_of(0)

    @contextlib.contextmanager
    def __call__(self, seed: int | None = None) -> Iterator[None]:
        with _ONE_AT_A_TIME, contextlib.redirect_stdout(io.StringIO()):
            before = random.getstate(), np.random.get_state()
            _restore(self._states if seed is None else _states_of(seed))
            try:
                yield
            finally:
                self._states = random.getstate(), np.random.get_state()
                _restore(before)


def _states_of(seed: int) -> tuple[Any, Any]:
    return random.Random(seed).getstate(), np.random.RandomState(seed % 2**32).get_state()


def _restore(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])


def answer_in(text: str, form: str) -> str | None:
    r"""The answer that a response gives, or None: the last `<answer>…</answer>` ("tags"), the last `\boxed{…}` ("boxed"), the first of the
    two that is there ("marked"), or all of it ("whole").

    >>> answer_in(r"so <answer> 7 </answer>", "marked"), answer_in(r"\boxed{\frac{1}{2}}.", "marked"), answer_in("7", "marked")
    ('7', '\\frac{1}{2}', None)
    """
    found = None
    if form in ("marked", "tags") and (tagged := _TAGGED.findall(text)):
        found = tagged[-1].strip()
    if found is None and form in ("marked", "boxed"):
        found = last_boxed(text)
    return (text.strip() if form == "whole" else found) or None


def last_boxed(text: str) -> str | None:
    r"""What the last closed `\boxed{…}` of a text holds, braces and all.

    >>> last_boxed(r"\boxed{1} or \boxed{ {2} }"), last_boxed(r"\boxed{1"), last_boxed("1")
    ('{2}', None, None)
    """
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\{", text)]):
        depth = 1
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[start:at].strip()
    return None


def package(name: str, install: str, environment: str) -> Any:
    """Import another library's package; where it is missing, the line that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"the environment {environment!r} needs {error.name}, which is not installed: {install}") from error


def built(what: str, build: Callable[[], Any]) -> Any:
    """What `build` makes; what goes wrong in it comes from arguments."""
    try:
        return build()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} failed: {type(error).__name__}: {brief(error)}") from error


def brief(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 300 else text[:297] + "..."
