"""Commands of ours, each in a process of its own, and the quickstart's recipe at a reduced size."""

import contextlib
import importlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

HANG = 2400  # seconds that only what hangs takes, on a slow and busy machine too

QUICK = {
    "vars.demonstrations": 2000,
    "vars.train_tasks": 120,
    "vars.test_tasks": 40,
    "vars.test_samples": 8,
    "vars.ppo_tasks": 96,
    "vars.workers": 24,
    "sft.train.max_epochs": 5,
    "agentprm.train.max_epochs": 5,
    "agentprm.train.batch_size": 32,
    "agentprm.train.micro_batch_size": 32,
    "ppo.ckpt.save_steps": 1,
}


def run(*command, check=True, timeout=HANG, **kwargs):
    """A command of ours in a process of its own; its output in the result."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, **kwargs)
    if check:
        assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def agentprm(*arguments, **kwargs):
    return run(sys.executable, "-m", "openrlhf_agentprm.cli.main", *arguments, **kwargs)


def module(name, *arguments, **kwargs):
    return run(sys.executable, "-m", f"openrlhf_agentprm.cli.{name}", *arguments, **kwargs)


def here(name, *arguments):
    """What `module` does with a command that is refused before it starts anything, in this process, which has the imports behind it."""
    from openrlhf_agentprm.cli.boundary import run_command

    command, environment = importlib.import_module(f"openrlhf_agentprm.cli.{name}").main, dict(os.environ)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_command(command, [str(a) for a in arguments])
        except SystemExit as left:
            code = left.code
        finally:
            os.environ.clear()
            os.environ.update(environment)
    return subprocess.CompletedProcess([name, *arguments], code or 0, out.getvalue(), err.getvalue())


def changes(values):
    return [text for key, value in values.items() for text in ("--set", f"{key}={value}")]


def deepspeed(name, *arguments, processes=1, **kwargs):
    launcher = Path(sys.executable).with_name("deepspeed")
    line = [launcher, "--num_gpus", processes, "--master_port", free_port(), "--module", f"openrlhf_agentprm.cli.{name}", *arguments]
    return run(*line, **kwargs)


def stop_ray():
    """Kill every Ray process that a test has started, and forget its address; the machine's other Rays stay."""
    mine = os.environ["RAY_TMPDIR"]
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == mine and any(
                "ray" in Path(part).parts or "ray::" in part for part in process.cmdline()
            ):
                process.kill()
                process.wait(10)
        except psutil.Error:
            continue
    Path(mine, "ray/ray_current_cluster").unlink(missing_ok=True)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
