"""The collection loop: one thread that keeps an engine and a pool of environments busy, and every finished episode safe.

A slot is one environment worker with one episode. Environments run in their own processes while the engine steps, so the loop never waits
for one as long as another can go on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..agents.chat import ChatFormat
from ..core.errors import StoppedError, UserError
from ..data.episode import Episode, Status
from .builder import Assignment, EpisodeBuilder, Limits
from .engine import Engine, Sampling
from .pool import EnvPool, Reply

_STATUS_OF = {"error": Status.ENV_ERROR, "died": Status.ENV_ERROR, "timeout": Status.TIMEOUT}


@dataclass
class Stats:
    """What a collection did."""

    statuses: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    turns: int = 0
    action_tokens: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0


@dataclass
class _Slot:
    assignment: Assignment
    attempt: int
    builder: EpisodeBuilder


def play_episodes(
    assignments: Iterable[Assignment],
    pool: EnvPool,
    engine: Engine,
    chat: ChatFormat,
    sampling: Sampling,
    limits: Limits,
    *,
    max_retries: int = 2,
    stats: Stats | None = None,
    on_idle: Callable[[], None] | None = None,
) -> Iterator[Episode]:
    """Play every assignment; episodes are given out as they finish, in no fixed order.

    An environment that raises, hangs or dies ends that attempt: the episode is played again up to `max_retries` times, then given out with
    the status `env_error` or `timeout`.

    Args:
        assignments: what to play; read lazily.
        stats: filled as it goes.
        on_idle: called once a round, for progress displays.

    Raises:
        UserError: the environment reports something that no retry can mend.
    """
    return _Loop(iter(assignments), pool, engine, chat, sampling, limits, max_retries, stats or Stats(), on_idle).run()


def unless_all_break(episodes: Iterable[Episode], in_a_row: int) -> Iterator[Episode]:
    """Episodes as they come; broken ones once one behind them did not break, or at the end.

    Raises:
        StoppedError: so many broke in a row, none of which is given out: their environment does not work any more.
    """
    held: list[Episode] = []
    for episode in episodes:
        if episode.status in _STATUS_OF.values():
            held.append(episode)
            if len(held) >= in_a_row:
                raise StoppedError(
                    f"the last {in_a_row} episodes broke, each after its retries, the last one by: {episode.error}; they are not stored, and "
                    "the same command plays them when the environment works again"
                )
        else:
            yield from held
            held.clear()
            yield episode
    yield from held


class _Loop:
    def __init__(
        self,
        assignments: Iterator[Assignment],
        pool: EnvPool,
        engine: Engine,
        chat: ChatFormat,
        sampling: Sampling,
        limits: Limits,
        max_retries: int,
        stats: Stats,
        on_idle: Callable[[], None] | None,
    ) -> None:
        self.assignments = assignments
        self.pool = pool
        self.engine = engine
        self.chat = chat
        self.sampling = sampling
        self.limits = limits
        self.max_retries = max_retries
        self.stats = stats
        self.on_idle = on_idle
        self.again: deque[tuple[Assignment, int]] = deque()
        self.slots: dict[int, _Slot] = {}
        self.free = list(range(len(pool)))

    def run(self) -> Iterator[Episode]:
        started = time.monotonic()
        self._fill()
        while self.slots:
            waiting = len(self.slots) - self.engine.unfinished
            for reply in self.pool.poll(None if not self.engine.unfinished else 0.0) if waiting else []:
                yield from self._on_reply(reply)
            if self.engine.unfinished:
                before = time.monotonic()
                finished = self.engine.step()
                self.stats.engine_seconds += time.monotonic() - before
                for sampled in finished:
                    slot = self.slots[int(sampled.request_id.partition("-")[0])]
                    action = slot.builder.act(sampled.token_ids, sampled.logprobs)
                    self.stats.turns += 1
                    self.stats.action_tokens += len(sampled.token_ids)
                    self.pool.send(int(sampled.request_id.partition("-")[0]), {"do": "step", "action": action})
            self._fill()
            self.stats.seconds = time.monotonic() - started
            if self.on_idle is not None:
                self.on_idle()

    def _fill(self) -> None:
        while self.free:
            assignment, attempt = self.again.popleft() if self.again else (next(self.assignments, None), 0)
            if assignment is None:
                return
            worker = self.free.pop()
            builder = EpisodeBuilder(assignment, self.chat, self.limits, graded=self.pool.description["graded"])
            self.slots[worker] = _Slot(assignment, attempt, builder)
            self.pool.send(worker, builder.request())

    def _on_reply(self, reply: Reply) -> Iterator[Episode]:
        slot = self.slots[reply.worker]
        builder = slot.builder
        if reply.kind != "ok":
            if reply.user_error:
                raise UserError(f"environment {self.pool.name!r}, task {slot.assignment.task_id!r}: {reply.message.partition(': ')[2]}")
            if slot.attempt < self.max_retries:
                self.stats.retries += 1
                self.again.append((slot.assignment, slot.attempt + 1))
                self._release(reply.worker)
                return
            builder.fail(_STATUS_OF[reply.kind], reply.message)
        elif isinstance(reply.value, list):
            builder.resume(reply.value)
        elif "instruction" in reply.value:
            builder.begin(reply.value)
        else:
            builder.observe(reply.value)
        if builder.finished:
            self._release(reply.worker)
            episode = builder.episode()
            self.stats.statuses[episode.status.value] += 1
            yield episode
        else:
            request_id = f"{reply.worker}-{slot.assignment.episode_id}-{slot.attempt}-{len(builder.turns)}"
            sampling = self.sampling.at(len(builder.turns))
            self.engine.submit(request_id, builder.prompt, sampling, builder.budget, self.chat.stop_token_ids)

    def _release(self, worker: int) -> None:
        del self.slots[worker]
        self.free.append(worker)
