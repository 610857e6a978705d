"""What the driver of a PPO run says and does when a process of it is killed, on two real raylets, with small actors that bear the host's names."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import ray
from ray.cluster_utils import Cluster

from openrlhf_agentprm.core.errors import StoppedError
from openrlhf_agentprm.host import watchdog

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1, resources={"second": 2})
    ray.init(address=cluster.address, log_to_driver=False)
    yield second
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def parts(cluster):
    class RolloutRayActor:
        def __init__(self):
            self.llm, self.dead = self, False

        async def check_health(self):
            if self.dead:
                raise RuntimeError("EngineCore encountered an issue")

        async def kill_engine(self):
            self.dead = True

        async def play(self, seconds):
            import asyncio

            for _ in range(int(seconds / 0.2)):
                await asyncio.sleep(0.2)
                watchdog.turn_finished(self)
            return "played"

        async def agentprm_turns(self):
            return await watchdog.turns_of_living(self)

    class PRMModelActor:
        def pid(self):
            return os.getpid()

        def score(self):
            time.sleep(600)

    class PPOTrainer:
        def fit(self, refs=()):
            return ray.get(list(refs)) if refs else time.sleep(600)

        def fail(self):
            raise ZeroDivisionError("a fault of its own")

    return SimpleNamespace(**{kind.__name__: ray.remote(num_cpus=0)(kind) for kind in (RolloutRayActor, PRMModelActor, PPOTrainer)})


@pytest.fixture
def args(tmp_path):
    return SimpleNamespace(
        train=SimpleNamespace(stall_timeout=0.0), ckpt=SimpleNamespace(path=str(tmp_path), save_steps=-1, load_enable=False)
    )


def stopped(refs, args, engines=()):
    with pytest.raises(StoppedError) as told:
        watchdog.get(refs, args, engines)
    return str(told.value)


def test_a_killed_worker_is_named_with_what_was_saved_and_how_to_go_on(parts, args, tmp_path, monkeypatch):
    """Whether the trainer waits for it, and fails, or for something else, for ever."""
    monkeypatch.setattr("sys.argv", ["train_ppo_ray", "--env.name", "a b"])
    worker, trainer = parts.PRMModelActor.remote(), parts.PPOTrainer.remote()
    pid = ray.get(worker.pid.remote())
    fit = trainer.fit.remote([worker.score.remote()])
    os.kill(pid, signal.SIGKILL)
    text = stopped(fit, args)
    assert f"a PRM worker (process {pid} on the node " in text and "died: its process was killed" in text
    assert "no checkpoint is in" in text and "openrlhf_agentprm.cli.train_ppo_ray --env.name 'a b'" in text
    (tmp_path / "_actor").mkdir()
    (tmp_path / "_actor/latest").write_text("global_step7")
    text = stopped(trainer.fit.remote(), args)
    assert f"process {pid}" in text and "saved last: global_step7" in text and text.endswith("--env.name 'a b' --ckpt.load_enable")


@pytest.fixture
def unseen(monkeypatch):
    """The dead of other tests are not this one's."""
    seen = {actor["ActorID"] for actor in watchdog._dead_actors()}
    every = watchdog._dead_actors
    monkeypatch.setattr(watchdog, "_dead_actors", lambda: [actor for actor in every() if actor["ActorID"] not in seen])


def test_an_engine_that_died_in_its_living_actor_is_named(parts, args, unseen):
    engines = [parts.RolloutRayActor.remote() for _ in range(2)]
    ray.get(engines[1].kill_engine.remote())
    text = stopped(engines[0].play.remote(600), args, engines)
    assert "the vLLM engine 1 (process " in text and "died: its core or one of its workers (EngineCore encountered" in text


def test_an_error_that_no_death_is_behind_stays_what_it_is(parts, args, unseen, monkeypatch):
    monkeypatch.setattr(watchdog, "_PATIENCE", 1.0)
    with pytest.raises(ZeroDivisionError, match="a fault of its own"):
        watchdog.get(parts.PPOTrainer.remote().fail.remote(), args, [])


def test_only_a_run_in_which_no_turn_is_finished_stalls(parts, args, unseen, monkeypatch):
    monkeypatch.setattr(watchdog, "_EVERY", 0.5)
    args.train.stall_timeout = 4.0
    engines = [parts.RolloutRayActor.remote() for _ in range(2)]
    ray.get([engine.play.remote(0) for engine in engines])
    assert watchdog.get([engines[0].play.remote(8)], args, engines) == ["played"]
    text = stopped(parts.PPOTrainer.remote().fit.remote(), args, engines)
    assert "no engine has finished a turn for" in text and "--train.stall_timeout 4" in text and "do not answer" not in text


def test_a_node_that_goes_away_with_a_worker_is_named(parts, args, unseen, cluster):
    worker = parts.PRMModelActor.options(resources={"second": 1}).remote()
    pid = ray.get(worker.pid.remote())
    cluster.kill_raylet()
    text = stopped(parts.PPOTrainer.remote().fit.remote(), args)
    assert f"a PRM worker (process {pid} on the node " in text and cluster.node_id[:8] in text and "died: its node is gone" in text
