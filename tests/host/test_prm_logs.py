"""Weights & Biases, without its server: the run file has the figures, and no file of the run has the key (its login keeps it in .netrc)."""

import os
import re
import subprocess
import sys

KEY = "0123456789" * 4
CODE = f"""
from types import SimpleNamespace as N
from openrlhf_agentprm.host.prm_logs import TrainingLog
wandb = N(key="{KEY}", org=None, project="agentprm", group=None, run_name="one")
log = TrainingLog(N(logger=N(logging_steps=2, wandb=wandb, tensorboard_dir=None), adam=N(lr=0.25)), True)
for step in range(1, 6):
    log.row({{"step": step, "loss": 1 / step, **({{"eval_auc_last": 0.625}} if step == 3 else {{}})}})
log.close()
"""


def test_a_run_on_weights_and_biases(tmp_path):
    offline = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"WANDB_MODE": "offline", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=tmp_path, env=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    [run] = tmp_path.rglob("*.wandb")
    figures = re.findall(rb"((?:train|eval)/\w+)\W{1,4}([\d.]+)", run.read_bytes())  # names and values stand in it as text
    assert {(b"train/loss", b"0.5"), (b"train/loss", b"0.25"), (b"eval/auc_last", b"0.625"), (b"eval/global_step", b"3")} <= set(figures)
    assert not {value for name, value in figures if name == b"train/loss"} - {b"0.5", b"0.25"}, "only every second step was asked for"
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != ".netrc")
    assert b"agentprm" in written and KEY.encode() not in written
