"""The patch series: exact, refused where it does not fit, visible in tracebacks, inactive where it should be."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import parsers, patches
from openrlhf_agentprm.host.parsers import host_parser

HOST = Path(str(metadata.distribution("openrlhf").locate_file("")))
SERIES = patches.load_series("0.11.2")


def python(code, **environment):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("modes", [{"always"}, {"cpu"}, {"always", "cpu"}])
def test_every_subset_applies_and_compiles(modes):
    for path in SERIES.files(modes):
        text = (HOST / path).read_text()
        patched = SERIES.apply(path, text, modes)
        compile(patched, path, "exec")
        assert patched != text


def test_every_patch_has_a_header_and_little_context():
    for patch in SERIES.patches:
        assert set(patch.header) == {"Why", "Enables", "Upstream", "Delete when", "Active"} and patch.active in ("always", "cpu")
        assert patch.edits
    names = [patch.name for patch in SERIES.patches]
    assert names == sorted(names) and len(names) == len(set(names))


def test_an_edited_file_and_a_moved_line_are_refused():
    path = "openrlhf/utils/loss_utils.py"
    text = (HOST / path).read_text()
    with pytest.raises(UserError, match="is not the published file .* pip install --no-deps --force-reinstall openrlhf==0.11.2"):
        SERIES.apply(path, text + "\n", {"always"})
    lines = ["\n", *text.splitlines(keepends=True)]
    edits = [edit for patch in SERIES.patches for edit in patch.edits.get(path, ())]
    with pytest.raises(UserError, match="does not apply at line"):
        patches.apply_edits(lines, edits, path)


def test_another_version_is_refused_by_name(tmp_path):
    info = tmp_path / "openrlhf-0.12.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openrlhf\nVersion: 0.12.0\n")
    code = "from openrlhf_agentprm.host.activate import activate\nactivate()"
    code_, _, error = python(code, PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    assert code_ == 1 and "openrlhf 0.12.0 is installed; openrlhf-agentprm has been verified with 0.11.2 only" in error


def test_an_edited_host_is_refused_before_anything_runs(tmp_path):
    import shutil

    shutil.copytree(HOST / "openrlhf", tmp_path / "openrlhf")
    shutil.copytree(next(HOST.glob("openrlhf-*.dist-info")), tmp_path / "openrlhf-0.11.2.dist-info")
    with (tmp_path / "openrlhf/trainer/ppo_trainer.py").open("a") as file:
        file.write("# mine\n")
    code = "from openrlhf_agentprm.host.activate import activate\nactivate()"
    code_, _, error = python(code, PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    assert code_ == 1 and "openrlhf/trainer/ppo_trainer.py of the installed openrlhf 0.11.2 is not the published file" in error


def test_tracebacks_and_inspect_show_the_patched_lines_and_nothing_is_written_to_site_packages():
    code = """
import inspect, traceback
from openrlhf_agentprm.host.activate import activate, report
activate()
from openrlhf.trainer.ray import vllm_worker_wrap
try:
    vllm_worker_wrap.WorkerWrap().update_weight("w", None, None)
except Exception:
    pass
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
try:
    SamplesGenerator._process_response_into_experience(None, {"observation_tokens": [1, 2], "action_ranges": [(1, 2)], "rollout_log_probs": None,
        "prompt": "", "label": ""})
except AttributeError:
    print(traceback.format_exc())
print(inspect.getsource(SamplesGenerator._process_response_into_experience))
print(report()["patched"])
"""
    before = {p: p.stat().st_mtime_ns for p in (HOST / "openrlhf").rglob("*.py")}
    code_, out, error = python(code)
    assert code_ == 0, error
    assert "return agentprm.attach_turns(self.args, response, Experience(" in out.partition("AttributeError")[0]
    assert out.count("agentprm.attach_turns") >= 2
    assert "'openrlhf.trainer.ppo_utils.samples_generator'" in out
    assert before == {p: p.stat().st_mtime_ns for p in (HOST / "openrlhf").rglob("*.py")}


def test_with_cuda_no_cpu_change_is_active():
    code = """
from openrlhf_agentprm.host.activate import activate, report
activate("cuda")
print(all(not name.startswith("01") for name in report()["patches"]), len(report()["patches"]))
import openrlhf_agentprm.host.activate as a
print("openrlhf.utils.deepspeed.deepspeed" in a._finder.modules)
"""
    code_, out, error = python(code)
    assert code_ == 0, error
    assert out.split() == ["True", str(sum(patch.active == "always" for patch in SERIES.patches)), "False"]


def test_processes_that_no_driver_of_ours_started_are_left_alone():
    code = """
from openrlhf_agentprm.host.activate import activate_in_worker, report
activate_in_worker()
print(report()["active"])
"""
    environment = {k: v for k, v in os.environ.items() if k != "OPENRLHF_AGENTPRM_MODE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["False"]


def test_importing_the_host_first_is_refused():
    code = "import openrlhf.utils.loss_utils\nfrom openrlhf_agentprm.host.activate import activate\nactivate()"
    code_, _, error = python(code)
    assert code_ == 1 and "import openrlhf_agentprm before openrlhf" in error


@pytest.mark.parametrize("module", ["train_ppo_ray", "train_sft", "train_rm", "train_dpo"])
def test_the_hosts_parser_is_read_without_importing_the_host(module):
    import re

    source = (HOST / f"openrlhf/cli/{module}.py").read_text()
    flags = set(re.findall(r'add_argument\(\s*"(--[\w.]+)"', source))
    parser = host_parser(module)
    known = {option for action in parser._actions for option in action.option_strings}
    assert len(flags) > 40 and flags <= known


def test_a_command_line_without_a_flag_for_it_asks_for_nothing_that_needs_cuda(monkeypatch):
    for mode, wanted in (("cpu", (True, "gloo", "sdpa", 0.05)), ("cuda", (False, "nccl", "flash_attention_2", 0.95))):
        monkeypatch.setenv("OPENRLHF_AGENTPRM_MODE", mode)
        parsers._parser_code.cache_clear()
        parser = host_parser("train_ppo_ray")
        names = ("vllm.enforce_eager", "vllm.sync_backend", "ds.attn_implementation", "vllm.gpu_memory_utilization")
        assert tuple(parser.get_default(name) for name in names) == wanted
    parsers._parser_code.cache_clear()


@pytest.mark.parametrize(("cuda", "before", "after"), [(True, 700, 700), (False, 700, 10_000), (False, 0, 0), (False, 50_000, 50_000)])
def test_cpu_settings_are_not_touched_where_there_is_a_gpu(cuda, before, after):
    code = f"""
import gc, os
from openrlhf_agentprm.host import cpu
cpu.has_cuda = lambda: {cuda}
for name in cpu.CPU_ENVIRONMENT:
    os.environ.pop(name, None)
before = dict(os.environ)
gc.set_threshold({before}, 10, 10)
cpu.prepare_environment()
print(len({{k for k in cpu.CPU_ENVIRONMENT if os.environ.get(k) != before.get(k)}}), *gc.get_threshold())
"""
    changed, *threshold = python(code)[1].split()
    assert (changed == "0") == cuda and threshold == [str(after), "10", "10"]


def test_the_critic_trains_on_the_value_mask_where_there_is_one():
    """Its replay buffer gets the turns' beginnings (value_positions turn_start), or every action token (all, and without our flags)."""
    code = """
from types import SimpleNamespace
import torch
from openrlhf_agentprm.host.activate import activate
activate()
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ray.ppo_critic import CriticModelActor
from openrlhf_agentprm.core.batches import TurnBatch
from openrlhf_agentprm.core.estimators.gae import turn_gae
turn_ids_BT = torch.tensor([[0, 0, -1, 1, 1, 1, -1, 2]])
mask_BK = torch.ones(1, 3, dtype=torch.bool)
batch = TurnBatch(rewards_BK=torch.ones(1, 3), mask_BK=mask_BK, turn_ids_BT=turn_ids_BT, action_mask_BT=turn_ids_BT >= 0,
                  values_BT=torch.randn(1, 8), outcome_B=torch.ones(1))
kept = []
critic = SimpleNamespace(trainer=SimpleNamespace(replay_buffer=kept))
append = CriticModelActor.__ray_metadata__.modified_class.append
for positions in ("turn_start", "all"):
    experience = Experience(action_mask=turn_ids_BT >= 0)
    experience.value_mask = turn_gae(batch, values="critic", value_positions=positions).value_mask_BT
    append(critic, experience)
append(critic, Experience(action_mask=turn_ids_BT >= 0))
print([e.action_mask[0].int().tolist() for e in kept])
"""
    _, out, error = python(code)
    starts, every = [1, 0, 0, 1, 0, 0, 0, 1], [1, 1, 0, 1, 1, 1, 0, 1]
    assert out.strip().splitlines()[-1] == str([starts, every, every]), error[-2000:]
