"""A PPO run is watched from its driver: the death of a process ends it at once and is named, and a run in which nothing moves ends too.

The host waits for its actors without a limit. An actor's death reaches it in most places; that of a vLLM engine, which the engine's actor
outlives, does not. So the driver asks Ray's table of actors, and every engine through its actor, each few seconds while it waits.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import StoppedError

_EVERY = 2.0  # seconds between two looks
_PATIENCE = 10.0  # seconds that Ray may take to tell of a death behind an error
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
}


def add_watch_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--train.stall_timeout",
        type=float,
        default=7200.0,
        help="seconds without a turn finished in any vLLM engine, the model loading included, after which the run is ended (0: never)",
    )


# --- in the driver ---


def get(refs: Any, args: Any, engines: Sequence[Any] | None) -> Any:
    """`ray.get(refs)`, which a death or a stall ends.

    Raises:
        StoppedError: a process of the run has died, or nothing was finished for `--train.stall_timeout`.
    """
    import ray

    watch = Watch(engines or (), args.train.stall_timeout)
    left = list(refs) if isinstance(refs, list) else [refs]
    try:
        while left:
            ready, left = ray.wait(left, timeout=_EVERY)
            ray.get(ready)
            if problem := watch.problem():
                raise StoppedError(f"{problem}; {how_to_go_on(args)}")
    except StoppedError:
        raise
    except Exception as error:
        if problem := watch.cause(_PATIENCE):
            raise StoppedError(f"{problem}; {how_to_go_on(args)}") from error
        raise
    return ray.get(refs)


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
        self._moved = time.monotonic()

    def problem(self) -> str | None:
        """What the run has to end for, if anything."""
        return self.death() or self._stall()

    def cause(self, patience: float) -> str | None:
        """The death behind an error that has come up; Ray and vLLM may tell of it a little later."""
        end = time.monotonic() + patience
        while (found := self.death()) is None and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def death(self) -> str | None:
        """The actors that have died, the first one first; else the engines."""
        lost = [*filter(None, (_told(actor) for actor in _dead_actors()))]
        return "; then ".join(lost[:3]) or "; ".join(self._dead_engines()) or None

    def _dead_engines(self) -> list[str]:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        for number in set(range(len(self.engines))) - set(self._asked.values()):
            self._asked[self.engines[number].agentprm_turns.remote()] = number
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
            self._moved = time.monotonic()

    def _stall(self) -> str | None:
        still = time.monotonic() - self._moved
        if not self.limit or still < self.limit:
            return None
        silent = sorted(self._asked.values())
        return (
            f"no engine has finished a turn for {still:.0f} s (--train.stall_timeout {self.limit:g}), though no process has died"
            + (f"; of the {len(self.engines)} rollout actors, those that do not answer: {silent}" if silent else "")
            + "; `ray stack` on a node shows where its processes are"
        )


def how_to_go_on(args: Any) -> str:
    """What was saved last, and the command that continues."""
    line = ["python", "-m", "openrlhf_agentprm.cli.train_ppo_ray", *sys.argv[1:]]
    latest = Path(args.ckpt.path) / "_actor" / "latest"
    if not latest.is_file():
        return f"no checkpoint is in {args.ckpt.path} (--ckpt.save_steps {args.ckpt.save_steps}); to start again: {shlex.join(line)}"
    if not args.ckpt.load_enable:
        line.append("--ckpt.load_enable")
    return f"saved last: {latest.read_text().strip()} in {args.ckpt.path}; to continue behind it: {shlex.join(line)}"


def _dead_actors() -> list[dict[str, Any]]:
    """This job's actors that Ray has lost, in the order of their deaths."""
    import ray
    from ray._private import state

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return sorted(state.actors(job_id=job, actor_state_name="DEAD").values(), key=lambda actor: actor["EndTime"])


def _told(actor: dict[str, Any]) -> str | None:
    """How an actor died; None where it ended as it should, or by an error of its own, which tells more."""
    cause = actor["DeathCause"]
    if cause.HasField("oom_context"):
        why = "Ray ended it because its node ran out of memory"
    elif not cause.HasField("actor_died_error_context"):
        return None
    else:
        context = cause.actor_died_error_context
        why = {
            context.WORKER_DIED: "its process was killed, by the kernel for want of memory or by hand, or crashed",
            context.NODE_DIED: "its node is gone",
        }.get(context.reason)
    if why is None:
        return None
    return f"{_PARTS.get(_class_of(actor), 'the actor ' + _class_of(actor))} {_place(actor)} died: {why}"


def _class_of(actor: dict[str, Any]) -> str:
    return str(actor["ActorClassName"]).rpartition(".")[2]


def _where(handle: Any) -> str:
    from ray._private import state

    return _place(state.actors(actor_id=handle._actor_id.hex()))


def _place(actor: dict[str, Any]) -> str:
    address = actor["Address"]
    return f"(process {actor['Pid']} on the node {address['IPAddress']}, {address['NodeID'][:8]})"


# --- in a rollout actor ---


def turn_finished(engine: Any) -> None:
    """Count a turn."""
    engine.finished_turns = getattr(engine, "finished_turns", 0) + 1


async def turns_of_living(engine: Any) -> int:
    """Turns finished so far; vLLM raises where its core or a worker is dead."""
    await engine.llm.check_health()
    return getattr(engine, "finished_turns", 0)
