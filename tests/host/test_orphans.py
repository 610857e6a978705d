"""What is spawned ends with what spawned it, however that died."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

CHILD = """
import multiprocessing, os, sys, time
from openrlhf_agentprm.host.orphans import end_with_parent

def live(numbers):
    end_with_parent()
    numbers.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    children = [context.Process(target=live, args=(numbers,)) for _ in range(2)]
    for child in children:
        child.start()
    print(*[numbers.get() for _ in children], flush=True)
    time.sleep(600)
"""


def test_a_spawned_child_ends_when_its_parent_is_killed(tmp_path):
    (tmp_path / "owner.py").write_text(CHILD)
    owner = subprocess.Popen([sys.executable, tmp_path / "owner.py"], stdout=subprocess.PIPE, text=True)
    children = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
    assert len(children) == 2 and all(child.is_running() for child in children)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    end = time.monotonic() + 20
    while (left := [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


DRIVER = """
import os, subprocess, sys, time, ray

@ray.remote
class Actor:
    def pid(self):
        return os.getpid()

ray.init(address="local", num_cpus=2, include_dashboard=False)
actor = Actor.remote()
print(ray.get(actor.pid.remote()), flush=True)
time.sleep(600)
"""


@pytest.mark.host
def test_a_killed_driver_leaves_nothing_of_the_ray_that_it_started():
    owner = psutil.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    actor = psutil.Process(int(owner.stdout.readline().split()[-1]))
    family = {*owner.children(recursive=True), actor}
    assert {"raylet", "gcs_server"} <= {process.name() for process in family}
    owner.kill()
    owner.wait()
    end = time.monotonic() + 150  # Ray's own two agents try for a minute to tell a Ray that is gone
    while (left := [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, left
