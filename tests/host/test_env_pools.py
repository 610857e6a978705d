"""Environments in pools that Ray places, by real Ray: the same answers as in pools of this process, deaths told, and what cannot be placed."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from openrlhf_agentprm.core.errors import StoppedError, UserError
from openrlhf_agentprm.host.env_pools import AsyncPool, RayPools
from openrlhf_agentprm.rollout.config import EnvConfig

pytestmark = pytest.mark.host
CONFIG = EnvConfig("thirdparty_count", num_workers=5, num_cpus=0.5, num_pools=2)


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


async def an_episode(workers, task="train-2"):
    async with workers.worker() as worker:
        requests = [{"do": "reset", "task_id": task, "seed": 0}, *({"do": "step", "action": a} for a in ("up", "nonsense", "up", "stop"))]
        replies = []
        for request in requests:
            replies.append(await workers.ask(worker, request))
            if replies[-1].kind != "ok" or replies[-1].value.get("terminated"):
                break
        return worker, [(reply.kind, reply.value) for reply in replies]


async def many(workers, count):
    return await asyncio.gather(*(an_episode(workers) for _ in range(count)))


def test_placed_pools_answer_as_those_of_this_process(cluster):
    with CONFIG.pool() as pool:
        here = asyncio.run(many(AsyncPool(pool), 5))
    placed = RayPools(CONFIG)
    there = asyncio.run(many(placed, 12))
    assert {worker for worker, _ in there} == set(range(5)) and not placed.graded
    assert [answers for _, answers in there] == [here[0][1]] * 12 and len(here[0][1]) > 2


def processes(cluster):
    """Of the pools that are alive."""
    from ray._private import state

    return [a["Pid"] for a in state.actors(actor_state_name="ALIVE").values() if a["ActorClassName"] == "_PoolHost"]


def alone(cluster, **changes):
    """A single pool, and its process."""
    before = set(processes(cluster))
    placed = RayPools(replace(CONFIG, num_pools=1, **changes))
    (process,) = set(processes(cluster)) - before
    return placed, process


RESET, STEP = {"do": "reset", "task_id": "train-2", "seed": 0}, {"do": "step", "action": "up"}


def test_a_pool_that_dies_is_told_when_it_is_back(cluster):
    """To the episode that waits for it, and to one that has only been sampling meanwhile."""
    placed, victim = alone(cluster, name="thirdparty_faulty", step_timeout=60.0)

    async def kill_between():
        first = [await placed.ask(worker, RESET | {"task_id": task}) for worker, task in ((0, "train-10"), (1, "train-2"))]
        hangs = asyncio.ensure_future(placed.ask(0, STEP))
        await asyncio.sleep(1)
        os.kill(victim, signal.SIGKILL)
        replies = [await hangs, await placed.ask(1, STEP)]
        return first, replies, [await placed.ask(worker, RESET) for worker in (0, 1)]

    first, replies, again = asyncio.run(kill_between())
    assert [reply.kind for reply in first] == ["ok", "ok"] and victim not in processes(cluster)
    assert [(reply.worker, reply.kind) for reply in replies] == [(0, "died"), (1, "died")]
    assert replies[0].message == "pool 0 of the environments, or its node, went away during step"
    assert replies[1].message == "the pool of environments was started anew before step"
    assert [reply.kind for reply in again] == ["ok", "ok"], "at the first attempt"


def test_a_pool_that_is_gone_for_good_ends_the_run(cluster):
    placed, _ = alone(cluster)
    cluster.kill(placed._hosts[0], no_restart=True)
    with pytest.raises(StoppedError, match="pool 0 of the environments is gone, and was not started anew"):
        asyncio.run(placed.ask(0, RESET))


def test_an_environment_that_hangs_is_told_by_its_own_limit(cluster):
    placed = RayPools(replace(CONFIG, name="thirdparty_faulty", step_timeout=1.0))
    _, answers = asyncio.run(an_episode(placed, "train-10"))
    assert [kind for kind, _ in answers] == ["ok", "timeout"]


def test_what_cannot_be_placed_or_built_is_refused(cluster):
    with pytest.raises(UserError, match="--env.num_cpus is 99, but the cluster's largest node has 2 CPUs"):
        RayPools(replace(CONFIG, num_cpus=99))
    with pytest.raises(UserError, match="a pool of environments did not start on its node: .*ended its process while it was being built"):
        RayPools(replace(CONFIG, name="thirdparty_unbuildable", args={"how": "exit"}))
