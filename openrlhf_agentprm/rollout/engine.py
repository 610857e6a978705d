"""What an episode needs of an inference engine: token ids in, token ids out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """How actions are sampled; part of an episode's identity, but for a seed of the request's own, where it is to have one.

    Args:
        by_turn: temperatures of the first turn, the second, …, in place of one for all; the last one stays.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    by_turn: tuple[float, ...] = ()

    def identity(self) -> dict[str, Any]:
        by_turn = {"turn_temperatures": list(self.by_turn)} if self.by_turn else {}
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, **by_turn}

    def at(self, turn: int) -> Sampling:
        """How the action of a turn is sampled."""
        return replace(self, temperature=self.by_turn[min(turn, len(self.by_turn) - 1)], by_turn=()) if self.by_turn else self


@dataclass(frozen=True)
class Sampled:
    """A finished completion. `finish_reason`: "stop" (a stop token, which is the last of `token_ids`) or "length"."""

    request_id: str
    token_ids: list[int]
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "stop"


class Engine(Protocol):
    """Completions of many prompts at once."""

    max_model_len: int

    def submit(self, request_id: str, token_ids: Sequence[int], sampling: Sampling, max_tokens: int, stop_token_ids: Sequence[int]) -> None:
        """Queue a completion."""

    def step(self) -> list[Sampled]:
        """Advance by one step of the engine; what has finished."""

    @property
    def unfinished(self) -> int:
        """Completions under way."""

    def close(self) -> None: ...


def stream_seed(seed: int, stream: str) -> int:
    """A sampler's seed, of 31 bits: another one for each named part of a job, since the same one again would sample near-copies of other parts."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{stream}".encode()).digest()[:4], "little") >> 1
