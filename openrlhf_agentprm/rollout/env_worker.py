"""One environment in one process, answering requests over a socket: a JSON object a line, in and out.

Requests: `{"do": "describe" | "warm_up" | "tasks" | "reset" | "step" | "replay" | "branch" | "demonstrate", …}`. The answer is `{"ok": …}`, or
`{"error": text}` when the environment raised; the process lives on and its environment is built anew for the next reset.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..envs import base
from .wire import decode, encode

_SNAPSHOTS = 512  # kept in a process


class EnvServer:
    """Answers requests for one environment.

    Args:
        name: registered environment.
        kwargs: its arguments.
    """

    def __init__(self, name: str, kwargs: dict[str, Any]) -> None:
        self.name = name
        self.kwargs = kwargs
        self._env: Any = None
        self._snapshots: dict[tuple[Any, ...], object] = {}  # of states by task, seed and the actions that led there, oldest first

    @property
    def env(self) -> Any:
        if self._env is None:
            self._env = base.make_env(self.name, **self.kwargs)
        return self._env

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            handler = getattr(self, "_do_" + request.pop("do"))
            return {"ok": handler(**request)}
        except Exception as error:
            self._env = None  # what raised once may be in any state
            self._snapshots.clear()
            user = isinstance(error, UserError)
            return {"error": _escaped(f"{type(error).__name__}: {error}"), "user_error": user}

    def _do_warm_up(self) -> None:
        """Build the environment, and what it would only build when it is needed."""
        if warm := base.ability(self.env, base.HasWarmUp):
            warm.warm_up()

    def _do_describe(self) -> dict[str, Any]:
        inner = self.env.unwrapped
        kinds = (base.HasTasks, base.HasExpert, base.HasAdmissibleActions, base.HasSnapshots, base.HasLexicon, base.HasTools)
        abilities = [p.__name__ for p in kinds]
        present = [name for name in abilities if base.ability(self.env, getattr(base, name))]
        lexicon = list(inner.lexicon()) if "HasLexicon" in present else []
        return {
            "abilities": present,
            "graded": bool(getattr(inner, "reward_is_graded", False)),
            "lexicon": lexicon,
            "task_source": str(getattr(inner, "task_source", "")),
            "tools": list(inner.tools()) if "HasTools" in present else [],
        }

    def _do_tasks(self, split: str, first: int, count: int | None) -> list[str]:
        listed = base.need(self.env, base.HasTasks, "listing tasks").tasks(split)
        if split not in base.SPLITS:
            raise UserError(f"unknown split {split!r} (known: {', '.join(base.SPLITS)})")
        return list(listed[first : None if count is None else first + count])

    def _do_reset(self, task_id: str, seed: int) -> dict[str, Any]:
        observation, info = self.env.reset(seed=seed, options={"task_id": task_id})
        return {
            "observation": _text(observation, "an observation"),
            "instruction": _text(info.get("instruction"), 'an info["instruction"]'),
        }

    def _do_step(self, action: str) -> dict[str, Any]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        outcome = info.get("outcome")
        ended = bool(terminated or truncated)
        return {
            "observation": _text(observation, "an observation"),
            "reward": _number(reward, "the reward"),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            "valid_action": _flag(info, "valid_action", "at every step"),
            "success": _flag(info, "success", "at the end of an episode") if ended or "success" in info else False,
            "outcome": None if outcome is None else _number(outcome, 'info["outcome"] ='),
        }

    def _do_replay(self, task_id: str, seed: int, actions: list[str]) -> list[dict[str, Any]]:
        """Rebuild a state: everything that came back, the reset's answer first."""
        answers = [self._do_reset(task_id, seed)]
        for action in actions:
            answers.append(self._do_step(action))
        return answers

    def _do_branch(self, task_id: str, seed: int, actions: list[str]) -> list[dict[str, Any]]:
        """The last action's answer alone where a snapshot of the state before it is kept, else a replay; the state reached is kept."""
        source = base.need(self.env, base.HasSnapshots, "going on from a snapshot")
        kept = self._snapshots.get((task_id, seed, *actions[:-1]))
        if kept is None:
            answers = self._do_replay(task_id, seed, actions)
        else:
            source.restore(kept)
            answers = [self._do_step(actions[-1])]
        if not (answers[-1]["terminated"] or answers[-1]["truncated"]):
            self._snapshots[(task_id, seed, *actions)] = source.snapshot()
            if len(self._snapshots) > _SNAPSHOTS:
                del self._snapshots[next(iter(self._snapshots))]
        return answers

    def _do_demonstrate(self, task_id: str, seed: int, demonstrator: str, noise: float, max_turns: int) -> dict[str, Any]:
        """A whole episode by a demonstrator: the reset's answer, and action and answer of every step."""
        start = self._do_reset(task_id, seed)
        act = self._demonstrator(demonstrator, noise, seed=hash_seed(task_id, seed))
        steps: list[tuple[str, dict[str, Any]]] = []
        while len(steps) < max_turns:
            action = _text(act(), "an action of a demonstrator")
            steps.append((action, self._do_step(action)))
            if steps[-1][1]["terminated"] or steps[-1][1]["truncated"]:
                break
        return {"start": start, "steps": steps}

    def _demonstrator(self, name: str, noise: float, seed: int) -> Callable[[], str]:
        """The expert, the expert with random admissible acts in between ("careless"), or one that the environment brings."""
        if name not in ("expert", "careless"):
            return base.need(self.env, base.HasDemonstrators, f"the demonstrator {name!r}").demonstrator(name, noise=noise, seed=seed)
        expert = base.need(self.env, base.HasExpert, f"the demonstrator {name!r}")
        if name == "expert":
            return expert.expert_action
        choices = base.need(self.env, base.HasAdmissibleActions, "the demonstrator 'careless'")
        rng = random.Random(seed)
        return lambda: rng.choice(choices.admissible_actions()) if rng.random() < noise else expert.expert_action()


def hash_seed(task_id: str, seed: int) -> int:
    """A seed from a task and a number, the same in every process."""
    return int.from_bytes(f"{task_id}:{seed}".encode(), "little") % (2**61 - 1)


def _flag(info: dict[str, Any], name: str, when: str) -> bool:
    """A bool, NumPy's too; a missing one is a fault of the environment, never a failure of the policy."""
    value = info.get(name)
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f'the environment gave info["{name}"] = {value!r}; wanted a bool {when}')
    return bool(value)


def _number(value: Any, what: str) -> float:
    if not base.is_finite_number(value):
        raise ValueError(f"the environment gave {what} {value!r}; wanted a finite number")
    return float(value)


def _text(value: Any, what: str) -> str:
    """The value, which the tokenizer can take; odd text is a fault of the environment and ends its episode, not the run."""
    if problem := base.text_problem(value):
        raise ValueError(f"the environment gave {what} that {problem}")
    return value


def _escaped(text: str) -> str:
    """Text that can be stored, whatever an environment put into its error."""
    return text.encode(errors="backslashreplace").decode()


def serve(server: EnvServer, connection: socket.socket) -> None:
    """Answer until the other side is gone."""
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            connection.sendall(_encoded(server.answer(decode(line))))


def _encoded(answer: dict[str, Any]) -> bytes:
    try:
        return encode(answer)
    except (TypeError, ValueError) as error:  # such as a tool's schema that holds an object
        return encode({"error": f"the environment gave what is no JSON: {_escaped(str(error))}", "user_error": False})


def run_worker(name: str, kwargs: dict[str, Any], connection: socket.socket) -> None:
    """Body of a worker process: whatever the environment prints to the standard output is dropped."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(EnvServer(name, kwargs), connection)
