"""What the driver of a PPO run says and does when a process of it is killed, on two real raylets, with small actors that bear the host's names."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.cluster_utils import Cluster

from openrlhf_agentprm.core.errors import StoppedError
from openrlhf_agentprm.host import watchdog

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"first": 1}, "include_dashboard": False})
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

        async def think(self):
            import asyncio

            await asyncio.sleep(600)

        @ray.method(concurrency_group="agentprm_watch")
        async def agentprm_turns(self):
            return await watchdog.turns_if_alive(self)

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

    on_first = {"num_cpus": 0, "resources": {"first": 0.001}}
    engine = ray.remote(**on_first, concurrency_groups={"agentprm_watch": 1})(RolloutRayActor)
    return SimpleNamespace(
        RolloutRayActor=engine, PPOTrainer=ray.remote(**on_first)(PPOTrainer), PRMModelActor=ray.remote(num_cpus=0)(PRMModelActor)
    )


@pytest.fixture
def args(tmp_path):
    return arguments(tmp_path)


def arguments(folder):
    return SimpleNamespace(
        train=SimpleNamespace(stall_timeout=0.0),
        ckpt=SimpleNamespace(path=str(folder), save_steps=-1, load_enable=False),
        critic=SimpleNamespace(model_name_or_path=None),
        agentprm=SimpleNamespace(on=True),
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
    assert "saved last: none is seen from this node in" in text and "openrlhf_agentprm.cli.train_ppo_ray --env.name 'a b'" in text
    (tmp_path / "_actor/global_step7").mkdir(parents=True)
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


def test_an_engine_answers_while_it_has_more_prompts_than_an_actor_has_calls(parts, args, unseen):
    """Ray runs 1000 calls of an asynchronous actor at once and lets others wait, so the driver's are a group of their own."""
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

    hosts = RolloutRayActor.__ray_metadata__
    assert hosts.concurrency_groups == {"agentprm_watch": 1}
    assert hosts.method_meta.concurrency_group_for_methods == {"agentprm_turns": "agentprm_watch"}
    engine = parts.RolloutRayActor.remote()
    thinking = [engine.think.remote() for _ in range(1010)]
    ray.get(engine.agentprm_turns.options(enable_task_events=False).remote(), timeout=60)
    assert not ray.wait([engine.kill_engine.remote()], timeout=1)[0], "any other call waits behind them"
    assert not ray.wait(thinking, timeout=0)[0]
    ray.kill(engine)


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
    assert text.startswith(f"a PRM worker (process {pid} on the node ") and cluster.node_id[:8] in text and "died: its node is gone" in text


_LOSES_ITS_RAYLET = """
import os, signal, time
import ray
from test_watchdog import arguments, stopped

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
trainer = ray.remote(num_cpus=0)(type("PPOTrainer", (), {"fit": lambda self: time.sleep(600)})).remote()
waiting = trainer.fit.remote()
ray.wait([waiting], timeout=1)
os.kill(ray._private.worker._global_node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
print("told:", stopped(waiting, arguments("nowhere")))
"""


def test_a_raylet_that_dies_is_named():
    """In a process of its own, which Ray ends for it soon after."""
    run = subprocess.run([sys.executable, "-c", _LOSES_ITS_RAYLET], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=180)
    assert "told: Ray's own process on this node, its raylet, died: it was killed" in run.stdout, run.stdout + run.stderr[-3000:]
    assert "saved last: none is seen from this node" in run.stdout


def actor(kind, **context):
    from ray.core.generated.common_pb2 import ActorDeathCause, ActorDiedErrorContext

    context = {"reason": ActorDiedErrorContext.WORKER_DIED} | context
    cause = ActorDeathCause(actor_died_error_context=ActorDiedErrorContext(**context))
    place = {"IPAddress": "10.0.0.1", "NodeID": "abcdef0123"}
    return {"ActorClassName": f"module.{kind}", "DeathCause": cause, "Pid": 7, "Address": place, "EndTime": 1}


def test_an_actor_that_had_not_started_is_told_so(monkeypatch):
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    early = actor("PPOTrainer", reason=ActorDiedErrorContext.NODE_DIED) | {"Pid": 0}
    monkeypatch.setattr(watchdog, "_dead_actors", lambda: [early])
    assert watchdog.Watch([], 0).death() == "the trainer (which had not started) died: its node is gone"


def test_only_parts_of_the_run_that_did_not_end_on_purpose_count(monkeypatch):
    left = "Worker exits with an exit code None. Worker exit type: INTENDED_USER_EXIT"
    table = [actor("Notebook"), actor("PRMModelActor", error_message=left), actor("_QueueActor"), actor("VLLMLock")]
    monkeypatch.setattr(watchdog, "_dead_actors", lambda: table)
    found = watchdog.Watch([], 0).death()
    assert found.startswith("a queue between generator and trainer (process 7 on the node 10.0.0.1, abcdef01) died: its process was killed")
    assert found.count("process 7") == 2 and "; then the lock of the engines (process 7" in found


def test_a_table_of_actors_that_cannot_be_read_is_no_death_and_told_once(monkeypatch, caplog):
    def look():
        raise ConnectionError("the GCS is busy")

    monkeypatch.setattr(watchdog, "_dead_actors", look)
    watchdog._warn_once.cache_clear()
    assert [watchdog.Watch([], 0).problem() for _ in range(3)] == [None] * 3
    assert caplog.text.count("a death may go unnoticed: ConnectionError: the GCS is busy") == 1


def test_what_is_finished_is_not_given_up_for_a_death(monkeypatch, args):
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(ray, "get", lambda refs: refs)
    monkeypatch.setattr(watchdog.Watch, "death", lambda self: "someone died")
    assert watchdog.get(["saved"], args, ()) == ["saved"]


@pytest.mark.parametrize(("given", "on", "limit"), [(None, True, 7200), (None, False, 0), (0.0, True, 0), (60.0, False, 60)])
def test_a_run_of_the_host_alone_has_no_limit_that_it_did_not_ask_for(given, on, limit, args):
    args.train.stall_timeout, args.agentprm.on = given, on
    assert watchdog._limit(args) == limit


def test_a_checkpoint_of_an_earlier_run_is_not_this_ones(args, tmp_path):
    (tmp_path / "_actor/global_step7").mkdir(parents=True)
    latest = tmp_path / "_actor/latest"
    latest.write_text("global_step7")
    assert "saved last: global_step7" in watchdog.how_to_go_on(args)
    os.utime(latest, (0, watchdog._BEGAN - 1))
    assert "none is seen from this node" in watchdog.how_to_go_on(args)
    args.ckpt.load_enable = True
    assert "saved last: global_step7" in watchdog.how_to_go_on(args), "this run went on from it"
    latest.write_text("global_step8")
    assert "none is seen from this node" in watchdog.how_to_go_on(args), "its folder is gone"
