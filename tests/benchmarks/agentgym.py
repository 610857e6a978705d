"""Requests a second of the adapter for AgentGym's servers, against a server that does next to nothing, in a process of its own.

    python tests/benchmarks/agentgym.py [--seconds 5] [--instances 1 16]

The server is Python's own, with a thread for each connection, so the figure is an upper bound of what the adapter costs a step.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

SERVER = Path(__file__).parent.parent / "envs" / "agentgym_server.py"


def play(env, end, times):
    """Moves in the maze until the end; a limit begins it anew."""
    env.reset(options={"task_id": "maze_0"})
    while time.monotonic() < end:
        started = time.perf_counter()
        *_, truncated, _ = env.step("move up")
        times.append(time.perf_counter() - started)
        if truncated:
            env.reset(options={"task_id": "maze_0"})


def bare(url, end, times):
    """Requests of the same size by urllib: what any client pays that checks nothing."""
    body = json.dumps({"id": 0, "game": 0}).encode()
    while time.monotonic() < end:
        started = time.perf_counter()
        request = urllib.request.Request(f"{url}/maze/reset", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request).read()
        times.append(time.perf_counter() - started)


def measure(name, count, seconds, work):
    times = []
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(number, end, times)) for number in range(count)]
    started, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, used = time.perf_counter() - started, time.process_time() - used
    times.sort()
    middle, high = 1000 * times[len(times) // 2], 1000 * times[-len(times) // 100]
    speed = f"{len(times) / took:.0f} requests/s, median {middle:.2f} ms, p99 {high:.1f} ms, {1000 * used / len(times):.2f} ms of CPU"
    print(f"{name}, {count} at once: {speed}")


def main():
    from openrlhf_agentprm.envs.agentgym.env import make

    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 16])
    args = parser.parse_args()
    with subprocess.Popen([sys.executable, str(SERVER), "maze", "0"], stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        try:
            for count in args.instances:
                envs = [make(url, "maze") for _ in range(count)]
                measure("adapter", count, args.seconds, lambda number, end, times, envs=envs: play(envs[number], end, times))
                measure("urllib", count, args.seconds, lambda number, end, times: bare(url, end, times))
                for env in envs:
                    env.close()
        finally:
            server.kill()


if __name__ == "__main__":
    main()
