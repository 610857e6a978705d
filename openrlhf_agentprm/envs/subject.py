"""An environment under test: built, reset, stepped and played, each call under a time limit and with its result's form asserted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium

from . import base

Env = gymnasium.Env[str, str]


@dataclass
class Subject:
    """The environment under test."""

    make: Callable[[], Env]
    steps: int = 12
    tasks_tried: int = 3
    time_limit: float = 30.0

    def __post_init__(self) -> None:
        self._env: Env | None = None

    @property
    def env(self) -> Env:
        if self._env is None:
            with time_limit(self.time_limit, "building the environment"):
                self._env = self.make()
        return self._env

    def new(self) -> Env:
        with time_limit(self.time_limit, "building the environment"):
            return self.make()

    def reset(self, env: Env, task_id: str | None, seed: int = 7) -> tuple[Any, Any]:
        with time_limit(self.time_limit, f"reset() of task {task_id!r}"):
            result = env.reset(seed=seed, options={"task_id": task_id} if task_id is not None else None)
        assert isinstance(result, tuple) and len(result) == 2, f"reset() returned {brief(result)}; wanted (observation, info)"
        return result

    def step(self, env: Env, action: str) -> tuple[Any, Any, Any, Any, Any]:
        with time_limit(self.time_limit, f"step({brief(action)})"):
            result = env.step(action)
        assert isinstance(result, tuple) and len(result) == 5, (
            f"step() returned {brief(result)}; wanted (observation, reward, terminated, truncated, info)"
        )
        return result

    def tasks(self) -> list[str | None]:
        tasked = base.ability(self.env, base.HasTasks)
        return list(tasked.tasks("train")[: self.tasks_tried]) if tasked else [None]

    def play(self, env: Env, task_id: str | None, actions: list[str] | None = None) -> tuple[list[str], list[Any]]:
        """Play a task by `actions`, or by the expert, or by cycling through admissible actions; (actions, all that came back)."""
        trace: list[Any] = [self.reset(env, task_id)[0]]
        played: list[str] = []
        for k in range(len(actions) if actions is not None else self.steps):
            action = actions[k] if actions is not None else self.some_action(env, k)
            observation, reward, terminated, truncated, _ = self.step(env, action)
            played.append(action)
            trace.append((observation, float(reward), bool(terminated), bool(truncated)))
            if terminated or truncated:
                break
        return played, trace

    def some_action(self, env: Env, k: int) -> str:
        if expert := base.ability(env, base.HasExpert):
            return expert.expert_action()
        if choices := base.ability(env, base.HasAdmissibleActions):
            listed = choices.admissible_actions()
            return listed[k % len(listed)] if listed else "look"
        return "look"


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise `AssertionError` when the block takes longer; needs the main thread, elsewhere it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def too_long(*_: object) -> None:
        raise AssertionError(f"{what} did not return within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
