"""A PPO run is watched from its driver: the death of a process ends it at once and is named, and a run in which nothing moves ends too.

The host waits for its actors without a limit. An actor's death reaches it in most places; that of a vLLM engine, which the engine's actor
outlives, does not. So the driver asks Ray's table of actors, and every engine through its actor, each few seconds while it waits.
"""

from __future__ import annotations

import argparse
import functools
import logging
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import StoppedError
from .resume import newest_checkpoint

logger = logging.getLogger(__name__)
_BEGAN = time.time()
_EVERY = 2.0  # seconds between two looks
_PATIENCE = 10.0  # seconds that Ray may take to tell of a death behind an error
_STALLS_AFTER = 7200.0  # seconds, where the run has a PRM, environments or an estimator of ours
_PARTS = {
    "PPOTrainer": "the trainer",
    "PPOTrainerAsync": "the trainer",
    "TrainingActor": "the trainer",
    "GenerateSamplesActor": "the generator of samples",
    "PolicyModelActor": "a policy worker",
    "CriticModelActor": "a critic worker",
    "ReferenceModelActor": "a reference worker",
    "RewardModelActor": "a reward worker",
    "PRMModelActor": "a PRM worker",
    "RolloutRayActor": "a rollout actor, which holds an engine and its environments,",
    "_QueueActor": "a queue between generator and trainer",
    "VLLMLock": "the lock of the engines",
}


def add_watch_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--train.stall_timeout",
        type=float,
        default=None,
        help="seconds without a turn finished in any vLLM engine, the model loading included, after which the run is ended (0: never); by "
        f"default {_STALLS_AFTER:g} with environments, a PRM or an estimator of ours, else never",
    )


# --- in the driver ---


def get(refs: Any, args: Any, engines: Sequence[Any] | None) -> Any:
    """`ray.get(refs)`, which a death or a stall ends.

    Raises:
        StoppedError: a process of the run has died, or no turn was finished for `--train.stall_timeout`.
    """
    import ray

    watch = Watch(engines or (), _limit(args))
    left = list(refs) if isinstance(refs, list) else [refs]
    try:
        while left:
            ready, left = ray.wait(left, timeout=_EVERY)
            ray.get(ready)
            if left and (problem := watch.problem()):
                raise StoppedError(f"{problem}; {how_to_go_on(args)}")
    except StoppedError:
        raise
    except Exception as error:
        if problem := watch.death_behind_error(_PATIENCE):
            raise StoppedError(f"{problem}; {how_to_go_on(args)}") from error
        raise
    return ray.get(refs)


def _limit(args: Any) -> float:
    if args.train.stall_timeout is not None:
        return args.train.stall_timeout
    return _STALLS_AFTER if args.agentprm.on else 0.0


class Watch:
    """Looks at the actors of this job and at the engines.

    Args:
        engines: the rollout actors.
        limit: seconds without a finished turn (0: any number).
    """

    def __init__(self, engines: Sequence[Any], limit: float) -> None:
        self.engines = engines
        self.limit = limit
        self._asked: dict[Any, int] = {}
        self._turns: dict[int, int] = {}
        self._last_turn_at = time.monotonic()

    def problem(self) -> str | None:
        """What the run has to end for, if anything."""
        return self.death() or self._stall()

    def death_behind_error(self, patience: float) -> str | None:
        """The death that an error came from, if one did; Ray and vLLM may tell of it a little later."""
        end = time.monotonic() + patience
        while (found := _lost_raylet() or self.death()) is None and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def death(self) -> str | None:
        """The actors that have died, the first one first; else the engines."""
        return "; then ".join(_deaths()[:3]) or "; ".join(self._dead_engines()) or None

    def _dead_engines(self) -> list[str]:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        for number in set(range(len(self.engines))) - set(self._asked.values()):
            self._asked[self.engines[number].agentprm_turns.options(enable_task_events=False).remote()] = number
        if not self._asked:
            return []
        found = []
        for answer in ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0]:
            number = self._asked.pop(answer)
            try:
                self._note(number, ray.get(answer))
            except RayActorError:  # the table of actors tells more
                continue
            except RayTaskError as error:
                found.append(
                    f"the vLLM engine {number} {_where(self.engines[number])} died: its core or one of its workers ({error.cause})"
                )
        return found

    def _note(self, number: int, turns: int) -> None:
        if self._turns.get(number) != turns:
            self._turns[number] = turns
            self._last_turn_at = time.monotonic()

    def _stall(self) -> str | None:
        still = time.monotonic() - self._last_turn_at
        if not self.limit or still < self.limit:
            return None
        silent = sorted(self._asked.values())
        return (
            f"no engine has finished a turn for {still:.0f} s (--train.stall_timeout {self.limit:g}), though no process has died"
            + (f"; of the {len(self.engines)} rollout actors, those that do not answer: {silent}" if silent else "")
            + "; `ray stack` on a node shows where its processes are"
        )


def _lost_raylet() -> str | None:
    """Ray tells of its own process's death long after every call through it has failed; its socket on this node tells at once."""
    import ray

    node = getattr(ray._private.worker, "_global_node", None)
    if node is None or not node.raylet_socket_name:
        return None
    with socket.socket(socket.AF_UNIX) as raylet:
        try:
            raylet.connect(node.raylet_socket_name)
        except (ConnectionRefusedError, FileNotFoundError):
            return (
                "Ray's own process on this node, its raylet, died: it was killed, by the kernel for want of memory or by hand, or crashed"
            )
        except OSError:  # it cannot be told; the error that is looked into must still be
            return None
    return None


def how_to_go_on(args: Any) -> str:
    """What was saved last, and the command that continues."""
    line = ["python", "-m", "openrlhf_agentprm.cli.train_ppo_ray", *sys.argv[1:]]
    where = f"in {args.ckpt.path}"
    if (tag := _saved(args)) is None:
        return f"saved last: none is seen from this node {where} (--ckpt.save_steps {args.ckpt.save_steps}); to start again: {shlex.join(line)}"
    if not args.ckpt.load_enable:
        line.append("--ckpt.load_enable")
    return f"saved last: {tag} {where}; to continue behind it: {shlex.join(line)}"


def _saved(args: Any) -> str | None:
    """The tag to go on from; what an earlier run left is none, unless this one has gone on from it."""
    latest = Path(args.ckpt.path) / "_actor" / "latest"
    if not latest.is_file() or (not args.ckpt.load_enable and latest.stat().st_mtime < _BEGAN):
        return None
    return newest_checkpoint(args)


def _deaths() -> list[str]:
    """How actors of the run died, the first one first; none where Ray's table cannot be read."""
    try:
        return [*filter(None, (_how_it_died(actor) for actor in _dead_actors()))]
    except Exception as error:
        _warn_once(f"{type(error).__name__}: {error}")
        return []


@functools.cache
def _warn_once(error: str) -> None:
    logger.warning("Ray's table of actors cannot be read, so a death may go unnoticed: %s", error)


def _dead_actors() -> list[dict[str, Any]]:
    """This job's actors that Ray has lost, in the order of their deaths."""
    import ray
    from ray._private import state

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return sorted(state.actors(job_id=job, actor_state_name="DEAD").values(), key=lambda actor: actor["EndTime"])


def _how_it_died(actor: dict[str, Any]) -> str | None:
    """How a part of the run died; None for other actors, and where it ended as it should or by an error of its own, which tells more."""
    part, cause = _PARTS.get(str(actor["ActorClassName"]).rpartition(".")[2]), actor["DeathCause"]
    if part is None:
        return None
    if cause.HasField("oom_context"):
        why: str | None = "Ray ended it because its node ran out of memory"
    elif not cause.HasField("actor_died_error_context") or "INTENDED_" in cause.actor_died_error_context.error_message:
        return None
    else:
        context = cause.actor_died_error_context
        why = {
            context.WORKER_DIED: "its process was killed, by the kernel for want of memory or by hand, or crashed",
            context.NODE_DIED: "its node is gone",
        }.get(context.reason)
    return f"{part} {_place(actor)} died: {why}" if why else None


def _where(handle: Any) -> str:
    from ray._private import state

    try:
        return _place(state.actors(actor_id=handle._actor_id.hex()))
    except Exception as error:
        _warn_once(f"{type(error).__name__}: {error}")
        return "(process and node unknown)"


def _place(actor: dict[str, Any]) -> str:
    if not actor["Pid"]:
        return "(which had not started)"
    address = actor["Address"]
    return f"(process {actor['Pid']} on the node {address['IPAddress']}, {address['NodeID'][:8]})"


# --- in a rollout actor ---


def turn_finished(engine: Any) -> None:
    """Count a turn."""
    engine.finished_turns = getattr(engine, "finished_turns", 0) + 1


async def turns_if_alive(engine: Any) -> int:
    """Turns finished so far; vLLM raises where its core or a worker is dead."""
    await engine.llm.check_health()
    return getattr(engine, "finished_turns", 0)
