"""One episode: what was seen, sampled and earned, in the engine's own token ids."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import numpy as np


class Status(str, Enum):
    """How an episode ended."""

    SUCCESS = "success"
    FAILURE = "failure"  # ended by the environment without success
    TRUNCATED = "truncated"  # the step limit
    CONTEXT_OVERFLOW = "context_overflow"  # the model's context was full
    ENV_ERROR = "env_error"  # the environment raised, died or broke the protocol
    TIMEOUT = "timeout"  # the environment did not answer in time

    @property
    def has_outcome(self) -> bool:
        """False where the episode is neither success nor failure: left out of labels and statistics, and counted."""
        return self in (Status.SUCCESS, Status.FAILURE, Status.TRUNCATED)


@dataclass
class Turn:
    """One observation and the action that answered it; the action's tokens are token_ids[action_start:action_end]."""

    observation: str
    action: str
    action_start: int
    action_end: int
    reward: float = 0.0
    valid_action: bool = True


@dataclass
class Episode:
    """A finished episode. `token_ids` are what the engine saw and sampled, from the first prompt token to the last action token."""

    env: str
    task_id: str
    split: str
    seed: int
    sample: int
    policy: str
    policy_digest: str
    sampling: dict[str, Any]
    status: Status
    outcome: float
    terminated: bool
    truncated: bool
    token_ids: list[int]
    turns: list[Turn]
    logprobs: list[float] = field(default_factory=list)  # one for each token, 0 where not sampled
    instruction: str = ""
    final_observation: str = ""
    error: str = ""
    iteration: int = 0
    episode_id: str = ""

    def __post_init__(self) -> None:
        self.status = Status(self.status)
        if not self.episode_id:
            self.episode_id = episode_id(self.env, self.task_id, self.seed, self.sample, self.policy_digest, self.sampling, self.iteration)

    def reaches(self, outcome: float) -> bool:
        """Whether its outcome is at least this, in the float32 in which stores keep outcomes: 0.7 of a store is a little less than 0.7."""
        return self.outcome >= float(np.float32(outcome))

    def to_row(self) -> dict[str, Any]:
        """A JSON-safe row of the Parquet schema."""
        row = asdict(self)
        row["status"] = self.status.value
        row["sampling"] = json.dumps(self.sampling, sort_keys=True)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Episode:
        values = dict(row)
        values["sampling"] = json.loads(values["sampling"])
        values["turns"] = [Turn(**turn) for turn in values["turns"]]
        return cls(**values)


def episode_id(env: str, task_id: str, seed: int, sample: int, policy_digest: str, sampling: Mapping[str, Any], iteration: int = 0) -> str:
    """The identity of an episode: who played what, how. A policy retrained under an old name has another digest, so another id."""
    identity = json.dumps([env, task_id, seed, sample, policy_digest, dict(sampling), iteration], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def problems_of(episode: Episode) -> list[str]:
    """What makes an episode unfit for training, in words; an empty list if nothing does."""
    found = []
    if not episode.turns:
        found.append("it has no action")
    if episode.logprobs and len(episode.logprobs) != len(episode.token_ids):
        found.append(f"it has {len(episode.logprobs)} log-probabilities for {len(episode.token_ids)} tokens")
    end = 0
    for index, turn in enumerate(episode.turns):
        if turn.action_start >= turn.action_end:
            found.append(f"turn {index} has no token (span [{turn.action_start}, {turn.action_end}))")
        elif turn.action_start < max(end, 1) or turn.action_end > len(episode.token_ids):
            found.append(f"turn {index} spans [{turn.action_start}, {turn.action_end}) of {len(episode.token_ids)} tokens, after {end}")
        if not math.isfinite(turn.reward):
            found.append(f"turn {index} has the reward {turn.reward}")
        end = max(end, turn.action_end)
    if not math.isfinite(episode.outcome):
        found.append(f"its outcome is {episode.outcome}")
    return [f"episode {episode.episode_id} (task {episode.task_id}): {problem}" for problem in found]
