"""Waits that come to an end: for GPUs that others hold, and for environments whose pool has broken."""

import asyncio

import pytest
import ray

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import cluster
from openrlhf_agentprm.host.env_pools import AsyncPool
from openrlhf_agentprm.rollout.pool import EnvPool, Timeouts


def test_gpus_that_others_hold_are_waited_for_and_told(monkeypatch, caplog):
    free = iter([{}, {"GPU": 1.0}, {"GPU": 4.0}])
    monkeypatch.setattr(ray, "available_resources", lambda: next(free))
    cluster._await_free_gpus(4, quiet=0)
    assert [r.message for r in caplog.records] == ["waiting for 4 GPUs, of which 0 are free; other jobs of this cluster hold the rest"]


def test_gpus_that_never_come_end_the_run(monkeypatch):
    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": 3.0})
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(UserError, match="asks for 4 GPUs, but after 0.6 s only 3 of the cluster's are free"):
        cluster._await_free_gpus(4, patience=0.6)


def test_where_the_pool_breaks_every_waiting_episode_fails_by_its_error(monkeypatch):
    """One of them died, the other is at a step that hangs."""

    def no_more(pool, index):
        raise RuntimeError("cannot be started")

    async def play(workers):
        for worker, task in enumerate(("train-20", "train-10")):
            await workers.ask(worker, {"do": "reset", "task_id": task, "seed": 0})
        monkeypatch.setattr(EnvPool, "_spawn", no_more)
        steps = (workers.ask(worker, {"do": "step", "action": "up"}) for worker in (1, 0))
        return await asyncio.wait_for(asyncio.gather(*steps, return_exceptions=True), 60)

    with EnvPool("thirdparty_faulty", {}, 2, Timeouts(reset=20, step=120)) as pool:
        found = asyncio.run(play(AsyncPool(pool)))
    assert [repr(answer) for answer in found] == ["RuntimeError('cannot be started')"] * 2
