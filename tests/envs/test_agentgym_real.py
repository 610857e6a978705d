"""AgentGym's own BabyAI server, where a checkout is at hand: our environment beside it, over the adapter.

    AGENTGYM_SOURCE=AgentGym AGENTGYM_PYTHON=agentgym-venv/bin/python python -m pytest tests/envs/test_agentgym_real.py

The server is on no package registry. It wants a Python of its own: pip install fastapi uvicorn gym "gymnasium<1" matplotlib "minigrid<2.5".
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("minigrid", reason="pip install 'openrlhf-agentprm[babyai]'")
SOURCE = os.environ.get("AGENTGYM_SOURCE", "")
HOW = (
    "AGENTGYM_SOURCE names no checkout of github.com/WooooDyy/AgentGym; set it, and AGENTGYM_PYTHON to a Python with "
    'fastapi uvicorn gym "gymnasium<1" matplotlib "minigrid<2.5", to play beside its BabyAI server'
)
pytestmark = pytest.mark.skipif(not (Path(SOURCE) / "agentenv-babyai" / "agentenv_babyai").is_dir() or not SOURCE, reason=HOW)
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "side_by_side.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Where it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    start = f"import uvicorn; uvicorn.run('agentenv_babyai:app', host='127.0.0.1', port={port}, log_level='warning')"
    python = os.environ.get("AGENTGYM_PYTHON", sys.executable)
    paths = {"PYTHONPATH": str(Path(SOURCE).resolve() / "agentenv-babyai")}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([python, "-c", start], cwd=folder, env={**os.environ, **paths}, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            assert process.poll() is None, f"the server ended: {(folder / 'log').read_text()[-2000:]}"
            try:
                opener.open(url, timeout=5).read()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("level", ["GoToRedBall", "OpenRedDoor", "GoToObjS6"])
def test_every_answer_is_the_server_s(server, level, tmp_path):
    line = [sys.executable, str(BENCHMARK), "babyai", "--server", server, "--levels", level, "--seeds", "1", "--first", "1"]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, timeout=600)
    assert done.returncode == 0 and f"{level}: 2 episodes" in done.stdout and ", equal" in done.stdout, done.stdout + done.stderr
