"""The scores of a PRM on every episode of a store: scored once, kept in a journal from which the same command goes on, by one process or by many."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..agents.digest import policy_digest
from ..data.episode import Episode
from ..data.journal import rows_of
from ..data.layout import Span, spans_of
from ..data.store import EpisodeStore
from .given import NO_COST, kept_journal

_AT_ONCE = 256  # episodes that are scored together; an interruption costs no more


class Asked(NamedTuple):
    """An episode as a PRM reads it."""

    episode_id: str
    token_ids: np.ndarray  # int32: all of a store may wait
    spans: list[Span]


class Row(NamedTuple):
    """What a PRM says of an episode; `content` tells its tokens and turns from others under the same id."""

    episode_id: str
    content: int
    q: list[float]
    v: list[float]


Judge = Callable[[Sequence[Asked]], Iterator[list[Row]]]
Spread = Callable[[Judge, Sequence[Sequence[Asked]]], Iterator[list[Row]]]
"""Has a judge score several parts at a time, elsewhere; gives the rows as they come."""


class Score(Protocol):
    """Scores the episodes of a store by a PRM: its checkpoint and its entry in the registry of reward models."""

    def __call__(self, store: EpisodeStore, prm: str, reward_model: str) -> Scored: ...


class Scored:
    """The episodes of a store with the scores of a PRM.

    Args:
        prm: its checkpoint.
        reward_model: entry of the registry of reward models, or "auto".
        folder: of the journal; scores of another PRM are kept apart from these. Without it nothing is kept.
        parts: how many parts are scored at a time, by `spread`.
        spread: without it this process scores.
        reasoner: makes the engine of a PRM that generates; by default it reasons by itself.
    """

    def __init__(
        self,
        store: EpisodeStore,
        prm: str,
        reward_model: str,
        *,
        folder: str | Path | None = None,
        parts: int = 1,
        spread: Spread | None = None,
        reasoner: Callable[[str], Any] | None = None,
    ) -> None:
        self.store = store
        self.prm = prm
        self.reward_model = reward_model
        self.cost: dict[str, float] = dict(NO_COST)
        self._parts, self._spread = parts, spread
        self._judge: Judge = partial(judge_by, prm, reward_model, reasoner)
        self._journal = None if folder is None else Path(folder) / f"scored-{self._who()}.jsonl"

    def __iter__(self) -> Iterator[tuple[Episode, torch.Tensor, torch.Tensor]]:
        """(episode, q_K, v_K), float64, of those with an outcome.

        Raises:
            UserError: another process scores into the folder, or the PRM has another vocabulary.
        """
        rows = self._all_rows()
        for episode in self._episodes():
            row = rows[episode.episode_id]
            yield episode, torch.tensor(row.q, dtype=torch.float64), torch.tensor(row.v, dtype=torch.float64)

    @property
    def values_start(self) -> bool:
        """Whether its V(s_0) means something: it was trained, in every member of an ensemble; of a kind that tells nothing it is taken to."""
        from ..prm.kinds import records_of

        return all(record.value_trained for record in records_of(self.reward_model, self.prm))

    def _episodes(self) -> Iterator[Episode]:
        return (e for e in self.store.episodes() if e.status.has_outcome and e.turns)

    def _all_rows(self) -> dict[str, Row]:
        """The rows of all episodes, those that are missing scored now."""
        with contextlib.nullcontext() if self._journal is None else kept_journal(self._journal) as journal:
            written = list(rows_of(journal.path)) if journal else []
            kept = {row["episode"]: Row(row["episode"], row["content"], row["q"], row["v"]) for row in written}
            seconds = sum(row["seconds"] for row in written)
            found, missing, tokens = {}, [], 0
            for episode in self._episodes():
                tokens += len(episode.token_ids)
                asked = Asked(episode.episode_id, np.asarray(episode.token_ids, dtype=np.int32), spans_of(episode))
                row = kept.get(episode.episode_id)
                if row is not None and row.content == _content(asked):
                    found[episode.episode_id] = row
                else:
                    missing.append(asked)
            began = time.monotonic()
            for row in self._score(missing, len(found)):
                took, began = time.monotonic() - began, time.monotonic()
                seconds += took
                found[row.episode_id] = row
                if journal:
                    journal.append({"episode": row.episode_id, "content": row.content, "q": row.q, "v": row.v, "seconds": round(took, 4)})
        self.cost |= {"scored_tokens": tokens, "scoring_seconds": round(seconds, 3)}
        return found

    def _score(self, missing: list[Asked], done: int) -> Iterator[Row]:
        from tqdm import tqdm

        if not missing:
            return
        self._check(missing[: 2 * _AT_ONCE])
        spread = [part for i in range(self._parts) if (part := missing[i :: self._parts])]
        came = self._spread(self._judge, spread) if self._spread else self._judge(missing)
        with tqdm(total=done + len(missing), initial=done, desc="scored", unit="ep", delay=2.0, mininterval=1.0) as bar:
            for rows in came:
                bar.update(len(rows))
                yield from rows

    def _check(self, some: list[Asked]) -> None:
        from ..prm.kinds.ensemble import checkpoints_of
        from ..prm.vocabulary import check_vocabulary

        names = {asked.episode_id for asked in some}
        episodes = [e for e in self._episodes() if e.episode_id in names]
        for checkpoint in checkpoints_of(self.reward_model, self.prm):  # none where it is served elsewhere
            check_vocabulary(checkpoint, str(self.store.path), episodes)

    def _who(self) -> str:
        """Of the PRM: its kind and its weights; the address or the settings of one that is served elsewhere."""
        from ..prm.kinds.ensemble import checkpoints_of

        weights = [policy_digest(checkpoint) for checkpoint in checkpoints_of(self.reward_model, self.prm)]
        settings = Path(self.prm).read_text(encoding="utf-8") if Path(self.prm).is_file() else self.prm
        who = json.dumps([self.reward_model, weights or settings])
        return hashlib.sha256(who.encode()).hexdigest()[:12]


def judge_by(prm: str, reward_model: str, reasoner: Callable[[str], Any] | None, part: Sequence[Asked]) -> Iterator[list[Row]]:
    """A `Judge`: loads the PRM where it runs, on a GPU where there is one."""
    from ..prm.scoring import load_reward_model, score_all

    model = load_reward_model(reward_model, prm, device="cuda" if torch.cuda.is_available() else "cpu", reasoner=reasoner)
    for start in range(0, len(part), _AT_ONCE):
        some = part[start : start + _AT_ONCE]
        scores = score_all(model, [asked.token_ids.tolist() for asked in some], [asked.spans for asked in some])
        yield [Row(a.episode_id, _content(a), q_K.tolist(), v_K.tolist()) for a, (q_K, v_K) in zip(some, scores, strict=True)]


def _content(asked: Asked) -> int:
    spans = [place for span in asked.spans for place in span]
    return zlib.crc32(np.asarray(spans, dtype=np.int32).tobytes(), zlib.crc32(asked.token_ids.tobytes()))
