"""Ctrl-C in the stages: told in one line with exit code 130, and the same command goes on. PPO's is in tests/host/test_ppo.py."""

import json
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from launching import module

from openrlhf_agentprm.data.store import EpisodeStore

pytestmark = pytest.mark.host
GAME = [
    "--env.name",
    "thirdparty_count",
    "--env.num_tasks",
    400,
    "--env.num_workers",
    8,
    "--env.max_turns",
    3,
    "--env.max_tokens_per_turn",
    4,
]


def interrupted(name, *flags, when):
    """Ctrl-C as soon as `when()`; then the same command again, to its end."""
    line = [sys.executable, "-m", f"openrlhf_agentprm.cli.{name}", *map(str, flags)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log)
        deadline = time.monotonic() + 180
        while not when() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
        log.seek(0)
        error = log.read()
    assert process.returncode == 130 and "what was finished is kept, and the same command goes on" in error, error
    assert "Traceback" not in error.partition("interrupted;")[2]
    return lambda: module(name, *flags)


def test_while_collecting(tiny, tmp_path):
    def found():
        return len(EpisodeStore(tmp_path / "store", allow_empty=True))

    flags = [*GAME, "--policy.model_name_or_path", tiny, "--data.max_len", 128, "--collect.output", tmp_path / "store"]
    again = interrupted("collect", *flags, "--collect.n_samples_per_task", 3, when=lambda: found() >= 10)
    kept = found()
    assert 10 <= kept < 1200
    again()
    summary = json.loads((tmp_path / "store/.collect.json").read_text())
    assert found() == 1200 == kept + summary["played"]


@pytest.mark.parametrize("name", ["train_sft", "train_prm"])
def test_while_training(name, tiny, count_store, tmp_path):
    flags = [
        "--model.model_name_or_path", tiny, "--data.dataset", count_store, "--ckpt.output_dir", tmp_path / "out", "--data.max_len", 128,
        "--ds.zero_stage", 0, "--ds.attn_implementation", "sdpa", "--train.batch_size", 16, "--train.micro_batch_size", 16,
        "--train.max_epochs", 4, "--ckpt.path", tmp_path / "state", "--ckpt.save_steps", 2, "--ckpt.load_enable",
    ]  # fmt: skip
    again = interrupted(name, *flags, when=(tmp_path / "state/global_step4").is_dir)
    assert not (tmp_path / "out/config.json").exists(), "it was stopped before its end"
    again()
    assert (tmp_path / "out/config.json").exists() and (tmp_path / "state/global_step24").is_dir()
    if name == "train_prm":
        steps = [json.loads(line)["step"] for line in (tmp_path / "out/history.jsonl").read_text().splitlines()]
        assert steps == list(range(1, steps[-1] + 1)), "each step once"


def test_while_searching(tiny, tmp_path):
    output = tmp_path / "search.json"
    flags = [*GAME, "--policy.model_name_or_path", tiny, "--data.max_len", 128, "--search.methods", "1x1", "4x4", "--search.output", output]
    again = interrupted("search", *flags, when=output.exists)
    (first,) = json.loads(output.read_text())
    again()
    entries = json.loads(output.read_text())
    assert [(e["beams"], e["actions"]) for e in entries] == [(1, 1), (4, 4)] and entries[0] == first
