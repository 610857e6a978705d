"""The process that environment workers are forked from: it has the environment's package imported and nothing else.

    python -m openrlhf_agentprm.rollout.zygote FD NAME KWARGS_JSON SECONDS GIB

Over the socket FD it says "started" and, once it has built the environment (in at most SECONDS), "built". From then on it is sent one end
of a fresh socket pair for each worker wanted, forks, and answers with the worker's process id. A worker has at most GIB of data (0: any).
When the socket closes, or the zygote dies in any way, the workers die as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys

from .env_worker import EnvServer, run_worker

_PR_SET_PDEATHSIG = 1


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    name, kwargs = sys.argv[2], json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides what Ctrl-C means
    with contextlib.suppress(BrokenPipeError):  # the owner is gone, which shows below
        control.sendall(b"started\n")
        _preload(name, kwargs, float(sys.argv[4]))
        control.sendall(b"built\n")
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            break
        pid = os.fork()
        if pid == 0:
            _become_worker(control, name, kwargs, socket.socket(fileno=fds[0]), float(sys.argv[5]))
        os.close(fds[0])
        control.sendall(f"{pid}\n".encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.killpg(0, signal.SIGKILL)


def _preload(name: str, kwargs: dict[str, object], limit: float) -> None:
    """Import the environment's package before the first fork; if it fails, each worker says so in its answer."""
    signal.setitimer(signal.ITIMER_REAL, limit)  # SIGALRM ends a build that hangs, even if the owner is no longer there to do it
    with contextlib.suppress(Exception), open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        server = EnvServer(name, dict(kwargs))
        if "ok" in server.answer({"do": "warm_up"}):
            server.env.close()
    signal.setitimer(signal.ITIMER_REAL, 0)


def _become_worker(control: socket.socket, name: str, kwargs: dict[str, object], connection: socket.socket, max_memory: float) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    control.close()
    code = 1
    try:
        if max_memory:
            most = resource.getrlimit(resource.RLIMIT_DATA)[1]
            wanted = int(max_memory * 2**30)
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, most) if most == resource.RLIM_INFINITY else (min(wanted, most), most))
        run_worker(name, dict(kwargs), connection)
        code = 0
    finally:
        os._exit(code)


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
