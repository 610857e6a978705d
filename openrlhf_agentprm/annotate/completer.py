"""Playing completions into a store that any number of label methods may share, and that a kill cannot hurt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..data.episode import Episode
from ..data.files import write_whole
from ..data.store import EpisodeStore, EpisodeWriter
from ..rollout.builder import Assignment
from .completions import State, assignments, tally

_NOTE = ".completions.json"


class Completer:
    """`Complete` by a policy: plays what the store of completions lacks.

    Args:
        folder: the store of completions.
        play: plays assignments and gives out the episodes as they finish.
        policy, policy_digest, sampling, seed: who completes, and how; part of a completion's identity.
    """

    def __init__(
        self,
        folder: str | Path,
        play: Callable[[list[Assignment]], Iterator[Episode]],
        *,
        policy: str,
        policy_digest: str,
        sampling: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.folder = Path(folder)
        self.play = play
        self.who: dict[str, Any] = {"policy": policy, "policy_digest": policy_digest, "sampling": sampling, "seed": seed}
        self._asked: dict[str, int] = {}  # completions by id, to the number of turns before each
        self._cost: dict[str, float] = {"sampled_tokens": 0, "environment_steps": 0}

    def __call__(self, states: Sequence[State], samples: int) -> dict[str, list[float]]:
        from tqdm import tqdm

        wanted = list(assignments(states, samples, **self.who))
        before = {state.key: state.turns for state, _ in wanted}
        ids = {a.episode_id: before[state.key] for state, a in wanted}
        with EpisodeWriter(self.folder) as writer:
            missing = [a for _, a in wanted if a.episode_id not in writer.ids]
            began = time.monotonic()
            bar = tqdm(
                total=len(wanted), initial=len(wanted) - len(missing), desc="completions", unit="ep", mininterval=1.0, smoothing=0.05
            )
            try:
                for episode in self.play(missing) if missing else ():
                    writer.add(episode)
                    bar.update()
            finally:
                bar.close()
                self._note(time.monotonic() - began if missing else 0.0)
            if lost := sum(a.episode_id not in writer.ids for a in missing):
                raise UserError(f"{lost} of {len(missing)} completions were not played; the others are safe, and the same command goes on")
        found = (e for e in EpisodeStore(self.folder, allow_empty=True).episodes() if e.episode_id in ids)
        outcomes, cost = tally(found, before)
        if not self._asked.keys() & ids.keys():  # asked twice costs once
            for name, value in cost.items():
                self._cost[name] += value
        self._asked |= ids
        return outcomes

    @property
    def cost(self) -> dict[str, float]:
        return {**self._cost, "completions": len(self._asked), "completion_seconds": self._seconds()}

    def _seconds(self) -> float:
        """Of all processes that filled the store."""
        note = self.folder / _NOTE
        return json.loads(note.read_text(encoding="utf-8"))["seconds"] if note.is_file() else 0.0

    def _note(self, seconds: float) -> None:
        write_whole(self.folder / _NOTE, json.dumps({"seconds": round(self._seconds() + seconds, 2)}) + "\n")
