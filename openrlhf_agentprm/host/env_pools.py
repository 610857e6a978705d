"""Environments of a rollout actor, for its coroutines: in processes of its own node, or in pools that Ray places on the cluster.

Both give out idle workers (`worker`) and answer requests (`ask`) as `rollout.pool` does; a pool that is lost with its node answers "died".
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core.errors import StoppedError, UserError
from ..rollout.config import EnvConfig
from ..rollout.pool import EnvPool, Reply

_OWN_LIMIT = 120.0  # seconds for Ray's part of a request, and for starting a pool
_PLACED_WITHIN = 600.0  # seconds that other jobs may hold the CPUs


class Workers:
    """Idle workers by number."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._idle: asyncio.Queue[int] | None = None

    def worker(self) -> _Borrowed:
        """An idle worker, for the length of an `async with`."""
        if self._idle is None:  # made inside the loop that uses it
            self._idle = asyncio.Queue()
            for index in range(self._size):
                self._idle.put_nowait(index)
        return _Borrowed(self._idle)


class AsyncPool(Workers):
    """An `EnvPool` for coroutines: a thread waits for the workers and wakes the coroutine that asked."""

    def __init__(self, pool: EnvPool) -> None:
        super().__init__(len(pool))
        self._pool = pool
        self.graded = bool(pool.description["graded"])
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._futures: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Reply]]] = {}
        threading.Thread(target=self._watch, daemon=True, name="environments").start()

    async def ask(self, worker: int, request: dict[str, Any]) -> Reply:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        with self._lock:
            self._pool.send(worker, request)
            self._futures[worker] = (loop, future)
        self._asked.set()
        return await future

    def _watch(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            while self._futures:
                for worker, answer in self._poll():
                    with self._lock:
                        waiting = self._futures.pop(worker, None)
                    if waiting is not None:
                        loop, future = waiting
                        loop.call_soon_threadsafe(_settle, future, answer)

    def _poll(self) -> list[tuple[int, Reply | Exception]]:
        """What has come, by worker. Where the pool itself breaks, its requests stay out: every waiting episode fails by its error, and the run."""
        try:
            return [(reply.worker, reply) for reply in self._pool.poll(0.002)]
        except Exception as error:
            with self._lock:
                return [(worker, error) for worker in self._futures]


class RayPools(Workers):
    """Pools that are Ray actors of their own, `--env.num_cpus` CPUs each, together `--env.num_workers` workers.

    They are put on nodes without GPUs first, then on others than this process's, then here. One that dies, or whose node goes away, is
    started anew where there is room; its episodes are answered "died" when it is back, so that their next attempt finds it.

    Raises:
        UserError: no node has the CPUs, or the environment cannot be built there.
    """

    def __init__(self, config: EnvConfig) -> None:
        super().__init__(config.num_workers)
        count = min(config.num_pools, config.num_workers)
        self._config = config
        self._places = [(index % count, index // count) for index in range(config.num_workers)]
        sizes = [sum(pool == number for pool, _ in self._places) for number in range(count)]
        self._limits = {"step": config.step_timeout, "reset": config.reset_timeout}
        self._born: dict[int, str] = {}  # by worker: which start of its pool its episode is in
        self._hosts = _place(config, sizes)
        self.graded = _started(config, self._hosts)

    async def ask(self, worker: int, request: dict[str, Any]) -> Reply:
        """A worker's answer.

        Raises:
            StoppedError: its pool is gone for good.
        """
        from ray.exceptions import RayError, RayTaskError

        pool, index = self._places[worker]
        limit = self._limits.get(request["do"], self._limits["reset"]) + _OWN_LIMIT
        born = self._born.get(worker) if request["do"] == "step" else None
        try:
            self._born[worker], reply = await asyncio.wait_for(_answer(self._hosts[pool].ask.remote(index, request, born)), limit)
        except RayTaskError:  # the pool itself broke: the run ends, as it does for one of this process
            raise
        except (TimeoutError, asyncio.TimeoutError):
            return Reply(worker, "timeout", message=f"pool {pool} of the environments did not answer {request['do']} within {limit:g} s")
        except RayError as error:
            await self._until_back(pool, error)
            return Reply(worker, "died", message=f"pool {pool} of the environments, or its node, went away during {request['do']}")
        return replace(reply, worker=worker)

    async def _until_back(self, pool: int, cause: Exception) -> None:
        from ray.exceptions import ActorDiedError, RayError

        end = time.monotonic() + _PLACED_WITHIN + self._config.reset_timeout
        while (left := end - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(_answer(self._hosts[pool].graded.remote()), left)
                return
            except ActorDiedError as error:
                cause = error
                break
            except (TimeoutError, asyncio.TimeoutError, RayError) as error:
                cause = error
                await asyncio.sleep(1.0)
        raise StoppedError(f"pool {pool} of the environments is gone, and was not started anew: {_brief(cause)}")


class _PoolHost:
    """Body of a pool's actor.

    An answer goes with the name of this start of the pool, and a step that names another one has lost its episode. A worker is asked one thing
    at a time, whoever has stopped waiting for the last.
    """

    def __init__(self, config: EnvConfig, size: int) -> None:
        self._pool = AsyncPool(config.pool(size))
        self._born = uuid.uuid4().hex
        self._busy = [asyncio.Lock() for _ in range(size)]

    async def graded(self) -> bool:
        return self._pool.graded

    async def ask(self, worker: int, request: dict[str, Any], born: str | None) -> tuple[str, Reply]:
        if born not in (None, self._born):
            return self._born, Reply(worker, "died", message=f"the pool of environments was started anew before {request['do']}")
        async with self._busy[worker]:
            return self._born, await self._pool.ask(worker, request)


def _place(config: EnvConfig, sizes: Sequence[int]) -> list[Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cpus = config.num_cpus or 0
    here = ray.get_runtime_context().get_node_id()
    nodes = preferred_nodes(ray.nodes(), cpus, here)
    if not nodes:
        most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        raise UserError(f"--env.num_cpus is {cpus:g}, but the cluster's largest node has {most:g} CPUs; ask for fewer, or add a node")
    host = ray.remote(num_cpus=cpus, max_restarts=-1)(_PoolHost)
    options: dict[str, Any] = {"max_concurrency": max(sizes) + 1}
    started = []
    offset = int((ray.get_runtime_context().get_actor_id() or "0")[:8], 16)  # so that not all engines begin at the same node
    for number, size in enumerate(sizes, offset):
        where = NodeAffinitySchedulingStrategy(nodes[number % len(nodes)], soft=True, _spill_on_unavailable=True)
        started.append(host.options(scheduling_strategy=where, **options).remote(config, size))
    return started


def preferred_nodes(nodes: Sequence[Mapping[str, Any]], cpus: float, here: str) -> list[str]:
    """Nodes that have the CPUs at all, by id: of those without a GPU if there are any, else of those elsewhere, else here.

    >>> gpu, other = {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}
    >>> cluster = [{"NodeID": i, "Alive": True, "Resources": r} for i, r in (("a", gpu), ("b", gpu), ("c", other), ("d", {"CPU": 1.0}))]
    >>> preferred_nodes(cluster, 2, here="a"), preferred_nodes(cluster[:2], 2, here="a"), preferred_nodes(cluster[:1], 2, here="a")
    (['c'], ['b'], ['a'])
    """
    able = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus]
    without_gpu = [node["NodeID"] for node in able if not node["Resources"].get("GPU")]
    elsewhere = [node["NodeID"] for node in able if node["NodeID"] != here]
    return without_gpu or elsewhere or [node["NodeID"] for node in able]


def _started(config: EnvConfig, hosts: Sequence[Any]) -> bool:
    """Wait for the pools; whether their environment grades."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    try:
        return ray.get([host.graded.remote() for host in hosts], timeout=_PLACED_WITHIN + config.reset_timeout)[0]
    except GetTimeoutError as error:
        raise UserError(
            f"the environments' {len(hosts)} pool(s) of {config.num_cpus:g} CPUs (--env.num_pools, --env.num_cpus) were not placed within "
            f"{_PLACED_WITHIN:g} s: others hold the CPUs; `ray status` tells how many are in use"
        ) from error
    except RayActorError as error:
        raise UserError(f"a pool of environments did not start on its node: {_brief(error)}") from error


async def _answer(reference: Any) -> Any:
    return await reference


def _brief(error: Exception) -> str:
    """The line that tells what it was: Ray puts tracebacks around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Borrowed:
    def __init__(self, idle: asyncio.Queue[int]) -> None:
        self._idle = idle

    async def __aenter__(self) -> int:
        self._worker = await self._idle.get()
        return self._worker

    async def __aexit__(self, *_: object) -> None:
        self._idle.put_nowait(self._worker)


def _settle(future: asyncio.Future[Reply], answer: Reply | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
