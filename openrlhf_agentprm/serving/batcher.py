"""Requests that come at the same time are scored together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from ..prm.scoring import RewardModel, score_all
from .requests import Item, RequestError

Scores = list[tuple[list[float], list[float]]]  # (q, v) by turn, of each episode


@dataclass
class _Job:
    items: Sequence[Item]
    future: Future[Scores] = field(default_factory=Future)
    tokens: int = 0
    came: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = sum(len(item.token_ids) for item in self.items)
        self.came = time.monotonic()


class Batcher:
    """One thread that scores whatever waits, whole requests at a time.

    A batch is closed when `max_tokens` wait or the first request has waited for `max_wait_s`; while one is scored the next gathers.

    Args:
        prm: called by this thread alone.
        max_tokens: tokens a batch; a larger request is a batch of its own.
        max_wait_s: how long a request waits for others.
        queued_tokens: that may wait; more are refused with 429.
        observe: told of each batch (requests, episodes, tokens, seconds).
    """

    def __init__(
        self,
        prm: RewardModel,
        *,
        max_tokens: int = 16_384,
        max_wait_s: float = 0.002,
        queued_tokens: int = 1_048_576,
        observe: Callable[[int, int, int, float], None] = lambda *_: None,
    ) -> None:
        self.prm = prm
        self.max_tokens = max_tokens
        self.max_wait_s = max_wait_s
        self.queued_tokens = queued_tokens
        self.observe = observe
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Item]) -> Future[Scores]:
        """Scores to come; a future that is cancelled before its batch begins is not scored.

        Raises:
            RequestError: 429 where too much waits, 503 once it is closed.
        """
        job = _Job(items)
        with self._change:
            if self._closed:
                raise RequestError(503, "the server is stopping")
            if self._queued and self._queued + job.tokens > self.queued_tokens:
                raise RequestError(
                    429, f"{self._queued} tokens wait to be scored; with these {job.tokens} it were over {self.queued_tokens}"
                )
            self._jobs.append(job)
            self._queued += job.tokens
            self._change.notify()
        return job.future

    @property
    def queued(self) -> int:
        """Tokens that wait."""
        return self._queued

    def close(self) -> None:
        """Score what waits, then end."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if live:
                self._score(live)

    def _next(self) -> list[_Job]:
        """The next batch; empty once closed and done."""
        with self._change:
            while not self._jobs and not self._closed:
                self._change.wait()
            if not self._jobs:
                return []
            until = self._jobs[0].came + self.max_wait_s
            while self._queued < self.max_tokens and not self._closed and (left := until - time.monotonic()) > 0:
                self._change.wait(left)
            taken = [self._jobs.popleft()]
            while self._jobs and sum(job.tokens for job in taken) + self._jobs[0].tokens <= self.max_tokens:
                taken.append(self._jobs.popleft())
            self._queued -= sum(job.tokens for job in taken)
            return taken

    def _score(self, jobs: list[_Job]) -> None:
        items = [item for job in jobs for item in job.items]
        started = time.perf_counter()
        try:
            scores = self._scores(items)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # one request's fault is not the others'
                self._score([job])
            return
        self.observe(len(jobs), len(items), sum(job.tokens for job in jobs), time.perf_counter() - started)
        for job in jobs:
            job.future.set_result(scores[: len(job.items)])
            scores = scores[len(job.items) :]

    def _scores(self, items: Sequence[Item]) -> Scores:
        options: dict[str, Any] = {"max_tokens": self.max_tokens}
        found = score_all(self.prm, [item.token_ids for item in items], [item.spans for item in items], **options)
        for item, (q_K, v_K) in zip(items, found, strict=True):
            if not (torch.isfinite(q_K).all() and torch.isfinite(v_K).all()):
                raise ValueError(f"the model's scores of episode {item.name!r} are not finite")
        return [(q_K.tolist(), v_K.tolist()) for q_K, v_K in found]
