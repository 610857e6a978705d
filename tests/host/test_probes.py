"""The run stops before training where the patch series is not active in a worker: told by real Ray and vLLM workers that lack it."""

import os
import subprocess
import sys

import pytest
from launching import module

pytestmark = pytest.mark.host
WITHOUT_HOOK = """
import ray
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import cluster
from openrlhf_agentprm.host.activate import activate
from openrlhf_agentprm.host.cpu import prepare_environment

prepare_environment()
activate()
ray.init(address="local", num_cpus=2, include_dashboard=False)
try:
    cluster._prove_active_in_ray()
except UserError as error:
    print(error)
"""


def test_ray_workers_without_the_series_stop_the_run():
    """That workers with it pass is seen in every PPO run."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_HOOK], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("the patch series is not active in Ray's workers on ") and "the run would not be ours" in done.stdout


def test_a_vllm_worker_without_the_series_stops_the_run(tiny, tmp_path):
    """A worker in a process of its own, whose plugins were switched off."""
    flags = [
        "--actor.model_name_or_path", tiny, "--env.name", "thirdparty_count", "--env.num_tasks", 8, "--data.max_len", 96,
        "--algo.advantage.estimator", "rloo", "--algo.kl.init_coef", 0, "--actor.num_gpus_per_node", 1, "--vllm.num_engines", 1,
        "--vllm.enforce_eager", "--rollout.batch_size", 4, "--rollout.n_samples_per_prompt", 2, "--train.batch_size", 8,
        "--ds.zero_stage", 0, "--ckpt.output_dir", tmp_path / "out",
    ]  # fmt: skip
    environment = os.environ | {"VLLM_PLUGINS": "none", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    done = module("train_ppo_ray", *flags, check=False, env=environment)
    assert done.returncode == 2 and "error: the patch series is not active in the vLLM workers of engine 0" in done.stderr, done.stderr[
        -3000:
    ]
    assert "Global step" not in done.stdout + done.stderr and "Traceback" not in done.stderr.partition("error: the patch series")[2]
