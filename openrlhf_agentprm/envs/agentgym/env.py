"""AgentGym's servers as text environments: what comes over HTTP, judged by a profile.

    --env.name agentgym --env.args '{"server": "http://127.0.0.1:36001", "profile": "webshop"}'

An episode ends in one of four ways: success, failure, a limit of the server's, or an error (`ServerError`), which has no reward.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from ...core.errors import UserError
from ..base import SPLITS, task_of
from .http import LateError, Server, ServerError, server_of
from .profile import Profile, read_profile
from .profiles import PROFILES
from .reading import First, Step, fingerprint, read_first, read_shop, read_step, read_text, text
from .rules import Judged, judge
from .session import Session
from .tasks import number_of, read_item_ids, tasks_of

_KNOWN = 100_000  # tasks whose first observation is remembered
_fingerprints: dict[tuple[Server, str, str], str] = {}  # of this process
_answering: set[Server] = set()
_SEARCHED = re.compile(r"Instruction:\s*(?:\[SEP\]\s*)?(.*?)\s*(?:\[SEP\]|$)", re.S)


class AgentGymEnv(gymnasium.Env[str, str]):
    """One task of a server an episode. See `make`, which checks the arguments."""

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=1_000_000)
    action_space = gymnasium.spaces.Text(max_length=1_000_000)

    def __init__(self, server: Server, profile: Profile, items: Mapping[str, Sequence[str]] | None) -> None:
        self.profile = profile
        self.reward_is_graded = profile.outcome != ""
        self.task_source = f"AgentGym's {profile.name} server"
        self._items = items
        self._server = server
        self._session = Session(server, profile)
        self._lock = threading.Lock()  # a server does not keep two calls of one session apart
        self._running = self._old = False
        self._shown = ""
        self._last: Step | None = None
        self._actions: list[str] | None = None
        self._over = weakref.finalize(self, self._session.release)

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        number = number_of(self.profile, task_id)
        with self._lock:
            self._running = False
            self._last = None
            first = self._begin(number)
            self._shown, self._actions = first.text or "", first.actions
            mark = fingerprint(self._shown, self.profile.lines_in_any_order)
            self._check_same_task(task_id, mark)
            self._running = True
            told = self._with_actions(self._shown, "first", "all")
        return told, {"instruction": self.profile.instruction, "valid_action": True, "task_fingerprint": mark}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        with self._lock:
            if not self._running:
                raise RuntimeError("step() without a running episode; call reset() first")
            self._running = False  # until an answer is here that lets it go on: what was sent may have acted
            try:
                answer = self._session.step(_sent(self.profile, action))
                step = read_step(self.profile, answer)
            except BaseException:  # an interrupt too: the server may be at it still
                self._session.drop()
                raise
            told = judge(self.profile, step, self._last, action=action.strip(), before=self._shown, admissible=self._actions)
            self._last, self._shown, self._actions = step, step.text, step.actions
            self._running = not (told.terminated or told.truncated)
            shown = self._with_actions(step.text, "all")
        return shown, told.reward, told.terminated, told.truncated, _info(told, step, answer)

    def close(self) -> None:
        with self._lock:
            self._running = False
            self._session.release()

    def _with_actions(self, observation: str, *where: str) -> str:
        """An observation with the admissible actions below it, where the profile shows them there."""
        if self.profile.shown_actions not in where or not self._actions:
            return observation
        return text(f"{observation}\nAVAILABLE ACTIONS: {', '.join(self._actions)}", "the observation with its actions")

    def _begin(self, number: int) -> First:
        """A reset; in an old session that fails, as behind a restart of the server, once more in a new one."""
        try:
            return self._begin_in_session(number, new=False)
        except LateError:
            raise
        except ServerError:
            if not self._old:
                raise
        return self._begin_in_session(number, new=True)

    def _begin_in_session(self, number: int, new: bool) -> First:
        try:
            self._old = not new and self._session.is_open()
            if not self._old:
                self._session.release()
                self._old = self._session.open(number, new)
            first = read_first(self.profile, self._session.reset(number))
            if first.text is None:
                first = First(read_text(self._session.get(self.profile.first_get), "the first observation"), first.actions)
            return first
        except BaseException:
            self._session.drop()
            raise

    def _check_same_task(self, task_id: str, mark: str) -> None:
        if not self.profile.verify:
            return
        key = (self._server, self.profile.name, task_id)
        if _fingerprints.setdefault(key, mark) != mark:
            raise ServerError(
                f"{self._server.url}: task {task_id!r} began with another observation than before ({mark} against {_fingerprints[key]}): the "
                'server has other data now, or its numbers name no tasks (a profile with "verify": false takes them as they come)'
            )
        if len(_fingerprints) > _KNOWN:
            del _fingerprints[next(iter(_fingerprints))]

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        if self._items is None:
            return tasks_of(self.profile, split)
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
        return self._items[split]


class ListingEnv(AgentGymEnv):
    """A server that tells its admissible actions."""

    def admissible_actions(self) -> list[str]:
        with self._lock:
            if not self._running:
                raise RuntimeError("admissible_actions() without a running episode; call reset() first")
            if self.profile.actions != "webshop":
                return list(self._actions or ())
            bar, clickables = read_shop(self._session.get("available_actions"))
            searched = _SEARCHED.search(self._shown)
            search = [f"search[{searched[1]}]"] if bar and searched else []
            return search + [f"click[{name}]" for name in clickables if name.lower() != "search"]


def make(
    server: str,
    profile: str | Mapping[str, Any],
    item_ids: str | Mapping[str, str] | None = None,
    instruction: str | None = None,
    reset_s: float | None = None,
    step_s: float | None = None,
    proxy: str = "",
) -> AgentGymEnv:
    """An environment of one of AgentGym's servers.

    Args:
        server: its address, which alone is asked.
        profile: name of a known server, or a `Profile` as a JSON object or file.
        item_ids: file of AgentGym's rows in place of the profile's tasks; or one for each split.
        instruction: in place of the profile's.
        reset_s: limit in seconds in place of the profile's.
        step_s: likewise, of a step.
        proxy: through which an http server is reached; "environment" for the one that `http_proxy` names.

    Raises:
        UserError: an argument is wrong, or no server answered the first time that this process asked it.
    """
    problems = [
        f"{name} is {value!r}; wanted seconds, more than 0"
        for name, value in (("reset_s", reset_s), ("step_s", step_s))
        if value is not None and not (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9)
    ]
    if instruction is not None and not isinstance(instruction, str):
        problems.append(f"instruction is {instruction!r}; wanted text")
    if not isinstance(proxy, str):
        problems.append(f"proxy is {proxy!r}; wanted an address, 'environment', or '' for none")
    if problems:
        raise UserError(problems)
    at, known = server_of(server, proxy), read_profile(profile, PROFILES)
    changed: dict[str, Any] = {"instruction": instruction, "reset_s": reset_s, "step_s": step_s}
    known = dataclasses.replace(known, **{key: value for key, value in changed.items() if value is not None})
    items = None if item_ids is None else read_item_ids(known, item_ids)
    _check_answers(at, known)
    return (ListingEnv if known.actions else AgentGymEnv)(at, known, items)


def _check_answers(server: Server, profile: Profile) -> None:
    """Ask once whether a server is there; later it may be away for a while, which then is an error of an episode."""
    if server in _answering:
        return
    try:
        server.fetch("GET", "/", None, profile.reset_s)  # a text, which of WebArena's is no JSON; ALFWorld's waits for others' resets
    except LateError as error:
        raise UserError(
            f"the server at {server.url} ({profile.name}) accepts connections but answered nothing within {profile.reset_s:g} s; it may be "
            f"busy with another's reset: try again, or give more as reset_s. {error}"
        ) from error
    except ServerError as error:
        raise UserError(f"no server of AgentGym's ({profile.name}) answers at {server.url}; start it first: {error}") from error
    _answering.add(server)


def _sent(profile: Profile, action: str) -> str:
    """What is sent for an action, in characters that can be."""
    found = list(re.finditer(profile.action, action)) if profile.action else []
    chosen = found[-1][1] or "" if found else action.strip()
    return chosen.encode(errors="replace").decode()


def _info(told: Judged, step: Step, answer: Any) -> dict[str, Any]:
    info = {"valid_action": told.valid, "success": told.success, "score": step.score, "answer": answer}
    return info if told.outcome is None else {**info, "outcome": told.outcome}
