"""Deliberately broken environments, each with the check that must fail and what it must say."""

import itertools
import random
import time

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


class BadExpert(Counter):
    def expert_action(self):
        return "down"


class BadSnapshot(Counter):
    def snapshot(self):
        return self.n

    def restore(self, state):
        self.n = state + 1


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


class Hangs(Counter):
    def step(self, action):
        for _ in itertools.count():
            time.sleep(0.01)


BROKEN = [
    (NoInstruction, "reset returns text and instruction", "info['instruction'] is None; wanted a str at reset"),
    (FourTuple, "step returns the agreed types", "wanted (observation, reward, terminated, truncated, info)"),
    (NumberObservation, "step returns the agreed types", "the observation is int; wanted str"),
    (NanReward, "step returns the agreed types", "the reward is nan; wanted a finite number"),
    (Random, "same seed and actions give the same episode", "in two instances differ at step 1"),
    (Remembers, "reset forgets the last episode", "before and after another episode differ at step 0"),
    (Shared, "two instances share no state", "beside another instance differ at step"),
    (OverlappingSplits, "splits are disjoint", "task 'same' is in 'train' and in 'validation'"),
    (RaisesOnNonsense, "nonsense is answered not raised", "raised KeyError"),
    (AcceptsNonsense, "nonsense is answered not raised", "gave valid_action=True; wanted False"),
    (LyingChoices, "admissible actions are valid", "'down' is listed as admissible"),
    (BadExpert, "the expert succeeds", "succeeded in 0 of 3 tasks"),
    (BadSnapshot, "snapshots restore the state", "run from a snapshot differ"),
    (SuccessBeforeTheEnd, "the end is told apart", "info['success'] is True while terminated is False"),
    (CloseOnce, "close can be called twice", "RuntimeError: already closed"),
    (Hangs, "step returns the agreed types", "did not return within 0.3 s"),
]
