"""A stage never outlives its runner: Ctrl-C, signals, errors of the runner's own, SIGKILL; and a run folder has one runner."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from launching import agentprm, changes
from small import kinds, small_recipe

from openrlhf_agentprm.cli.run import parsers
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.pipeline.process import run_process, signals_like_ctrl_c
from openrlhf_agentprm.pipeline.recipe import load_recipe
from openrlhf_agentprm.pipeline.run import run_recipe

CHATTY = """
import sys, time
try:
    while True:
        print("at work" * {length}, flush=True)
        time.sleep(0.01)
except KeyboardInterrupt:
    print("saving " * 100_000, flush=True)
    open({saved!r}, "w").close()
"""


def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def living(processes):
    """Those that still run; one that waits for its parent to ask for its exit code does not."""

    def lives(process):
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if lives(process)]


def start(path, *sets):
    """`agentprm run`, left to itself."""
    line = [sys.executable, "-m", "openrlhf_agentprm.cli.main", "run", str(path), *sets]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_a_stage_leaves_behind_with_its_output_open_is_not_waited_for(tmp_path):
    left = "import subprocess; print('done', subprocess.Popen(['sleep', '120'], start_new_session=True).pid, flush=True)"
    told, began = [], time.monotonic()
    with (tmp_path / "log").open("wb", buffering=0) as log, (tmp_path / "lock").open("w") as lock:
        code, tail = run_process([sys.executable, "-c", left], log, told.append, lock=lock.fileno())
    assert code == 0 and tail == told and time.monotonic() - began < 100
    os.kill(int(told[0].split()[1]), signal.SIGKILL)


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError, SystemExit])
def test_whatever_ends_the_runner_stops_the_stage_which_may_talk_while_it_saves(error, stage_of, tmp_path):
    stage_of(CHATTY.format(saved=str(tmp_path / "saved"), length=1))

    def fail(event):
        raise error

    with pytest.raises(error):
        run_recipe(load_recipe(str(small_recipe(tmp_path)), [], parsers()), on_event=fail)
    assert (tmp_path / "saved").exists(), "it has ended, and had the time and the room to save"
    assert "saving " * 100_000 in (tmp_path / "run/logs/policy0.log").read_text()


def test_a_log_that_finds_no_room_stops_the_stage(stage_of, small_disk, tmp_path):
    stage_of(CHATTY.format(saved=str(tmp_path / "saved"), length=1000))
    recipe = load_recipe(str(small_recipe(tmp_path)), [f"run_dir={small_disk}/run"], parsers())
    with pytest.raises(OSError, match="No space left|File too large"):
        run_recipe(recipe)
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_its_like_keep_what_is_done_and_the_same_command_goes_on(sign, tmp_path):
    path = small_recipe(tmp_path)
    process = start(path, *changes({"vars.tasks": 400}))
    until((tmp_path / "run/demos").is_dir)
    stages = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sign)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "what was finished is kept" in error and "Traceback" not in error
    assert stages and not living(stages)
    agentprm("run", path, *changes({"vars.tasks": 400}))
    assert json.loads((tmp_path / "run/demos/.collect.json").read_text())["episodes"] == 400


def test_handlers_are_put_back_and_a_signal_that_is_ignored_stays_ignored():
    before, terminating = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), signals_like_ctrl_c():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "nohup agentprm run outlives its terminal"
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is terminating and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


LAUNCHED = """
name: launched
stages:
  sft:
    command: train_sft
    launcher: deepspeed
    processes: 2
    flags: {model.model_name_or_path: nowhere, data.dataset: nowhere, ckpt.output_dir: "${output}"}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize("launcher", ["python", pytest.param("deepspeed", marks=pytest.mark.host)])
def test_a_killed_runner_takes_its_stage_along(launcher, tmp_path):
    path = small_recipe(tmp_path)
    if launcher == "deepspeed":
        path.write_text(LAUNCHED)
    process = start(path, *changes({"run_dir": tmp_path / "run", **({"vars.tasks": 400} if launcher == "python" else {})}))
    runner = psutil.Process(process.pid)

    def launched():
        with contextlib.suppress(psutil.Error):  # one has ended meanwhile
            return any("--local_rank=0" in stage.cmdline() for stage in runner.children(recursive=True))

    until((tmp_path / "run/demos").is_dir if launcher == "python" else launched)
    running = runner.children(recursive=True)
    process.kill()
    process.communicate()
    assert running
    until(lambda: not living(running), seconds=10)


def test_a_run_folder_has_one_runner(tmp_path):
    recipe = load_recipe(str(small_recipe(tmp_path)), [], parsers())

    def start_another(event):
        if event.kind == "done":
            with pytest.raises(UserError, match=rf"\(process {os.getpid()}\) is at work in {tmp_path}/run; .* --set run_dir=FOLDER"):
                run_recipe(recipe)

    run_recipe(recipe, last="policy0", on_event=start_another)
    assert kinds(tmp_path / "small.yaml") == [("policy0", "skipped"), ("demos", "done")], "the folder is free again"


@pytest.mark.parametrize("end, code", [("sys.exit(3)", "3"), ("os.kill(os.getpid(), signal.SIGKILL)", "-9"), ("os.abort()", "-6")])
def test_a_stages_end_is_told_as_it_was(end, code, stage_of, tmp_path):
    stage_of(f"import os, signal, sys; print('last words', flush=True); {end}")
    with pytest.raises(RuntimeError, match=rf"stage 'policy0' ended with code {code}; (.|\n)*last words"):
        run_recipe(load_recipe(str(small_recipe(tmp_path)), [], parsers()))
