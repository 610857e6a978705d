"""Deliberately broken environments, each with the check that must fail and what it must say."""

import itertools
import os
import random
import signal
import threading
import time
from typing import ClassVar

import gymnasium


class Counter(gymnasium.Env):
    """A correct little world: say "up" three times. The broken ones below change one thing each."""

    def tasks(self, split):
        return [f"{split}-{i}" for i in range(5)]

    def reset(self, *, seed=None, options=None):
        self.n = 0
        return f"at 0 of {(options or {}).get('task_id')}", {"instruction": "reach 3"}

    def expert_action(self):
        return "up"

    def admissible_actions(self):
        return ["up"]

    def step(self, action):
        valid = action == "up"
        self.n += valid
        done = self.n >= 3
        return f"at {self.n}", float(done), done, False, {"valid_action": valid, "success": done}


class NoInstruction(Counter):
    def reset(self, **kw):
        return super().reset(**kw)[0], {}


class FourTuple(Counter):
    def step(self, action):
        return super().step(action)[:4]


class NumberObservation(Counter):
    def step(self, action):
        return (self.n, *super().step(action)[1:])


class NanReward(Counter):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return (observation, float("nan"), *rest)


class NanOutcome(Counter):
    def step(self, action):
        *rest, info = super().step(action)
        return (*rest, info | {"outcome": float("nan")})


class OddText(Counter):
    def step(self, action):
        observation, *rest = super().step(action)
        return (observation + "\ud800", *rest)


class OddInstruction(Counter):
    def reset(self, **kw):
        return super().reset(**kw)[0], {"instruction": "x" * 1_000_001}


class Random(Counter):
    def step(self, action):
        observation, *rest = super().step(action)
        return (f"{observation} {random.random()}", *rest)


class Remembers(Counter):
    episodes = 0

    def reset(self, **kw):
        observation, info = super().reset(**kw)
        self.episodes += 1
        return f"{observation} episode {min(self.episodes, 2)}", info


class Shared(Counter):
    world = {"n": 0}

    def reset(self, **kw):
        observation, info = super().reset(**kw)
        self.world["n"] = 0
        return observation, info

    def step(self, action):
        self.world["n"] += 1
        observation, *rest = super().step(action)
        return (f"{observation} after {self.world['n']}", *rest)


class OverlappingSplits(Counter):
    def tasks(self, split):
        return ["same"]


class RaisesOnNonsense(Counter):
    def step(self, action):
        if action != "up":
            raise KeyError(action)
        return super().step(action)


class AcceptsNonsense(Counter):
    def step(self, action):
        *rest, info = super().step(action)
        return (*rest, info | {"valid_action": True})


class LyingChoices(Counter):
    def admissible_actions(self):
        return ["up", "down"]


class NamelessTool(Counter):
    def tools(self):
        return [{"name": "up", "parameters": {}}]


class OtherTools(Counter):
    made = 0

    def tools(self):
        OtherTools.made += 1
        about = {"name": f"up{self.made}", "description": "", "parameters": {"type": "object", "properties": {}}}
        return [{"type": "function", "function": about}]


class ExpertWithoutCalls(Counter):
    def tools(self):
        about = {"name": "up", "description": "One more.", "parameters": {"type": "object", "properties": {}}}
        return [{"type": "function", "function": about}]


class BadExpert(Counter):
    def expert_action(self):
        return "down"


class BadSnapshot(Counter):
    def snapshot(self):
        return self.n

    def restore(self, state):
        self.n = state + 1


class SnapshotWithoutMemory(Counter):
    """Only one who dawdles sees that the snapshot lacks a part of the state; the expert never does."""

    def reset(self, **kw):
        self.waits = 0
        return super().reset(**kw)

    def admissible_actions(self):
        return ["up", f"wait {self.waits}"]

    def step(self, action):
        if action != f"wait {self.waits}":
            return super().step(action)
        self.waits += 1
        return f"at {self.n}", 0.0, False, False, {"valid_action": True, "success": False}

    def snapshot(self):
        return self.n

    def restore(self, state):
        self.n = state


class SuccessBeforeTheEnd(Counter):
    def step(self, action):
        *rest, info = super().step(action)
        return (*rest, info | {"success": True})


class CloseOnce(Counter):
    closed = False

    def close(self):
        if self.closed:
            raise RuntimeError("already closed")
        self.closed = True


class Leaks(Counter):
    kept: ClassVar[list] = []

    def reset(self, **kw):
        self.kept.append(bytearray(1 << 19))
        self.kept[-1][::4096] = b"x" * 128  # resident
        return super().reset(**kw)


class MainThreadOnly(Counter):
    def step(self, action):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no thread of mine")
        return super().step(action)


class ForkSeen(Counter):
    home = os.getpid()

    def step(self, action):
        observation, *rest = super().step(action)
        return (observation + ("" if os.getpid() == self.home else " elsewhere"), *rest)


class SetOrder(Counter):
    """What comes first of a set of texts depends on the interpreter's hash seed."""

    def reset(self, **kw):
        observation, info = super().reset(**kw)
        return f"{observation}, near {' '.join({'ball', 'box', 'key', 'door', 'lamp', 'chair'})}", info


class ClosesAll(Counter):
    closed: ClassVar[bool] = False

    def reset(self, **kw):
        type(self).closed = False
        return super().reset(**kw)

    def step(self, action):
        observation, *rest = super().step(action)
        return (observation + (" in the dark" if self.closed else ""), *rest)

    def close(self):
        type(self).closed = True


class Hangs(Counter):
    def step(self, action):
        for _ in itertools.count():
            time.sleep(0.01)


class Exits(Counter):
    def step(self, action):
        os._exit(3)


class KilledInReset(Counter):
    def reset(self, **kw):
        os.kill(os.getpid(), signal.SIGKILL)


class HangsInC(Counter):
    """As where a library's own code never gives Python the chance to handle a signal."""

    def step(self, action):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(3600)


class ExitsInInit(Counter):
    def __init__(self):
        os._exit(3)


class HangsInInit(Counter):
    def __init__(self):
        time.sleep(3600)


class RaisesInInit(Counter):
    def __init__(self):
        raise KeyError("a missing file")


BROKEN = [
    (NoInstruction, "reset returns text and instruction", "info['instruction'] is None; wanted a str at reset"),
    (FourTuple, "step returns the agreed types", "wanted (observation, reward, terminated, truncated, info)"),
    (NumberObservation, "step returns the agreed types", "the observation is int; wanted str"),
    (NanReward, "step returns the agreed types", "the reward is nan; wanted a finite number"),
    (NanOutcome, "the end is told apart", "info['outcome'] is nan; wanted a finite number or none"),
    (OddText, "step returns the agreed types", "the observation cannot be written as UTF-8"),
    (OddInstruction, "reset returns text and instruction", "info['instruction'] has 1000001 characters"),
    (Random, "same seed and actions give the same episode", "in two instances differ at step 1"),
    (Remembers, "reset forgets the last episode", "before and after another episode differ at step 0"),
    (Shared, "two instances share no state", "beside another instance differ at step"),
    (OverlappingSplits, "splits are disjoint", "task 'same' is in 'train' and in 'validation'"),
    (RaisesOnNonsense, "nonsense is answered not raised", "raised KeyError"),
    (AcceptsNonsense, "nonsense is answered not raised", "gave valid_action=True; wanted False"),
    (LyingChoices, "admissible actions are valid", "'down' is listed as admissible"),
    (NamelessTool, "tools are told as schemas", "a tool is {'name': 'up', 'parameters': {}}; wanted {'type': 'function'"),
    (OtherTools, "tools are told as schemas", "tools() differ between two instances"),
    (ExpertWithoutCalls, "tools are told as schemas", "the expert's action is 'up'; wanted a call such as"),
    (BadExpert, "the expert succeeds", "succeeded in 0 of 3 tasks"),
    (BadSnapshot, "snapshots restore the state", "run from a snapshot differ"),
    (SnapshotWithoutMemory, "snapshots restore the state", "in the second run from a snapshot differ"),
    (SuccessBeforeTheEnd, "the end is told apart", "info['success'] is True while terminated is False"),
    (CloseOnce, "close can be called twice", "RuntimeError: already closed"),
    (Hangs, "step returns the agreed types", "did not return within 0.3 s"),
    (ClosesAll, "a closed one disturbs no other", "beside an instance that is closed differ at step 1"),
    (MainThreadOnly, "threads play apart", "in a thread: RuntimeError: no thread of mine"),
    (ForkSeen, "a fork plays the same", "here and in a forked process differ at step 1"),
    (SetOrder, "another interpreter plays the same", "with another hash seed differ at step 0"),
    (Leaks, "memory stays flat", "MiB more after 450 further episodes (5"),
]

# Only for the checker in a process of its own.
FATAL = [
    (Exits, "step returns the agreed types", "the environment's process ended during step('up') (exit status 3)"),
    (KilledInReset, "reset returns text and instruction", "ended during reset() of task 'train-0' (SIGKILL)"),
    (HangsInC, "step returns the agreed types", "step('up') had not returned after"),
]
UNBUILDABLE = [
    (ExitsInInit, "ended during building the environment (exit status 3)"),
    (HangsInInit, "building the environment did not return within 1 s"),
    (RaisesInInit, "the environment cannot be built: KeyError: 'a missing file'"),
]
