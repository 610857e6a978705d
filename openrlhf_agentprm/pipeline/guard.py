"""The process between the runner and a stage: it ends as the stage ends, and if the runner dies, even by SIGKILL, the stage dies with it.

    python -m openrlhf_agentprm.pipeline.guard RUNNER_PID COMMAND...

It leads the stage's process group. On Linux the kernel tells it of the runner's death. It then kills the whole group, since a launcher's
own children, such as deepspeed's, would outlive the launcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    runner, command = int(sys.argv[1]), sys.argv[2:]

    def look(*_: object) -> None:
        """Signals sent to the group are the stage's to answer; here they only ask whether the runner lives."""
        if os.getppid() != runner:
            os.killpg(0, signal.SIGKILL)

    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, look)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    look()
    try:
        code = subprocess.Popen(command).wait()
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if code < 0:  # the runner is to see the same signal
        with contextlib.suppress(OSError):  # SIGKILL has no handler to take back
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
