"""With none of our flags the host computes, to the bit, what it computes without us."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.host
HERE = Path(__file__).parent

# The host with nothing but the CPU changes: Ray with the spy's hook, then the host's own command line.
PLAIN = """
import os, runpy, sys
from openrlhf_agentprm.host.cpu import CPU_ENVIRONMENT, prepare_environment
prepare_environment()
from openrlhf_agentprm.host.activate import activate, report
activate("cpu-only")
assert all(name.startswith("01") for name in report()["patches"])
import ray
variables = {"OPENRLHF_AGENTPRM_MODE": "cpu-only", "DUMP_ADVANTAGES": os.environ["DUMP_ADVANTAGES"], "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
variables |= {k: os.environ[k] for k in CPU_ENVIRONMENT}
ray.init(num_gpus=4, num_cpus=12, include_dashboard=False, runtime_env={"env_vars": variables, "worker_process_setup_hook": "dump_hook.install"})
sys.argv = ["train_ppo_ray", *sys.argv[1:]]
runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)
"""
# Our launcher; only the hook differs, which ours would name otherwise.
OURS = """
import os, sys
from openrlhf_agentprm.host import cluster
cluster._HOOK = "dump_hook.install"
original = cluster._runtime_env
def with_folder(settings):
    environment = original(settings)
    environment["env_vars"]["DUMP_ADVANTAGES"] = os.environ["DUMP_ADVANTAGES"]
    return environment
cluster._runtime_env = with_folder
from openrlhf_agentprm.cli import train_ppo_ray
train_ppo_ray.run_command(train_ppo_ray.main, sys.argv[1:])
"""


def losses(text):
    """(policy loss, critic loss, kl) of every step, as printed by the host's own logger."""
    found = []
    for line in re.findall(r"Global step \d+: (\{.*?\})\s*$", text, flags=re.M):
        status = eval(line, {"nan": float("nan"), "inf": float("inf")})  # the host logs a dict's repr
        found.append({k: status[k] for k in ("policy_loss", "critic_loss", "kl", "actor_grad_norm", "critic_grad_norm", "values")})
    return found


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("off")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"input": f"count to {i % 3} at {i}", "label": str(i)}) + "\n" for i in range(3)))
    results = {}  # one prompt a step: the host takes several in the order in which they happen to be answered
    for name, code in (("plain", PLAIN), ("ours", OURS)):
        (folder / name).mkdir()
        line = [
            sys.executable, "-c", code, "--actor.model_name_or_path", tiny, "--train.agent_func_path", HERE / "agents/scripted.py",
            "--data.prompt_dataset", prompts, "--data.input_key", "input", "--data.label_key", "label", "--data.max_len", 64,
            "--actor.num_gpus_per_node", 1, "--ref.num_gpus_per_node", 1, "--critic.num_gpus_per_node", 1, "--vllm.num_engines", 1,
            "--vllm.enforce_eager", "--vllm.gpu_memory_utilization", 0.05, "--vllm.sync_backend", "gloo", "--rollout.batch_size", 1,
            "--rollout.n_samples_per_prompt", 16, "--rollout.micro_batch_size", 8, "--train.batch_size", 8, "--train.micro_batch_size", 4,
            "--ds.zero_stage", 0, "--ds.attn_implementation", "eager", "--actor.adam.lr", 1e-3, "--critic.adam.lr", 1e-3,
            "--algo.advantage.lambd", 0.95, "--ckpt.output_dir", folder / name / "out",
        ]  # fmt: skip
        environment = os.environ | {"DUMP_ADVANTAGES": str(folder / name)}
        done = subprocess.run([str(x) for x in line], capture_output=True, text=True, timeout=1200, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        batches = [torch.load(p, weights_only=True) for p in sorted((folder / name).glob("*.pt"))]
        results[name] = (losses(done.stdout + done.stderr), batches)
    return results


def test_losses_are_the_same(both):
    plain, ours = both["plain"][0], both["ours"][0]
    assert len(plain) == len(ours) == 3 and plain == ours
    assert all(row["policy_loss"] != 0 and row["actor_grad_norm"] > 0 and row["critic_loss"] > 0 for row in plain)


def test_advantages_are_the_same_to_the_bit(both):
    plain, ours = both["plain"][1], both["ours"][1]
    assert len(plain) == len(ours) == 3
    for a, b in zip(plain, ours, strict=True):
        for x, y in zip(a, b, strict=True):
            assert all(torch.equal(x[name], y[name]) for name in x)
            assert x["advantages"].abs().sum() > 0
