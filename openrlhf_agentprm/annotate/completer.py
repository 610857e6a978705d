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
from .completions import State, assignments

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
        self._asked: dict[str, int] = {}  # completions by id, to the number of tokens before each

    def __call__(self, states: Sequence[State], samples: int) -> dict[str, list[float]]:
        from tqdm import tqdm

        wanted = list(assignments(states, samples, **self.who))
        ids = {a.episode_id: state.position for state, a in wanted}
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
        self._asked |= ids  # asked twice costs once
        outcomes: dict[str, list[float]] = {}
        for episode in self._played(ids):
            if episode.status.has_outcome:
                outcomes.setdefault(episode.sampling["from"], []).append(episode.outcome)
        return outcomes

    @property
    def cost(self) -> dict[str, float]:
        cost = {"completions": len(self._asked), "sampled_tokens": 0, "environment_steps": 0, "completion_seconds": self._seconds()}
        for episode in self._played(self._asked):
            before = self._asked[episode.episode_id]
            cost["sampled_tokens"] += sum(max(0, t.action_end - max(t.action_start, before)) for t in episode.turns)
            cost["environment_steps"] += len(episode.turns)  # with those that rebuilt the state
        return cost

    def _played(self, ids: Mapping[str, int]) -> Iterator[Episode]:
        return (e for e in EpisodeStore(self.folder, allow_empty=True).episodes() if e.episode_id in ids)

    def _seconds(self) -> float:
        """Of all processes that filled the store."""
        note = self.folder / _NOTE
        return json.loads(note.read_text(encoding="utf-8"))["seconds"] if note.is_file() else 0.0

    def _note(self, seconds: float) -> None:
        write_whole(self.folder / _NOTE, json.dumps({"seconds": round(self._seconds() + seconds, 2)}) + "\n")
