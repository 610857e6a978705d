"""Play by the expert; run code in a fresh interpreter."""

import os
import subprocess
import sys


def play_expert(env, task, limit=40):
    """Actions, and the last step's (observation, reward, terminated, truncated, info)."""
    env.reset(options={"task_id": task})
    actions, last = [], None
    while len(actions) < limit and not (last and last[2]):
        actions.append(env.expert_action())
        last = env.step(actions[-1])
    return actions, last


def python(code, **variables):
    """Run code in a fresh interpreter; its last line of output."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables}, timeout=1200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
