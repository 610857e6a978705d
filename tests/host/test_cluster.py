"""PPO on Ray clusters of two and four nodes on one machine that do not see the driver's folder: each raylet has a mount namespace of its own."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import free_port, stop_ray
from test_ppo import ppo
from test_ppo_estimators import GAME

RAY = str(Path(sys.executable).with_name("ray"))
PARTS = {"RolloutRayActor", "PolicyModelActor", "CriticModelActor", "PRMModelActor"}
PRIVATE = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not PRIVATE, reason="nodes without shared files need the right to make mount namespaces"),
]


@pytest.fixture
def cluster(tmp_path):
    """Starts a cluster whose head holds the driver alone, and nodes with GPUs (logical ones) to which the folder is empty; its address."""
    started = []

    def start(nodes, hidden):
        hidden.mkdir()
        port = free_port()
        common = ["--disable-usage-stats", "--block"]
        head = [RAY, "start", "--head", "--port", str(port), "--num-cpus", "0", "--num-gpus", "0", "--include-dashboard", "false", *common]
        node = [RAY, "start", "--address", f"127.0.0.1:{port}", "--num-cpus", "8", "--num-gpus", str(4 // nodes), *common]
        lines = [head] + [["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(hidden), *node]] * nodes
        for number, line in enumerate(lines):  # one after the other: two at once take the same socket
            log = tmp_path / f"node{number}.log"
            with log.open("w") as file:
                started.append(subprocess.Popen(line, stdout=file, stderr=file))
            end = time.monotonic() + 300
            while "Ray runtime started" not in log.read_text():
                assert started[-1].poll() is None and time.monotonic() < end, log.read_text()[-2000:]
                time.sleep(0.2)
        return f"127.0.0.1:{port}"

    yield start
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait(60)
    stop_ray()


def places(address):
    """The nodes of the run's actors, by class, and the head's."""
    import ray
    from ray._private import state

    ray.init(address=address, log_to_driver=False)
    try:
        found = {}
        for actor in state.actors().values():
            found.setdefault(actor["ActorClassName"].rpartition(".")[2], set()).add(actor["Address"]["NodeID"])
        return found, ray.get_runtime_context().get_node_id()
    finally:
        ray.shutdown()


@pytest.mark.parametrize("nodes", [2, 4])
def test_a_run_over_nodes_that_share_no_files(nodes, cluster, tiny, prm, tmp_path):
    out = tmp_path / "out"
    address = cluster(nodes, out)
    placed = ["--env.num_cpus", 2, "--env.num_pools", 2] if nodes == 4 else []
    found, _ = ppo(
        *GAME, *placed, "--env.num_tasks", 16, "--env.eval_tasks", 4, "--eval.steps", 2, "--actor.model_name_or_path", tiny,
        "--critic.model_name_or_path", tiny, "--prm.model_name_or_path", prm, "--algo.advantage.estimator", "turn_gae",
        "--algo.advantage.process_reward", "progress",
        "--algo.kl.init_coef", 0, "--ckpt.output_dir", out, "--ckpt.path", out / "state", env={**os.environ, "RAY_ADDRESS": address},
    )  # fmt: skip
    assert sorted(found) == [1, 2]
    assert all(math.isfinite(status["policy_loss"]) and math.isfinite(status["process/reward_mean"]) for status in found.values())
    where, head = places(address)
    used = set().union(*(where[part] for part in PARTS))
    assert len(used) == nodes and head not in used
    if nodes == 4:  # of two, Ray chooses who shares one
        assert where["PRMModelActor"] != where["RolloutRayActor"], "the PRM on one node, the engine on another"
        assert len(where["_PoolHost"]) == 2 and not where["_PoolHost"] & (where["RolloutRayActor"] | {head}), "environments on others"
    assert head not in where["PPOTrainer"], "its prompts came with it"
    assert (out / "agentprm/prompts.jsonl").is_file() and not (out / "config.json").exists(), "the policy is on its node"
