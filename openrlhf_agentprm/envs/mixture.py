"""Several environments as one: every task says which one it is of, and each has its own weight, limit, prompt and way of reading actions.

--env.name mixture --env.args '{"parts": [{"env": "babyai", "weight": 2, "max_turns": 8}, {"env": "textcraft", "max_turns": 20}]}'
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import gymnasium

from ..core.errors import UserError, did_you_mean
from ..core.registry import ENVS
from . import base

NAME = "mixture"


@dataclass(frozen=True)
class Part:
    """One environment of a mixture.

    Args:
        env: its registered name.
        args: its arguments.
        name: what its tasks and metrics are called by; the environment's name if none is given.
        weight: how many of its tasks come to one of a part of weight 1.
        max_turns: a step limit of its own, below the run's.
        prompt: put before its instruction.
        after: an action is what follows the last of these marks, up to the line's end ("Action:" reads ReAct); the whole text if empty.
    """

    env: str
    args: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    weight: int = 1
    max_turns: int | None = None
    prompt: str = ""
    after: str = ""

    @property
    def label(self) -> str:
        return self.name or self.env

    def read(self, text: str) -> str:
        if not self.after:
            return text
        _, marker, action = text.rpartition(self.after)
        return action.strip().partition("\n")[0].strip() if marker else ""


class MixtureEnv(gymnasium.Env[str, str]):
    """One episode of one of the parts; a task is `PART:TASK`.

    A part's environment is built when its first task comes. `tasks()` interleaves the parts by their weights and ends with the first part that has
    no more, so that the shares are exact. The outcome is that of the part: success, or the number of one that grades.
    Abilities are those that the classes of all parts have.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=base.MAX_TEXT)
    action_space = gymnasium.spaces.Text(max_length=base.MAX_TEXT)
    reward_is_graded = True  # of parts that do not grade the outcome is success

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        self.parts = {part.label: part for part in read_parts(parts)}
        self._built: dict[str, gymnasium.Env[str, str]] = {}
        self._part: Part | None = None
        self._rewards: list[float] = []
        self._offer_abilities()

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = base.task_of(self, seed, options)
        name, _, task = task_id.partition(":")
        if name not in self.parts:
            raise UserError(f"task {task_id!r} is no 'PART:TASK' of the parts {', '.join(self.parts)}{did_you_mean(name, self.parts)}")
        self._part, self._rewards = self.parts[name], []
        observation, info = self._env(name).reset(seed=seed, options={**(options or {}), "task_id": task})
        instruction = "\n".join(filter(None, (self._part.prompt, info["instruction"])))
        return observation, {**info, "instruction": instruction}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._part is None:
            raise RuntimeError("step() without a running episode; call reset() first")
        part, env = self._part, self._env(self._part.label)
        observation, reward, terminated, truncated, info = env.step(part.read(action))
        self._rewards.append(float(reward))
        if not (terminated or truncated) and len(self._rewards) == part.max_turns:
            truncated, info = True, {"success": False, **info}
        if terminated or truncated:
            self._part = None
        return observation, float(reward), bool(terminated), bool(truncated), {**info, "outcome": self._outcome(env, info)}

    def warm_up(self) -> None:
        """Build the environments of all parts."""
        for name in self.parts:
            self._env(name)

    def close(self) -> None:
        for env in self._built.values():
            env.close()
        self._built, self._part = {}, None

    def _outcome(self, env: gymnasium.Env[str, str], info: Mapping[str, Any]) -> float:
        if not getattr(env.unwrapped, "reward_is_graded", False):
            return float(bool(info.get("success", False)))
        return float(sum(self._rewards) if info.get("outcome") is None else info["outcome"])

    def _env(self, name: str) -> gymnasium.Env[str, str]:
        if name not in self._built:
            self._built[name] = base.make_env(self.parts[name].env, **self.parts[name].args)
        return self._built[name]

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        listed = [base.need(self._env(name), base.HasTasks, f"part {name!r} of a mixture").tasks(split) for name in self.parts]
        return MixedTasks(list(self.parts), [part.weight for part in self.parts.values()], listed)

    def _offer_abilities(self) -> None:
        """Those that all parts have, as methods of this object: whether an object has one is asked by its attributes."""
        kinds = [ENVS.load(part.env) for part in self.parts.values()]
        for protocol, methods in (
            (base.HasExpert, {"expert_action": self._expert_action}),
            (base.HasAdmissibleActions, {"admissible_actions": self._admissible_actions}),
            (base.HasSnapshots, {"snapshot": self._snapshot, "restore": self._restore}),
        ):
            if all(inspect.isclass(kind) and issubclass(kind, protocol) for kind in kinds):
                for name, method in methods.items():
                    setattr(self, name, method)

    def _playing(self) -> tuple[Part, Any]:
        if self._part is None:
            raise RuntimeError("no episode is running; call reset() first")
        return self._part, self._env(self._part.label).unwrapped

    def _expert_action(self) -> str:
        part, env = self._playing()
        return f"{part.after} {env.expert_action()}".lstrip()

    def _admissible_actions(self) -> list[str]:
        part, env = self._playing()
        return [f"{part.after} {action}".lstrip() for action in env.admissible_actions()]

    def _snapshot(self) -> object:
        part, env = self._playing()
        return part.label, env.snapshot(), list(self._rewards)

    def _restore(self, state: Any) -> None:
        name, inner, rewards = state
        self._part, self._rewards = self.parts[name], list(rewards)
        self._env(name).unwrapped.restore(inner)  # type: ignore[attr-defined]


class MixedTasks(base.LazyTasks):
    """Tasks of several lists in turn, each as often as its weight says, evenly spread; it ends where the first list does.

    >>> list(MixedTasks(["a", "b"], [2, 1], ["uvwxyz", "12"]))
    ['a:u', 'b:1', 'a:v', 'a:w', 'b:2', 'a:x']
    """

    def __init__(self, names: Sequence[str], weights: Sequence[int], listed: Sequence[Sequence[str]]) -> None:
        turns = [((rank + 0.5) / weight, part, rank) for part, weight in enumerate(weights) for rank in range(weight)]
        self._round = [(part, rank) for _, part, rank in sorted(turns)]
        self._names, self._weights, self._listed = names, weights, listed
        super().__init__(len(self._round) * min(len(tasks) // weight for tasks, weight in zip(listed, weights, strict=True)))

    def task(self, index: int) -> str:
        rounds, place = divmod(index, len(self._round))
        part, rank = self._round[place]
        return f"{self._names[part]}:{self._listed[part][rounds * self._weights[part] + rank]}"


def part_of(env: str, task_id: str) -> str:
    """The part of a mixture that a task is of; of any other environment its name.

    >>> part_of("mixture", "babyai:GoToLocal/3"), part_of("babyai", "GoToLocal/3")
    ('babyai', 'babyai')
    """
    return task_id.partition(":")[0] if env == NAME else env


def read_parts(parts: object) -> list[Part]:
    """The parts as they were given.

    Raises:
        UserError: everything that is wrong with them.
    """
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise UserError(
            f'a mixture needs parts, a list such as [{{"env": "babyai", "weight": 2}}, {{"env": "textcraft"}}]; it is {parts!r}'
        )
    problems, found = [], []
    for number, given in enumerate(parts):
        if wrong := _problems_of(given):
            problems += [f"part {number} of the mixture: {problem}" for problem in wrong]
        else:
            found.append(Part(**given))
    labels = [part.label for part in found]
    problems += [
        f"{labels.count(label)} parts of the mixture are called {label!r}; give them a name each"
        for label in dict.fromkeys(labels)
        if labels.count(label) > 1
    ]
    if problems:
        raise UserError(problems)
    return found


def _problems_of(given: object) -> list[str]:
    if not isinstance(given, Mapping):
        return [f"{given!r} is no object"]
    known = [f.name for f in fields(Part)]
    found = [f"unknown key {key!r}{did_you_mean(str(key), known)} (known: {', '.join(known)})" for key in given if key not in known]
    texts = [key for key in ("env", "name", "prompt", "after") if not isinstance(given.get(key, ""), str)]
    found += [f"{key} is {given[key]!r}; wanted text" for key in texts]
    env, name = given.get("env"), given.get("name") or ""
    if not env:
        found.append("env, the name of an environment, is missing (agentprm list envs)")
    elif "env" not in texts and (env == NAME or env not in ENVS.names()):
        found.append(f"env {env!r} is no environment that can be a part{did_you_mean(env, ENVS.names())} (agentprm list envs)")
    if "name" not in texts and ":" in name:
        found.append(f"name {name!r} has a colon, which ends it in a task's name")
    for key in ("weight", "max_turns"):
        value = given.get(key, 1)
        if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1) and not (key == "max_turns" and value is None):
            found.append(f"{key} is {value!r}; wanted a whole number of 1 or more")
    if not isinstance(given.get("args", {}), Mapping):
        found.append(f"args is {given['args']!r}; wanted an object")
    return found
