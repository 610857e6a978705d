"""A third party's environments: a counting game, and one that breaks on purpose."""

import hashlib
import os
import signal
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


class Saved(Count):
    """Its states can be kept."""

    def snapshot(self):
        return self.task, self.goal, self.n

    def restore(self, state):
        self.task, self.goal, self.n = state


class Patient(Count):
    """Counts no further than to its goal, and waits for "stop" as long as the step limit lets it: to dawdle costs nothing, to go on for ever all."""

    def step(self, action):
        observation, *rest = super().step(action)
        self.n = min(self.n, self.goal)
        return (f"at {self.n}" if observation else ""), *rest


def break_by(kind):
    if kind == "raise":
        raise RuntimeError("broken on purpose")
    if kind == "hang":
        time.sleep(3600)
    if kind == "exit":
        print("noise on the standard output")
        sys.stdout.flush()
        os._exit(3)


class Faulty(Count):
    """Every tenth task raises, hangs or exits in its first step, or in its reset, every time it is played; or no reset works."""

    def __init__(self, where="step"):
        self.where = where

    def fault(self):
        number = int(self.task.rpartition("-")[2])
        return ("raise", "hang", "exit")[number // 10 % 3] if number % 10 == 0 else ""

    def reset(self, *, seed=None, options=None):
        answer = super().reset(seed=seed, options=options)
        if self.where == "everywhere":
            raise ConnectionError("the server is gone")
        if self.where == "reset":
            break_by(self.fault())
        return answer

    def step(self, action):
        if self.where == "step":
            break_by(self.fault())
        return super().step(action)


class Accidents(Count):
    """Of a hundred tasks five raise in their first step, five hang, and one kills its process."""

    def step(self, action):
        number = int(self.task.rpartition("-")[2]) % 100
        if number == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        break_by("raise" if number < 5 else "hang" if number < 10 else "")
        return super().step(action)


class Hungry(Count):
    """`eat N` takes N MiB, and gives them back."""

    def step(self, action):
        if action.startswith("eat "):
            bytearray(int(action.removeprefix("eat ")) << 20)
        return super().step(action)


class Unbuildable(Count):
    """Raises, hangs or exits while it is built."""

    def __init__(self, how):
        break_by(how)


class Moody(Count):
    """Shows another word at every reset, whatever the seed."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return f"{observation} {time.monotonic_ns()}", info


class Odd(Count):
    """Gives what its task names: text that no tokenizer takes, or numbers that are none."""

    reward_is_graded = True

    def tasks(self, split):
        return ["\ud800"] if split == "test" else super().tasks(split)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        if "observation" in self.task:
            observation = "\ud800"
        if "instruction" in self.task:
            info["instruction"] = "x" * 1_000_001 if "long" in self.task else "\ud800"
        return observation, info

    def expert_action(self):
        return "\ud800" if "action" in self.task else super().expert_action()

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if "outcome" in self.task:
            info["outcome"] = float("nan")
        if "reward" in self.task:
            reward = float("inf")
        if "step" in self.task:
            observation = "\udfff"
        if "error" in self.task:
            raise RuntimeError("\ud800")
        return observation, reward, terminated, truncated, info


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


class Noted(Count):
    """Writes down each task with its first action: a look at the first prompts, before a run, plays none."""

    def __init__(self, file):
        self.file = file

    def reset(self, *, seed=None, options=None):
        self.begun = False
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if not self.begun:
            self.begun = True
            with open(self.file, "a") as file:
                file.write(f"{self.task}\n")
        return super().step(action)
