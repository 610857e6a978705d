"""States of the environment, reached for the search: by replaying the actions that led there, or from a snapshot that a worker keeps.

A replay that shows something else than what was seen is an error. Snapshots live in the worker that took them, so that all states of a task stay
with one worker; one that it no longer has (it keeps the last hundreds) is replayed.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..agents.chat import ChatFormat
from ..core.errors import UserError
from ..rollout.builder import Limits, outcome_of
from ..rollout.pool import EnvPool, Reply
from ..rollout.prefix import check_replay
from .nodes import Candidate, Node, TaskSearch
from .options import Options

T = TypeVar("T")


class States:
    """Plays candidates in the environment pool.

    Raises:
        UserError: snapshots are asked of an environment that has none.
    """

    def __init__(self, pool: EnvPool, chat: ChatFormat, limits: Limits, options: Options, faults: Counter[str]) -> None:
        self.pool = pool
        self.chat = chat
        self.limits = limits
        self.options = options
        self.faults = faults
        self._homes: dict[str, int] = {}  # the worker that keeps a task's snapshots
        if options.restore == "snapshot":
            check_snapshots(pool)

    def start(self, searches: Sequence[TaskSearch]) -> None:
        """Reset every task and give it its root; one that cannot begin is broken."""
        self._homes = {s.task_id: i % len(self.pool) for i, s in enumerate(searches)}
        requests = [(s, s.task_id, {"do": "reset", "task_id": s.task_id, "seed": self.options.seed}) for s in searches]
        for search, reply in self._ask(requests):
            if reply.kind != "ok":
                search.broken = True
                continue
            answer = reply.value
            root = Node(self.chat.first(answer["instruction"], answer["observation"]), observations=[answer["observation"]])
            search.broken = self.room(root) < 1  # the first prompt fills the context
            search.nodes = [] if search.broken else [root]

    def play(self, wanted: Sequence[tuple[TaskSearch, Candidate]]) -> None:
        """Give every candidate its child, or break its search; a step that ends no response has one without the environment."""
        for _, candidate in wanted:
            candidate.child = self._inside(candidate)
        requests = [((s, c), s.task_id, self._request(s, c)) for s, c in wanted if c.child is None]
        for (search, candidate), reply in self._ask(requests):
            if reply.kind != "ok":
                search.broken = True
                continue
            answers = reply.value
            search.turns += 1
            search.replayed_turns += max(0, len(answers) - 2)
            if len(answers) > 1:  # the whole path, the reset's answer first
                check_replay(search.task_id, candidate.parent.observations, answers, "search")
            candidate.child = self._child(candidate, self.limits.ruled(answers[-1]))

    def room(self, node: Node) -> int:
        """Tokens that the next action may have."""
        room = self.limits.max_tokens - len(node.token_ids)
        begun = 0 if node.action_start is None else len(node.token_ids) - node.action_start
        return room if self.limits.max_tokens_per_turn is None else min(room, self.limits.max_tokens_per_turn - begun)

    def _request(self, search: TaskSearch, candidate: Candidate) -> dict[str, Any]:
        actions = [*candidate.parent.actions, self.action(candidate)]
        do = "branch" if self.options.restore == "snapshot" else "replay"
        return {"do": do, "task_id": search.task_id, "seed": self.options.seed, "actions": actions}

    def action(self, candidate: Candidate) -> str:
        """What the environment is given."""
        return self.chat.parse(self.chat.action_text(candidate.response))

    def _inside(self, candidate: Candidate) -> Node | None:
        """The state behind a step that ends with a delimiter; None where the response ends, or has no room to go on."""
        last, parent = candidate.action_tokens[-1:], candidate.parent
        if not last or last[0] not in self.options.step_tokens or last[0] in self.chat.stop_token_ids:
            return None
        begun = len(parent.token_ids) if parent.action_start is None else parent.action_start
        child = replace(
            parent,
            token_ids=candidate.token_ids,
            scores=candidate.scores(candidate.score),
            spans=candidate.spans,
            last=candidate,
            action_start=begun,
            copies=candidate.copies,
        )
        return child if self.room(child) >= 1 else None

    def _child(self, candidate: Candidate, last: Mapping[str, Any]) -> Node:
        parent = candidate.parent
        tokens = candidate.token_ids
        child = Node(
            tokens,
            actions=[*parent.actions, self.action(candidate)],
            observations=[*parent.observations, last["observation"]],
            scores=candidate.scores(candidate.score),
            spans=candidate.spans,
            rewards=[*parent.rewards, last["reward"]],
            last=candidate,
            copies=candidate.copies,
        )
        child.finished = last["terminated"] or last["truncated"] or len(child.actions) >= self.limits.max_turns
        child.success = last["success"]
        child.outcome = outcome_of(last, child.rewards, graded=self.pool.description["graded"])
        if not child.finished:
            closed = self.chat.is_closed(candidate.action_tokens)
            child.token_ids = tokens + self.chat.following(last["observation"], closed=closed, action_tokens=candidate.response)
            if self.room(child) < 1:  # cut by the context: neither success nor failure
                child.finished, child.outcome = True, math.nan
                self.faults["context_overflow"] += 1
        return child

    def _ask(self, requests: Sequence[tuple[T, str, dict[str, Any]]]) -> Iterator[tuple[T, Reply]]:
        """Send every request to a worker; (who asked, reply) as they come, each pair once. What breaks is asked again, and counted.

        Any worker takes any request, but with snapshots each task has one of its own.
        """
        own = self.options.restore == "snapshot"
        waiting: list[deque[tuple[T, str, dict[str, Any], int]]] = [deque() for _ in range(len(self.pool) if own else 1)]
        for who, task, request in requests:
            waiting[self._homes[task] if own else 0].append((who, task, request, 0))
        free = set(range(len(self.pool)))
        asked: dict[int, tuple[T, str, dict[str, Any], int]] = {}
        while asked or any(waiting):
            for worker in sorted(free):
                if queue := waiting[worker if own else 0]:
                    free.remove(worker)
                    asked[worker] = queue.popleft()
                    self.pool.send(worker, dict(asked[worker][2]))
            for reply in self.pool.poll(None):
                free.add(reply.worker)
                who, task, request, attempt = asked.pop(reply.worker)
                if reply.kind != "ok":
                    self.faults[reply.kind] += 1
                    if attempt < self.options.max_retries:
                        waiting[self._homes[task] if own else 0].appendleft((who, task, request, attempt + 1))
                        continue
                yield who, reply


def check_snapshots(pool: EnvPool) -> None:
    """Refuse snapshots of an environment that has none.

    Raises:
        UserError: names it.
    """
    if "HasSnapshots" not in pool.description["abilities"]:
        raise UserError(
            f"environment {pool.name!r} has no snapshot() and restore(), so --search.restore snapshot cannot be had; take replay"
        )
