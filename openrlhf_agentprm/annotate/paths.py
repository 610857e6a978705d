"""A store as the paths of its episodes through states and actions, without making an `Episode` of each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.episode import Status
from ..data.store import EpisodeStore
from .states import state_keys

_COLUMNS = ["env", "task_id", "status", "outcome", "token_ids", "turns"]
_DELAY = 2.0  # seconds until a progress bar shows
_WITH_OUTCOME = pa.array([s.value for s in Status if s.has_outcome])


@dataclass(slots=True)
class Path:
    """An episode with an outcome.

    Args:
        rewards: of every turn; the outcome at the last turn and 0 before it, or the environment's own.
        states: a key for the state before each turn; empty unless asked for.
        actions: a key for each turn's state and action.
    """

    episode_id: str
    outcome: float
    rewards: list[float]
    states: list[bytes]
    actions: list[bytes]


def paths_of(store: EpisodeStore, *, states: bool = False, dense: bool = False) -> Iterator[Path]:
    """The paths of all episodes with an outcome, with a progress bar where it takes long.

    Args:
        states: with the keys of the states.
        dense: the environment's rewards in place of the outcome.
    """
    with progress_over(store) as bar:
        for batch in store.batches(_COLUMNS):
            bar.update(len(batch))
            batch = batch.filter(pc.is_in(batch.column("status"), value_set=_WITH_OUTCOME))
            tokens, turns = batch.column("token_ids"), batch.column("turns")
            token_ids, token_offsets = np.ascontiguousarray(tokens.values), tokens.offsets.to_pylist()
            ends, rewards = (turns.values.field(name).to_pylist() for name in ("action_end", "reward"))
            starts = turns.values.field("action_start").to_pylist() if states else []
            turn_offsets = turns.offsets.to_pylist()
            names = zip(*(batch.column(name).to_pylist() for name in ("episode_id", "env", "task_id", "outcome")), strict=True)
            for row, (episode_id, env, task_id, outcome) in enumerate(names):
                of = slice(turn_offsets[row], turn_offsets[row + 1])
                if of.start == of.stop:
                    continue
                own = rewards[of] if dense else [0.0] * (of.stop - of.start - 1) + [outcome]
                places = [place for span in zip(starts[of], ends[of], strict=True) for place in span] if states else ends[of]
                keys = state_keys(token_ids[token_offsets[row] :], places, env, task_id)
                yield Path(episode_id, outcome, own, *((keys[::2], keys[1::2]) if states else ([], keys)))


def progress_over(store: EpisodeStore) -> Any:
    """A progress bar over the episodes of a store, which shows once it has taken a while."""
    from tqdm import tqdm

    return tqdm(total=store.rows_in_shards() or None, desc="episodes", unit="ep", delay=_DELAY, mininterval=1.0)
