"""Any Gymnasium environment in text: what it shows as text, what it takes by name.

    --env.name gymnasium --env.args '{"id": "FrozenLake-v1", "actions": ["left", "down", "right", "up"]}'

An observation that is text is shown as it is; else what the environment renders as text (`render_mode="ansi"`), else the observation's own form.
An action is a name, or a number, of a discrete space; text as it is; for other spaces JSON.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from ..core.errors import UserError
from .base import SeededTasks, task_of

_ESCAPES = re.compile(r"\x1b\[([0-9;]*)m")
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_SEEDS = 1_000_003  # between two seeds of one task


class GymTextEnv(gymnasium.Env[str, str]):
    """One episode of a registered Gymnasium environment; a task is a seed of its reset.

    Args:
        id: of the environment, as `gymnasium.make` takes it.
        kwargs: for `gymnasium.make`.
        module: Python module that registers it, imported first.
        actions: names of a discrete space's actions, in their order.
        instruction: what the agent is told about the task.
        success: an episode has succeeded if it terminates with a last reward of more than this.
        graded: the outcome is the sum of rewards, not success.
        tasks_per_split: how many tasks each split lists.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=1_000_000)
    action_space = gymnasium.spaces.Text(max_length=100_000)

    def __init__(
        self,
        id: str,
        kwargs: Mapping[str, Any] | None = None,
        module: str | None = None,
        actions: Sequence[str] | None = None,
        instruction: str = "",
        success: float = 0.0,
        graded: bool = False,
        tasks_per_split: int = 10_000,
    ) -> None:
        self.name = id
        self.inner = _make(id, dict(kwargs or {}), module)
        self.instruction = instruction
        self.success = success
        self.reward_is_graded = graded
        self.tasks_per_split = tasks_per_split
        self._running = False
        self._shown = ""
        space = self.inner.action_space
        self._names = list(actions or [])
        if isinstance(space, gymnasium.spaces.Discrete):
            self._names = self._names or [str(space.start + n) for n in range(space.n)]
            if len({name.strip().lower() for name in self._names}) != space.n:
                raise UserError(f"{id} has {space.n} actions; {len(self._names)} names are given, or two are the same: {self._names}")
            self.admissible_actions = lambda: list(self._names)  # an ability that other spaces have not
        elif self._names:
            raise UserError(f"actions are given, but {id} takes {space}, which has no names")

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        name, _, number = task_id.rpartition("/")
        if name != self.name or not number.isdigit():
            raise UserError(f"task {task_id!r} is no '{self.name}/NUMBER'")
        observation, _ = self.inner.reset(seed=(int(number) + _SEEDS * (seed or 0)) % 2**31)
        self._running = True
        self._shown = self._as_text(observation)
        return self._shown, {"instruction": self.instruction, "valid_action": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if not self._running:
            raise RuntimeError("step() without a running episode; call reset() first")
        known, chosen = self._read(action)
        if not known:
            return f"Could not understand the action.\n{self._shown}", 0.0, False, False, {"valid_action": False, "success": False}
        observation, reward, terminated, truncated, _ = self.inner.step(chosen)
        self._running = not (terminated or truncated)
        self._shown = self._as_text(observation)
        success = bool(terminated) and float(reward) > self.success
        return self._shown, float(reward), bool(terminated), bool(truncated), {"valid_action": True, "success": success}

    def close(self) -> None:
        self.inner.close()

    def _as_text(self, observation: Any) -> str:
        if isinstance(observation, str):
            return observation
        if self.inner.render_mode == "ansi":
            return _ESCAPES.sub(_colour, str(self.inner.render())).strip("\n")
        return str(observation.tolist() if isinstance(observation, np.ndarray | np.generic) else observation)

    def _read(self, action: str) -> tuple[bool, Any]:
        """(whether it is an action, as the inner environment takes it)."""
        space, text = self.inner.action_space, action.strip()
        if isinstance(space, gymnasium.spaces.Discrete):
            places = {name.strip().lower(): n for n, name in enumerate(self._names)}
            return text.lower() in places, int(space.start) + places.get(text.lower(), 0)
        if isinstance(space, gymnasium.spaces.Text):
            return bool(text), action
        try:
            value = np.asarray(json.loads(text), dtype=space.dtype)
        except (ValueError, TypeError, OverflowError):
            return False, None
        return space.contains(value), value

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return SeededTasks([self.name], split, self.tasks_per_split)


def _colour(mark: re.Match[str]) -> str:
    """What a terminal would colour, in brackets: `[red S]`.

    >>> _ESCAPES.sub(_colour, "\x1b[41mS\x1b[0mFF")
    '[red S]FF'
    """
    codes = [int(code) for code in mark[1].split(";") if code]
    colour = next((_COLOURS[code % 10] for code in codes if code // 10 in (3, 4) and code % 10 < 8), None)
    return f"[{colour} " if colour else "]" if codes in ([], [0]) else ""


def _make(name: str, kwargs: dict[str, Any], module: str | None) -> gymnasium.Env[Any, Any]:
    try:
        if module:
            importlib.import_module(module)
        if "ansi" in _render_modes(name) and "render_mode" not in kwargs:
            kwargs["render_mode"] = "ansi"
        return gymnasium.make(name, **kwargs)
    except Exception as error:
        raise UserError(f"gymnasium.make({name!r}) failed: {type(error).__name__}: {error}") from error


def _render_modes(name: str) -> Sequence[str]:
    creator = gymnasium.spec(name).entry_point
    kind = gymnasium.envs.registration.load_env_creator(creator) if isinstance(creator, str) else creator
    return tuple(getattr(kind, "metadata", {}).get("render_modes", ()))
