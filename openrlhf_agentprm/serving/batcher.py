"""Requests that come at the same time are scored together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from ..prm.scoring import RewardModel, length_batches, score_all
from .requests import Item, RequestError

Scores = list[tuple[list[float], list[float]]]  # (q, v) by turn, of each episode


@dataclass(eq=False)
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

    A batch is closed when `max_tokens` wait or the first request has waited for `max_wait_s`; while one is scored the next gathers. A request
    whose future is cancelled is scored no further, and no longer waits.

    Args:
        prm: called by this thread alone.
        max_tokens: padded tokens that are scored at once; a larger request is a batch of its own, scored in parts of so many.
        max_wait_s: how long a request waits for others.
        queued_tokens: that may wait; more are refused with 429, and a request that has more by itself with 422.
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
        """Scores to come; what is left of a request is not scored once its future is cancelled.

        Raises:
            RequestError: 422 where it is too large to wait at all, 429 where too much waits, 503 once it is closed.
        """
        job = _Job(items)
        if job.tokens > self.queued_tokens:
            raise RequestError(
                422, f"the request has {job.tokens} tokens; at most {self.queued_tokens} may wait: send fewer episodes at once"
            )
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
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job.future

    def _forget(self, job: _Job) -> None:
        with self._change:
            if job in self._jobs:
                self._jobs.remove(job)
                self._queued -= job.tokens
                self._change.notify()

    @property
    def queued(self) -> int:
        """Tokens that wait."""
        return self._queued

    def close(self, limit_s: float | None = None) -> None:
        """Score what waits, then end.

        Args:
            limit_s: seconds that it may take; what is then still scored ends with the process.
        """
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(limit_s)

    def _run(self) -> None:
        while jobs := self._next():
            self._score(jobs)

    def _next(self) -> list[_Job]:
        """The next batch; empty once closed and done."""
        with self._change:
            while True:  # what waits may be cancelled meanwhile
                while not self._jobs and not self._closed:
                    self._change.wait()
                if not self._jobs:
                    return []
                left = self._jobs[0].came + self.max_wait_s - time.monotonic()
                if self._queued >= self.max_tokens or self._closed or left <= 0:
                    break
                self._change.wait(left)
            taken = [self._jobs.popleft()]
            while self._jobs and sum(job.tokens for job in taken) + self._jobs[0].tokens <= self.max_tokens:
                taken.append(self._jobs.popleft())
            self._queued -= sum(job.tokens for job in taken)
            return taken

    def _score(self, jobs: list[_Job]) -> None:
        started = time.perf_counter()
        try:
            scores = self._scores([(job, item) for job in jobs for item in job.items])
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:  # one request's fault is not the others'
                    self._score([job])
            elif jobs[0].future.set_running_or_notify_cancel():
                jobs[0].future.set_exception(error)
            return
        waiting = [(job, scores[id(job)]) for job in jobs if job.future.set_running_or_notify_cancel()]
        if waiting:
            items, tokens = (sum(counts) for counts in zip(*((len(job.items), job.tokens) for job, _ in waiting), strict=True))
            self.observe(len(waiting), items, tokens, time.perf_counter() - started)
        for job, own in waiting:
            job.future.set_result(own)

    def _scores(self, rows: Sequence[tuple[_Job, Item]]) -> dict[int, Scores]:
        """Scores of each job by its identity; of one that is cancelled meanwhile some may be missing."""
        found: dict[int, tuple[list[float], list[float]]] = {}
        for part in length_batches([len(item.token_ids) for _, item in rows], self.max_tokens):
            part = [i for i in part if not rows[i][0].future.cancelled()]
            if not part:
                continue
            items = [rows[i][1] for i in part]
            scores = score_all(self.prm, [item.token_ids for item in items], [item.spans for item in items], max_tokens=self.max_tokens)
            for i, item, (q_K, v_K) in zip(part, items, scores, strict=True):
                if not (torch.isfinite(q_K).all() and torch.isfinite(v_K).all()):
                    raise ValueError(f"the model's scores of episode {item.name!r} are not finite")
                found[i] = (q_K.tolist(), v_K.tolist())
        by_job: dict[int, Scores] = {id(job): [] for job, _ in rows}
        for i, (job, _) in enumerate(rows):
            by_job[id(job)] += [found[i]] if i in found else []
        return by_job
