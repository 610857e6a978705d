"""A third party's environments: a counting game, and one that breaks on purpose."""

import hashlib
import os
import sys
import time

import gymnasium


class Count(gymnasium.Env):
    """Say "up" until the number in the goal is reached, then "stop"."""

    def tasks(self, split):
        return [f"{split}-{i}" for i in range(500)]

    def reset(self, *, seed=None, options=None):
        self.task = (options or {}).get("task_id", "train-0")
        self.goal = int(hashlib.sha256(self.task.encode()).hexdigest(), 16) % 3
        self.n = 0
        return f"at {self.n}", {"instruction": f"count to {self.goal}"}

    def expert_action(self):
        return "stop" if self.n == self.goal else "up"

    def admissible_actions(self):
        return ["up", "stop"]

    def step(self, action):
        if action == "stop":
            return "", 1.0, True, False, {"valid_action": True, "success": self.n == self.goal}
        self.n += action == "up"
        return f"at {self.n}", 0.0, False, False, {"valid_action": action == "up", "success": False}


class Faulty(Count):
    """Every tenth task raises, hangs or exits in its first step, every time it is played."""

    def fault(self):
        number = int(self.task.rpartition("-")[2])
        return ("raise", "hang", "exit")[number // 10 % 3] if number % 10 == 0 else ""

    def step(self, action):
        kind = self.fault()
        if kind == "raise":
            raise RuntimeError("broken on purpose")
        if kind == "hang":
            time.sleep(3600)
        if kind == "exit":
            print("noise on the standard output")
            sys.stdout.flush()
            os._exit(3)
        return super().step(action)


class Moody(Count):
    """Shows another word at every reset, whatever the seed."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return f"{observation} {time.monotonic_ns()}", info


class Vague(Count):
    """Leaves out of `info` what its task names, or gives it another type."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {} if "instruction" in self.task else info

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if "valid_action" in self.task:
            info["valid_action"] = 1
        if "success" in self.task:
            info["success"] = None
        return observation, reward, terminated, truncated, info
