"""What a policy would do at every state of a store: actions sampled through the engine alone, no environment is played."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..data.journal import kept_journal, rows_of
from ..data.next_actions import NextActions
from ..data.store import EpisodeStore
from ..rollout.engine import Engine, Sampling, stream_seed

Key = tuple[str, int, int]
"""Episode, turn and sample."""
Prompt = tuple[np.ndarray, int]
"""An episode's token ids, int32, which its states share; and how many of them are before the action."""
Answer = tuple[Key, list[int]]
"""An action's token ids."""
_UNDER_WAY = 1024


class next_actions:
    """Registry entry `next_actions`, offline: a' ~ π(· | s_t) at every state s_t (for InversePRM, arXiv 2502.10325; no labels)."""

    @staticmethod
    def annotate(store: EpisodeStore, *, act: Actor, samples: int = 1) -> NextActions:
        """
        Args:
            act: the policy.
            samples: actions a state.
        """
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
            raise UserError(f"next_actions: samples is {samples!r}; wanted a whole number from 1")
        found = act(store, samples)
        states = sum(len(turns) for turns in found.values())
        return NextActions(found, act.cost, {"episodes": len(found), "states": states, "actions": states * samples})


@dataclass(frozen=True)
class Asker:
    """A policy that is asked for actions behind prompts; goes to other processes as it is.

    Args:
        engine: makes an engine, for a seed of its sampler.
        seed: the sampler's; each call has another stream of noise.
        sampling: of actions.
        max_len: context in tokens.
        max_tokens_per_turn: cap of tokens for one action (what the context leaves).
        stop_token_ids: tokens that end an action.
    """

    engine: Callable[[int], Engine]
    seed: int
    sampling: Sampling
    max_len: int
    max_tokens_per_turn: int | None
    stop_token_ids: list[int]

    def ask(self, prompts: Mapping[Key, Prompt]) -> Iterator[list[Answer]]:
        """Actions as they are done, in no fixed order."""
        keys = list(prompts)
        engine, next_key = self.engine(stream_seed(self.seed, str(keys[0]))), 0
        try:
            while next_key < len(keys) or engine.unfinished:
                while next_key < len(keys) and engine.unfinished < _UNDER_WAY:
                    token_ids, length = prompts[keys[next_key]]
                    room = self.max_len - length
                    budget = room if self.max_tokens_per_turn is None else min(room, self.max_tokens_per_turn)
                    engine.submit(str(next_key), token_ids[:length].tolist(), self.sampling, budget, self.stop_token_ids)
                    next_key += 1
                if answers := [(keys[int(done.request_id)], list(done.token_ids)) for done in engine.step()]:
                    yield answers
        finally:
            engine.close()


class Actor:
    """What a policy does at the states of stores, and a journal of its answers from which the same command goes on.

    Args:
        folder: of the journal; answers of another policy, temperature or seed are kept apart from these.
        ask: asks the policy, such as `Asker.ask`.
        who: policy, policy_digest, sampling and seed.
    """

    def __init__(self, folder: str | Path, ask: Callable[[Mapping[Key, Prompt]], Iterator[list[Answer]]], who: dict[str, Any]) -> None:
        self.ask = ask
        self.who = who
        name = hashlib.sha256(json.dumps(who, sort_keys=True).encode()).hexdigest()[:12]
        self.journal = Path(folder) / f"sampled-{name}.jsonl"
        self.cost: dict[str, float] = {}

    def __call__(self, store: EpisodeStore, samples: int) -> dict[str, list[list[list[int]]]]:
        """By episode and turn, the token ids of so many actions; episodes without an outcome are passed over.

        Raises:
            UserError: another process samples into the folder.
        """
        episodes = [e for e in store.episodes() if e.status.has_outcome]
        wanted = {
            (e.episode_id, k, n): (token_ids, t.action_start)
            for e in episodes
            for token_ids in [np.asarray(e.token_ids, dtype=np.int32)]
            for k, t in enumerate(e.turns)
            for n in range(samples)
        }
        with kept_journal(self.journal) as journal:
            known = {(episode, turn, sample): row["token_ids"] for row in rows_of(self.journal) for episode, turn, sample in [row["key"]]}
            known = {key: tokens for key, tokens in known.items() if key in wanted}
            began = time.monotonic()
            for key, tokens in self._sample({key: prompt for key, prompt in wanted.items() if key not in known}):
                journal.append({"key": list(key), "token_ids": tokens, "seconds": round(time.monotonic() - began, 3)})
                began = time.monotonic()
                known[key] = tokens
            seconds = sum(row["seconds"] for row in rows_of(self.journal))
        self.cost = {"sampled_tokens": sum(map(len, known.values())), "environment_steps": 0, "sampling_seconds": round(seconds, 3)}
        return {e.episode_id: [[known[e.episode_id, k, n] for n in range(samples)] for k in range(len(e.turns))] for e in episodes}

    def _sample(self, missing: dict[Key, Prompt]) -> Iterator[Answer]:
        from tqdm import tqdm

        if not missing:
            return
        with tqdm(total=len(missing), desc="next actions", unit="action", mininterval=1.0) as bar:
            for answers in self.ask(missing):
                bar.update(len(answers))
                yield from answers
