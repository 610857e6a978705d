"""vLLM's CPU build on a machine without libnuma, and without any compiler of C++."""

import os
import shutil
import subprocess
import sys

import pytest
from launching import run

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import numa


def test_vllm_runs_on_the_stand_in(tmp_path):
    """Its kernels load with it, and vLLM's own memory binding does nothing and says so."""
    library = numa._compiled(tmp_path)
    assert numa._compiled(tmp_path) == library and len(list(library.parent.iterdir())) == 1
    code = f"""
import torch
import vllm.platforms
vllm.platforms.current_platform.import_kernels()
torch.ops._C.init_cpu_memory_env([0])
maps = open("/proc/self/maps").read()
assert {str(library)!r} in maps and maps.count("libnuma") == maps.count({str(library)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"LD_LIBRARY_PATH": library.parent}
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_missing_compiler_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="apt-get install libnuma1"):
        numa._compiled(tmp_path)


@pytest.mark.host
def test_episodes_are_sampled_where_nothing_can_be_compiled(tiny, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "lscpu").symlink_to(shutil.which("lscpu"))  # all that vLLM runs
    line = [sys.executable, "-m", "openrlhf_agentprm.cli.collect", "--env.name", "thirdparty_count", "--env.num_tasks", 4]
    line += ["--policy.model_name_or_path", tiny, "--collect.output", tmp_path / "episodes", "--collect.n_samples_per_task", 2]
    done = run(*line, env=os.environ | {"PATH": str(programs), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")})
    assert "8/8" in done.stderr, done.stderr[-2000:]
