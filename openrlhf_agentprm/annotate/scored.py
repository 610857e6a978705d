"""The scores of a PRM on every episode of a store: scored once, kept in a journal from which the same command goes on, by one process or by many."""

from __future__ import annotations

import contextlib
import hashlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..data.episode import Episode
from ..data.journal import kept_journal, rows_of
from ..data.layout import Span, spans_of
from ..data.store import EpisodeStore
from .given import NO_COST

# Episodes that are scored together, which is what an interruption costs a process; fewer where one takes long.
_AT_ONCE = 256
_SLOWLY = 8


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


Judge = Callable[[Iterable[Asked]], Iterator[list[Row]]]
Reasoning = Callable[..., Any]
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
        reasoner: makes the engine of a PRM that generates, for its folder and a name of the stream of noise; by default it reasons by itself.
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
        reasoner: Reasoning | None = None,
    ) -> None:
        self.store = store
        self.prm = prm
        self.reward_model = reward_model
        self.cost: dict[str, float] = dict(NO_COST)
        self._parts, self._spread = parts, spread
        self._judge: Judge = partial(judge_by, prm, reward_model, reasoner)
        self._journal = None if folder is None else Path(folder) / f"scored-{_digest_of(prm, reward_model)}.jsonl"

    def __iter__(self) -> Iterator[tuple[Episode, torch.Tensor, torch.Tensor]]:
        """(episode, q_K, v_K), float64, of those with an outcome.

        Raises:
            UserError: another process scores into the folder, or the PRM has another vocabulary.
        """
        rows = self._all_rows()
        for episode in self._episodes():
            row = rows.get(episode.episode_id)
            if row is None:  # a collector has written it since
                continue
            yield episode, torch.tensor(row.q, dtype=torch.float64), torch.tensor(row.v, dtype=torch.float64)

    @cached_property
    def values_start(self) -> bool:
        """Whether its V(s_0) means something: it was trained, in every member of an ensemble; of a kind that tells nothing it is taken to."""
        from ..prm.kinds import records_of

        return all(record.value_trained for record in records_of(self.reward_model, self.prm))

    def _episodes(self) -> Iterator[Episode]:
        return (e for e in self.store.episodes() if e.status.has_outcome and e.turns)

    def _all_rows(self) -> dict[str, Row]:
        """The rows of all episodes, those that are missing scored now."""
        found: dict[str, Row] = {}
        seconds, tokens, missing = 0.0, 0, set()
        with contextlib.nullcontext() if self._journal is None else kept_journal(self._journal) as journal:
            kept = {(row["episode"], row["content"]): row for row in (rows_of(journal.path) if journal else ())}
            for episode in self._episodes():
                tokens += len(episode.token_ids)
                row = kept.get((episode.episode_id, _content(_asked(episode)))) if kept else None
                if row is None:
                    missing.add(episode.episode_id)
                else:
                    found[episode.episode_id] = Row(row["episode"], row["content"], row["q"], row["v"])
                    seconds += row["seconds"]
            began = time.monotonic()
            for new in self._score(missing, len(found)):
                took, began = time.monotonic() - began, time.monotonic()
                seconds += took
                found[new.episode_id] = new
                if journal:
                    journal.append({"episode": new.episode_id, "content": new.content, "q": new.q, "v": new.v, "seconds": round(took, 4)})
        self.cost |= {"scored_tokens": tokens, "scoring_seconds": round(seconds, 3)}
        return found

    def _score(self, missing: Set[str], done: int) -> Iterator[Row]:
        from tqdm import tqdm

        if not missing:
            return
        self._check(missing)
        asked = (_asked(episode) for episode in self._episodes() if episode.episode_id in missing)
        if self._spread is None:
            came = self._judge(asked)
        else:
            whole = list(asked)
            came = self._spread(self._judge, [part for i in range(self._parts) if (part := whole[i :: self._parts])])
        with tqdm(total=done + len(missing), initial=done, desc="scored", unit="ep", delay=2.0, mininterval=1.0) as bar:
            for rows in came:
                bar.update(len(rows))
                yield from rows

    def _check(self, missing: Set[str]) -> None:
        from ..prm.kinds.ensemble import checkpoints_of
        from ..prm.vocabulary import check_vocabulary

        first = list(islice((e for e in self._episodes() if e.episode_id in missing), _AT_ONCE))
        for checkpoint in checkpoints_of(self.reward_model, self.prm):  # none where it is served elsewhere
            check_vocabulary(checkpoint, str(self.store.path), first)


def judge_by(prm: str, reward_model: str, reasoner: Reasoning | None, part: Iterable[Asked]) -> Iterator[list[Row]]:
    """A `Judge`: loads the PRM where it runs, on a GPU where there is one."""
    from ..prm.kinds import is_remote, load_kind
    from ..prm.scoring import load_reward_model, reasons, score_all

    asked = iter(part)
    first = next(asked, None)
    if first is None:
        return
    kind = load_kind(reward_model, prm)
    noise = None if reasoner is None else partial(reasoner, stream=first.episode_id)  # parts do not repeat each other's noise
    model = load_reward_model(reward_model, prm, device="cuda" if torch.cuda.is_available() else "cpu", reasoner=noise)
    at_once = _SLOWLY if reasons(kind) or is_remote(reward_model, prm) else _AT_ONCE
    asked = chain([first], asked)
    while some := list(islice(asked, at_once)):
        scores = score_all(model, [a.token_ids.tolist() for a in some], [a.spans for a in some])
        yield [Row(a.episode_id, _content(a), q_K.tolist(), v_K.tolist()) for a, (q_K, v_K) in zip(some, scores, strict=True)]


def _digest_of(prm: str, reward_model: str) -> str:
    from ..prm.kinds import AUTO, kind_of
    from ..prm.kinds.identity import reward_model_digest

    name = kind_of(prm) if reward_model == AUTO else reward_model
    return hashlib.sha256(f"{name}:{reward_model_digest(name, prm)}".encode()).hexdigest()[:12]


def _asked(episode: Episode) -> Asked:
    return Asked(episode.episode_id, np.asarray(episode.token_ids, dtype=np.int32), spans_of(episode))


def _content(asked: Asked) -> int:
    return zlib.crc32(np.asarray(asked.spans, dtype=np.int32).tobytes(), zlib.crc32(asked.token_ids.tobytes()))
