"""PyTorch's Adam in the place of the one that DeepSpeed would compile."""

import os
import subprocess
import sys

import pytest
import torch
from launching import HANG, free_port

from openrlhf_agentprm.host.cpu_ops import multi_tensor_adam


def reference(decoupled, w, grads, *, lr, beta1, beta2, eps, wd):
    """Adam's recursion, number by number, in float64."""
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        if decoupled:
            w -= lr * wd * w
        else:
            g += wd * w
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w -= lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)) ** 0.5 + eps)
    return w


@pytest.mark.parametrize("decoupled", [0, 1])
def test_a_step_is_adams_recursion(decoupled):
    torch.manual_seed(0)
    weights = [torch.randn(3, requires_grad=True), torch.randn(2, 5, requires_grad=True)]
    start = [w.detach().clone() for w in weights]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    history = [[torch.randn_like(w) for w in weights] for _ in range(4)]
    for step, gradients in enumerate(history, 1):
        multi_tensor_adam(0, torch.zeros(1), [gradients, weights, first, second], 0.1, 0.9, 0.95, 1e-8, step, decoupled, 1, 0.2)
    for n, (weight, before) in enumerate(zip(weights, start, strict=True)):
        series = torch.stack([gradients[n].flatten() for gradients in history], dim=1).tolist()
        wanted = [
            reference(decoupled, w, g, lr=0.1, beta1=0.9, beta2=0.95, eps=1e-8, wd=0.2)
            for w, g in zip(before.flatten().tolist(), series, strict=True)
        ]
        torch.testing.assert_close(weight.detach().flatten(), torch.tensor(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stage", [0, 2])
def test_deepspeed_trains_where_nothing_can_be_compiled(stage, tmp_path):
    """The host's strategy in a process whose PATH holds no compiler: it steps as PyTorch's AdamW does, and builds nothing."""
    code = f"""
import copy, torch
from openrlhf_agentprm.host.activate import activate
from openrlhf_agentprm.host.cpu import prepare_environment
prepare_environment(alone=True)
activate()
import deepspeed
from deepspeed.ops.adam import FusedAdam
import openrlhf.utils.deepspeed.deepspeed
torch.manual_seed(0)
model = torch.nn.Linear(8, 4)
other = copy.deepcopy(model)
params = {{"lr": 0.01, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}}
config = {{"train_batch_size": 2, "gradient_clipping": 0.0, "zero_optimization": {{"stage": {stage}}}}}
config["optimizer"] = {{"type": "AdamW", "params": params}}
engine, optimizer, _, _ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
assert isinstance(engine.basic_optimizer, FusedAdam)
plain = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
for _ in range(5):
    x = torch.randn(2, 8)
    engine.backward(engine(x).square().mean())
    engine.step()
    plain.zero_grad()
    other(x).square().mean().backward()
    plain.step()
torch.testing.assert_close(engine.module.weight, other.weight, rtol=1e-5, atol=1e-6)
"""
    world = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    environment = os.environ | world | {"PATH": "", "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not os.listdir(tmp_path)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("deepspeed_allreduce_buffer")}


def test_weights_that_zero_3_gathers_are_whole(tmp_path):
    """In two processes, a large weight before small ones, whose gathers are over sooner."""
    code = """
import torch
from openrlhf_agentprm.host.activate import activate
from openrlhf_agentprm.host.cpu import prepare_environment
prepare_environment()
activate()
import deepspeed
import openrlhf.utils.deepspeed.deepspeed
deepspeed.init_distributed("gloo")
with deepspeed.zero.Init(config_dict_or_path={"train_batch_size": 2, "zero_optimization": {"stage": 3}}):
    weights = torch.nn.ParameterList([torch.full((size,), 2.0) for size in (8_000_000, 2, 2)])
for _ in range(5):
    with deepspeed.zero.GatheredParameters(list(weights)):
        assert [w.sum().item() for w in weights] == [2.0 * len(w) for w in weights]
"""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = []
    for rank in "01":
        with (tmp_path / rank).open("w") as log:
            environment = os.environ | world | {"RANK": rank, "LOCAL_RANK": rank}
            both.append(subprocess.Popen([sys.executable, "-c", code], stderr=log, env=environment))
    try:
        codes = [process.wait(timeout=HANG) for process in both]
    finally:
        for process in both:
            process.kill()
    assert codes == [0, 0], "".join((tmp_path / rank).read_text()[-2000:] for rank in "01")


def test_a_training_on_the_cpu_keeps_the_memory_that_it_frees():
    """Three blocks of 16 MB, taken and freed again and again: their pages are cleared once, unless on CUDA or where the user has a say."""
    code = """
import ctypes, resource
from openrlhf_agentprm.host.cpu import prepare_environment
prepare_environment(alone=True)
libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # no huge pages, whatever the machine's setting
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def take_and_free(size=16 << 20):
    blocks = [libc.malloc(size) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in reversed(blocks):
        libc.free(block)
take_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    take_and_free()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20)
"""

    def cleared(mode, **variables):
        """MB, of 480 that are taken."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))} | variables
        environment["OPENRLHF_AGENTPRM_MODE"] = mode
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True).stdout)

    assert cleared("cpu") < 100 < 300 < cleared("cuda")
    assert cleared("cpu", MALLOC_TRIM_THRESHOLD_="1000000") > 300
