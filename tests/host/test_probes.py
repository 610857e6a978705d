"""The run stops before training where the patch series is not active in a worker: told by real Ray workers that lack it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.host
START = """
import ray
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import cluster, ppo
from openrlhf_agentprm.host.activate import activate, report
from openrlhf_agentprm.host.cpu import prepare_environment

prepare_environment()
activate()

@ray.remote(num_cpus=0)
class Engine:
    def agentprm_report(self):
        return [report(), report()]
"""
WITHOUT_HOOK = """
ray.init(address="local", num_cpus=2, include_dashboard=False)
for probe in (lambda: ppo.prove_active_in_vllm([Engine.remote()]), cluster._prove_active_in_ray):
    try:
        probe()
        print("passed")
    except UserError as error:
        print(error)
"""


def said(code):
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()


def test_workers_without_the_series_stop_the_run():
    """That workers with it pass is seen in every PPO run."""
    engine, worker = said(WITHOUT_HOOK)
    assert engine.startswith("the patch series is not active in the rollout actor of engine 0 (process ")
    assert worker.startswith("the patch series is not active in Ray's workers (process ") and worker.endswith("the run would not be ours")
