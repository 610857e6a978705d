"""What an environment is here: `gymnasium.Env[str, str]` with a few agreed keys in `info`, and optional abilities.

    obs, info = env.reset(seed=…, options={"task_id": …})       info["instruction"]: str
    obs, reward, terminated, truncated, info = env.step(action)  info["valid_action"]: bool; info["success"]: bool at the end

The same seed, task and actions give the same observations. `tasks(split)` lists task ids; splits are disjoint. A step limit is the
runner's business, not the environment's. Two attributes are read where they are there: `reward_is_graded` (the outcome is
info["outcome"], or else the sum of rewards, not success) and `task_source` (whose tasks these are, for the titles of reports).
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium

from ..core.errors import UserError
from ..core.registry import ENVS

SPLITS = ("train", "validation", "test")
MAX_TEXT = 1_000_000  # characters of one observation or instruction


@runtime_checkable
class HasTasks(Protocol):
    def tasks(self, split: str) -> Sequence[str]: ...


@runtime_checkable
class HasExpert(Protocol):
    """`expert_action()` answers with a good action in the present state."""

    def expert_action(self) -> str: ...


@runtime_checkable
class HasAdmissibleActions(Protocol):
    def admissible_actions(self) -> list[str]: ...


@runtime_checkable
class HasSnapshots(Protocol):
    """`restore(snapshot())` brings the state back, any number of times, in the process that took it."""

    def snapshot(self) -> object: ...

    def restore(self, state: object) -> None: ...


@runtime_checkable
class HasDemonstrators(Protocol):
    """Named demonstrators beside the expert, such as one that errs on purpose; each call of the result gives the next action."""

    def demonstrator(self, name: str, *, noise: float, seed: int) -> Callable[[], str]: ...


@runtime_checkable
class HasLexicon(Protocol):
    """Multi-word names that a tokenizer made for this environment keeps whole."""

    def lexicon(self) -> Sequence[str]: ...


@runtime_checkable
class HasWarmUp(Protocol):
    """`warm_up()` builds now what would be built when it is first needed."""

    def warm_up(self) -> None: ...


@runtime_checkable
class HasTools(Protocol):
    """`tools()` tells what can be called: JSON schemas as chat templates take them, `{"type": "function", "function": {"name": …,
    "description": …, "parameters": {…}}}`. An action is a call as text, `{"name": …, "arguments": {…}}`."""

    def tools(self) -> list[dict[str, Any]]: ...


class LazyTasks(Sequence[str]):
    """Task ids that are made when they are asked for; a subclass says how many there are and which one stands at an index."""

    def __init__(self, count: int) -> None:
        self._count = count

    @abstractmethod
    def task(self, index: int) -> str:
        """The id at an index from 0 to the count − 1."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(f"task {index} of {self._count}")
        return self.task(index)


class SeededTasks(LazyTasks):
    """Task ids `LEVEL/SEED`, level by level in turn, with a range of seeds for each split."""

    _FIRST_SEED: Mapping[str, int] = {"train": 0, "validation": 100_000_000, "test": 200_000_000}

    def __init__(self, levels: Sequence[str], split: str, count: int) -> None:
        if split not in self._FIRST_SEED:
            raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
        super().__init__(count)
        self._levels = list(levels)
        self._first = self._FIRST_SEED[split]

    def task(self, index: int) -> str:
        return f"{self._levels[index % len(self._levels)]}/{self._first + index}"


SHARES = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}  # tenths of the tasks


class NumberedTasks(LazyTasks):
    """Tasks numbered from 0 to `total` − 1: a split is a part of the numbers, shuffled, so that no task is in two splits."""

    def __init__(self, total: int, split: str) -> None:
        if split not in SHARES:
            raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
        self._total = total
        low, high = SHARES[split]
        self._first = total * low // 10
        super().__init__(min(total * high // 10 - self._first, 2**31))
        stride = int(total * 0.618) | 1  # far from its neighbours, and coprime, so that every task comes once
        while math.gcd(stride, total) > 1:
            stride += 2
        self._stride = stride

    def number(self, index: int) -> int:
        """The number of the task at an index."""
        return (self._first + index) * self._stride % self._total


def task_of(env: HasTasks, seed: int | None, options: Mapping[str, Any] | None) -> str:
    """The task that a reset names (`options["task_id"]`), else the one of the training split at the place that the seed names."""
    if (named := (options or {}).get("task_id")) is not None:
        return str(named)
    train = env.tasks("train")
    return train[(seed or 0) % len(train)]


def make_env(name: str, **kwargs: Any) -> gymnasium.Env[str, str]:
    """Build a registered environment; arguments that it does not take are a `UserError`."""
    factory = ENVS.load(name)
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        raise UserError(f"environment {name!r} does not take these arguments: {error} (given: {kwargs})") from error
    return factory(**kwargs)


def text_problem(value: object) -> str:
    """What makes a value no text for a tokenizer ("is int; wanted str"); empty if nothing does."""
    if not isinstance(value, str):
        return f"is {type(value).__name__}; wanted str"
    if len(value) > MAX_TEXT:
        return f"has {len(value)} characters; at most {MAX_TEXT} are taken"
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, such as json.loads makes of a cut "\\ud83d"
        return f"cannot be written as UTF-8 ({error})"
    return ""


def is_finite_number(value: object) -> bool:
    """Whether a value can be a reward or an outcome; NumPy's numbers can."""
    if isinstance(value, str | bytes):  # which float() would read
        return False
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def ability(env: gymnasium.Env[str, str], protocol: type[Any]) -> Any | None:
    """The unwrapped environment if it has the ability, else None."""
    inner = env.unwrapped
    return inner if isinstance(inner, protocol) else None


def need(env: gymnasium.Env[str, str], protocol: type[Any], why: str) -> Any:
    """The unwrapped environment with the ability, or a `UserError` that names what is missing."""
    inner = ability(env, protocol)
    if inner is None:
        methods = [m for m in vars(protocol) if not m.startswith("_") and callable(getattr(protocol, m))]
        raise UserError(f"{why} needs an environment with {', '.join(m + '()' for m in methods)}; {type(env.unwrapped).__name__} has none")
    return inner
