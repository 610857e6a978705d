"""Episodes by demonstrators: no engine; an environment plays a whole episode in one request, and the chat format makes its tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ..agents.chat import ChatFormat
from ..core.errors import UserError
from ..data.episode import Episode, Status
from .builder import Assignment, EpisodeBuilder, Limits
from .collect import Stats
from .pool import EnvPool


def demonstrate(
    assignments: Iterable[Assignment],
    pool: EnvPool,
    chat: ChatFormat,
    limits: Limits,
    *,
    demonstrator: str = "expert",
    noise: float = 0.0,
    max_retries: int = 2,
    stats: Stats | None = None,
) -> Iterator[Episode]:
    """Episodes played by "expert", "careless", or a demonstrator that the environment brings.

    Args:
        noise: probability that an erring demonstrator errs in a turn.

    Raises:
        UserError: the environment has no such demonstrator.
    """
    stats = stats or Stats()
    waiting = iter(assignments)
    again: deque[tuple[Assignment, int]] = deque()
    playing: dict[int, tuple[Assignment, int]] = {}
    free = list(range(len(pool)))
    while True:
        while free:
            assignment, attempt = again.popleft() if again else (next(waiting, None), 0)
            if assignment is None:
                break
            worker = free.pop()
            playing[worker] = (assignment, attempt)
            request = {"do": "demonstrate", "task_id": assignment.task_id, "seed": assignment.seed}
            pool.send(worker, request | {"demonstrator": demonstrator, "noise": noise, "max_turns": limits.max_turns})
        if not playing:
            return
        for reply in pool.poll(None):
            assignment, attempt = playing.pop(reply.worker)
            free.append(reply.worker)
            builder = EpisodeBuilder(assignment, chat, limits, graded=pool.description["graded"])
            if reply.kind == "ok":
                _tell(builder, reply.value)
            elif reply.user_error:
                raise UserError(reply.message.partition(": ")[2])
            elif attempt < max_retries:
                stats.retries += 1
                again.append((assignment, attempt + 1))
                continue
            else:
                builder.fail(Status.TIMEOUT if reply.kind == "timeout" else Status.ENV_ERROR, reply.message)
            episode = builder.episode()
            stats.statuses[episode.status.value] += 1
            stats.turns += len(episode.turns)
            yield episode


def _tell(builder: EpisodeBuilder, played: dict) -> None:
    """Grow the episode from what was played."""
    builder.begin(played["start"])
    for action, answer in played["steps"]:
        if builder.finished:
            return
        builder.act(builder.chat.encode_action(action), [])
        builder.observe(answer)
