"""New weights in a running vLLM give what an engine started with them gives, the tied output head included."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.host

CODE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from openrlhf_agentprm.host.cpu_weights import reload_all
from openrlhf_agentprm.host.engine import VLLMEngine
from openrlhf_agentprm.rollout.engine import Sampling
policy, folder = sys.argv[1:]

def greedy(engine):
    engine._engine.reset_prefix_cache()
    engine.submit("r", [5, 6, 7, 8, 9], Sampling(temperature=0.0), 8, [])
    found = []
    while engine.unfinished:
        found += engine.step()
    return found[0].token_ids, found[0].logprobs

model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.bfloat16)
engine = VLLMEngine(policy, max_model_len=64)
old = greedy(engine)
torch.manual_seed(1)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
model.save_pretrained(folder)
AutoTokenizer.from_pretrained(policy).save_pretrained(folder)
runner = engine._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
for _ in range(2):
    reload_all(runner, [(name, p.data.clone()) for name, p in model.named_parameters()])
new = greedy(engine)
fresh = greedy(VLLMEngine(folder, max_model_len=64))
assert old != new, "the weights have changed"
assert new == fresh, (new, fresh)
"""


def test_reloaded_weights_equal_a_fresh_engine(tiny, tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE, str(tiny), str(tmp_path / "new")], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
