"""Environments behind an OpenEnv server, over its WebSocket (needs `pip install 'openrlhf-agentprm[openenv]'` here; openenv-core there).

    --env.name openenv --env.args '{"url": "http://127.0.0.1:8000", "action_field": "message", "text_field": "echoed_message"}'

The protocol is openenv-core's (0.3.0): a session lives as long as a connection to `/ws`; `{"type": "reset" | "step", "data": …}` is answered
by `{"type": "observation", "data": {"observation": …, "reward": …, "done": …}}` or `{"type": "error", …}`. A server goes on behind `done`, and
tells neither limits on steps nor, for most environments, which actions were understood.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import UserError
from ..base import SPLITS, is_finite_number
from .common import NumberedEnv, PlacedTasks, Step, brief, of_split
from .openenv_session import Refused, Session, url_problems


class OpenEnvEnv(NumberedEnv):
    """One episode of a session on a server; a task is a number that goes into the reset.

    What goes wrong on the server or on the way to it is an error, never a reward of 0: the connection is given up, and the next reset makes another.

    Args:
        url: of the server, http or ws; nothing else is connected to, and no proxy is used.
        action_field: of the server's action that the agent's text goes to; empty: the text is the action, a JSON object.
        text_field: of the server's observation that is shown, `outer.inner` for one inside another; empty: all of it, as JSON.
        action: further fields of every action.
        reset: further arguments of every reset.
        task_field: argument of the reset that a task's number goes to.
        ranges: numbers of the tasks by split, such as `{"train": [0, 800], "validation": [800, 900], "test": [900, 1000]}`, ends left out; without
            them, as many as are asked for from 0, 100000000 and 200000000 on, as suits seeds.
        invalid: regular expression; an observation in which it is found says that the action was not understood.
        success: an episode has succeeded if the reward of its last step is at least this.
        graded: the outcome is the sum of rewards, not success.
        instruction: what the agent is told about the task.
        name: of the tasks.
        timeout_s: for a connection, and for an answer.
        max_reply: bytes of an answer.
        tasks_per_split: how many tasks each split lists, without ranges.
    """

    def __init__(
        self,
        url: str,
        action_field: str = "",
        text_field: str = "",
        action: Mapping[str, Any] | None = None,
        reset: Mapping[str, Any] | None = None,
        task_field: str = "seed",
        ranges: Mapping[str, Sequence[int]] | None = None,
        invalid: str | None = None,
        success: float = 1.0,
        graded: bool = False,
        instruction: str = "",
        name: str = "openenv",
        timeout_s: float = 60.0,
        max_reply: int = 4 << 20,
        tasks_per_split: int = 10_000,
    ) -> None:
        super().__init__(name, instruction, graded, tasks_per_split)
        problems = url_problems(url) + _range_problems(ranges)
        if not (isinstance(timeout_s, int | float) and 0 < timeout_s < math.inf):
            problems.append(f"timeout_s is {timeout_s!r}; wanted a number of seconds above 0")
        if not isinstance(max_reply, int) or max_reply < 1:
            problems.append(f"max_reply is {max_reply!r}; wanted a whole number of bytes")
        try:
            self._invalid = re.compile(invalid) if invalid else None
        except re.error as error:
            problems.append(f"invalid is no regular expression: {error}")
        if problems:
            raise UserError(problems)
        self.action_field, self.text_field, self.task_field = action_field, text_field, task_field
        self._action, self._reset = dict(action or {}), dict(reset or {})
        self._ranges = None if ranges is None else {split: (low, high) for split, (low, high) in ranges.items()}
        self.success = success
        self._session = Session(url, timeout_s, max_reply)

    def _begin(self, number: int) -> str:
        answer = self._session.ask("reset", {**self._reset, self.task_field: number}, anew=True)
        return self._text(answer)

    def _act(self, action: str) -> Step:
        sent = self._as_sent(action)
        if sent is None:
            return "The action is no JSON object.", 0.0, False, False, {"valid_action": False, "success": False}
        try:
            answer = self._session.ask("step", sent)
        except Refused as refused:
            if self.action_field and refused.wrong_fields:
                raise UserError(
                    f"the actions of {self._session.url} have other fields than action_field and action say ({', '.join(sent)}); "
                    f"missing or not taken: {', '.join(refused.wrong_fields)}"
                ) from refused
            return f"The action was not understood: {refused}", 0.0, False, False, {"valid_action": False, "success": False}
        shown, done = self._text(answer), answer.get("done")
        reward = 0.0 if answer.get("reward") is None else answer["reward"]
        if not is_finite_number(reward) or not isinstance(done, bool):
            self._session.drop()
            raise RuntimeError(
                f"{self._session.url} answered a step with reward {brief(reward)} and done {brief(done)}; wanted a number and a bool"
            )
        valid = self._invalid is None or not self._invalid.search(shown)
        return shown, float(reward), done, False, {"valid_action": valid, "success": done and float(reward) >= self.success}

    def close(self) -> None:
        super().close()
        self._session.close()

    def _as_sent(self, action: str) -> dict[str, Any] | None:
        if self.action_field:
            return {**self._action, self.action_field: action}
        try:
            sent = json.loads(action)
        except ValueError:
            return None
        return {**self._action, **sent} if isinstance(sent, dict) else None

    def _text(self, answer: Mapping[str, Any]) -> str:
        found = answer.get("observation")
        for field in self.text_field.split(".") if self.text_field else ():
            if not isinstance(found, dict) or field not in found:
                self._session.drop()
                there = f"it has: {', '.join(sorted(found))}" if isinstance(found, dict) else f"it is {brief(found)}"
                raise UserError(
                    f"the observation of {self._session.url} has no field {field!r} of text_field {self.text_field!r} ({there})"
                )
            found = found[field]
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return super().tasks(split) if self._ranges is None else PlacedTasks(self.name, *of_split(self._ranges, split))


def _range_problems(ranges: Mapping[str, Sequence[int]] | None) -> list[str]:
    """What is wrong with the numbers of the tasks; splits must share none."""
    if ranges is None:
        return []
    if not isinstance(ranges, Mapping) or set(ranges) != set(SPLITS):
        return [f"ranges is {ranges!r}; wanted a range for each of {', '.join(SPLITS)}"]
    for split, pair in ranges.items():
        whole = isinstance(pair, Sequence) and len(pair) == 2 and all(type(n) is int for n in pair)
        if not whole or not 0 <= pair[0] < pair[1] <= 10**9:
            return [f"the range of {split} is {pair!r}; wanted two whole numbers, the first less than the second"]
    ordered = sorted(tuple(pair) for pair in ranges.values())
    return [f"ranges {a} and {b} share numbers" for a, b in zip(ordered, ordered[1:], strict=False) if b[0] < a[1]]
