"""An environment under test: built, reset, stepped and played, each call under a time limit and with its result's form asserted."""

from __future__ import annotations

import contextlib
import copy
import random
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
    """The environment under test.

    Args:
        make: builds a fresh environment.
        steps: of the episodes that are compared.
        tasks_tried: how many tasks.
        episodes: over which memory is watched.
        time_limit: seconds that one call may take.
        announce: told of each call before it is made, so that another process can say which one never came back.
    """

    make: Callable[[], Env]
    steps: int = 12
    tasks_tried: int = 3
    episodes: int = 500
    time_limit: float = 30.0
    announce: Callable[[str], None] = lambda what: None

    def __post_init__(self) -> None:
        self._env: Env | None = None

    @property
    def env(self) -> Env:
        if self._env is None:
            self._env = self.new()
        return self._env

    @contextlib.contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """Around every call to the environment: announce it and limit its time."""
        self.announce(what)
        with time_limit(self.time_limit, what):
            yield

    def new(self) -> Env:
        with self.calling("building the environment"):
            return self.make()

    def reset(self, env: Env, task_id: str | None, seed: int = 7) -> tuple[Any, Any]:
        with self.calling(f"reset() of task {task_id!r}"):
            result = env.reset(seed=seed, options={"task_id": task_id} if task_id is not None else None)
        assert isinstance(result, tuple) and len(result) == 2, f"reset() returned {brief(result)}; wanted (observation, info)"
        return result

    def step(self, env: Env, action: str) -> tuple[Any, Any, Any, Any, Any]:
        with self.calling(f"step({brief(action)})"):
            result = env.step(action)
        assert isinstance(result, tuple) and len(result) == 5, (
            f"step() returned {brief(result)}; wanted (observation, reward, terminated, truncated, info)"
        )
        return result

    def tasks(self) -> list[str | None]:
        tasked = base.ability(self.env, base.HasTasks)
        if tasked is None:
            return [None]
        with self.calling("tasks('train')"):
            return list(tasked.tasks("train")[: self.tasks_tried])

    def play(self, env: Env, task_id: str | None, actions: list[str] | None = None) -> tuple[list[str], list[Any]]:
        """Play a task by `actions`, or by the expert, or by cycling through admissible actions; (actions, all that came back)."""
        trace: list[Any] = [self.reset(env, task_id)[0]]
        played: list[str] = []
        for k in range(len(actions) if actions is not None else self.steps):
            action = actions[k] if actions is not None else self.some_action(env, k)
            played.append(action)
            trace.append(self._came_back(env, action))
            if trace[-1][2] or trace[-1][3]:
                break
        return played, trace

    def wander(self, env: Env, task_id: str | None) -> list[str]:
        """Three times `steps` admissible actions drawn at random; where one ends the episode, another is drawn, up to ten times."""
        ending: set[tuple[int, str]] = set()
        walk: list[str] = []
        for _ in range(10):
            rng = random.Random(0)
            walk = []
            self.reset(env, task_id)
            while len(walk) < 3 * self.steps:
                choices = [a for a in self.admissible(env) or [] if (len(walk), a) not in ending]
                if not choices:
                    return walk
                walk.append(rng.choice(choices))
                *_, terminated, truncated, _ = self.step(env, walk[-1])
                if terminated or truncated:
                    ending.add((len(walk) - 1, walk[-1]))
                    break
            else:
                return walk
        return walk

    def go_on(self, env: Env, actions: list[str]) -> tuple[list[Any], list[Any]]:
        """Play on from the present state: what came back, and what was admissible before each action and at the last."""
        trace: list[Any] = []
        choices = [copy.copy(self.admissible(env))]  # the environment may go on changing its own list
        for action in actions:
            trace.append(self._came_back(env, action))
            if trace[-1][2] or trace[-1][3]:
                break
            choices.append(copy.copy(self.admissible(env)))
        return trace, choices

    def _came_back(self, env: Env, action: str) -> tuple[Any, float, bool, bool]:
        observation, reward, terminated, truncated, _ = self.step(env, action)
        return observation, float(reward), bool(terminated), bool(truncated)

    def some_action(self, env: Env, k: int) -> str:
        if base.ability(env, base.HasExpert):
            return self.expert_action(env)
        listed = self.admissible(env)
        return listed[k % len(listed)] if listed else "look"

    def expert_action(self, env: Env) -> str:
        with self.calling("expert_action()"):
            return base.need(env, base.HasExpert, "this check").expert_action()

    def admissible(self, env: Env) -> list[str] | None:
        """The actions that the environment lists now; None if it lists none anywhere."""
        listing = base.ability(env, base.HasAdmissibleActions)
        if listing is None:
            return None
        with self.calling("admissible_actions()"):
            return listing.admissible_actions()


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


def same(first: list[Any], second: list[Any], where: str) -> None:
    """Assert that two episodes went alike."""
    for k, (a, b) in enumerate(zip(first, second, strict=False)):
        assert a == b, f"{where} differ at step {k}: {brief(a)} against {brief(b)}"
    assert len(first) == len(second), f"{where} differ in length: {len(first) - 1} steps against {len(second) - 1}"


def brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
