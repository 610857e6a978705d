"""What a policy is to learn from: the best episodes of a task, turns that made progress, and pairs of a better and a worse episode."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch

from ..core.errors import UserError
from ..core.metrics import AGGREGATES, aggregate_turns
from ..data.episode import Episode
from ..data.pairs import EpisodePair, EpisodePairs
from ..data.selection import Selection
from ..data.store import EpisodeStore
from .given import NO_COST, check_choice, check_given, check_numbers
from .scored import Score, Scored

Ranked = dict[tuple[str, str, str], list[tuple[float, Episode]]]
"""By environment, task and the state that they began in: its episodes with their scores, the best first."""


class best_episodes:
    """Registry entry `best_episodes`, offline: all turns of the k best episodes of a task, for rejection-sampling fine-tuning (arXiv 2308.01825)."""

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        prm: str | None = None,
        reward_model: str = "auto",
        score: Score = Scored,
        k: int = 1,
        aggregate: str = "last",
        min_outcome: float | None = None,
    ) -> Selection:
        """
        Args:
            prm: checkpoint whose scores rank; without it the outcome does.
            reward_model: entry of the registry of reward models, or "auto": what the checkpoint says that it is.
            score: scores a store by a PRM.
            k: episodes a task, of as many as there are.
            aggregate: the score of an episode from those of its turns.
            min_outcome: episodes below it are left out before they are ranked; without a PRM None leaves out those of outcome 0.
        """
        _check("best_episodes", aggregate, prm, min_outcome, k=k)
        ranked, cost = _ranked(store, prm, reward_model, score, aggregate)
        kept: list[Episode] = []
        for episodes in ranked.values():
            wanted = [e for _, e in episodes if _reaches(e, min_outcome, ranks=prm is None)]
            kept += wanted[:k]
        if not kept:
            raise UserError(f"best_episodes: no episode of {store.path} reaches the outcome that is asked for; lower min_outcome")
        return Selection({e.episode_id: range(len(e.turns)) for e in kept}, cost, _figures(ranked, kept, sum(len(e.turns) for e in kept)))


class good_turns:
    """Registry entry `good_turns`, offline: turns whose progress Q(s_t, a_t) − V(s_t) by a PRM is above a threshold, for step-level SFT."""

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        prm: str | None = None,
        reward_model: str = "auto",
        score: Score = Scored,
        threshold: float = 0.0,
        min_outcome: float | None = None,
    ) -> Selection:
        """
        Args:
            prm: the checkpoint; V is read where it says. One that never trained a V leaves out the first turn.
            reward_model: entry of the registry of reward models, or "auto": what the checkpoint says that it is.
            score: scores a store by a PRM.
            threshold: progress has to be above it, in the unit of the PRM's scores.
            min_outcome: turns of episodes below it are left out too.
        """
        check_given("good_turns", {"prm": prm}, "a PRM's checkpoint")
        check_numbers("good_turns", {"threshold": (threshold, -math.inf, math.inf)} | _bound(min_outcome))
        scored = score(store, str(prm), reward_model)
        kept: dict[str, list[int]] = {}
        seen: Ranked = {}
        chosen: list[Episode] = []
        for episode, q_K, v_K in scored:
            seen.setdefault(_start(episode), []).append((0.0, episode))
            if not _reaches(episode, min_outcome, ranks=False):
                continue
            if not scored.values_start:
                v_K = torch.cat([torch.full_like(v_K[:1], math.nan), v_K[1:]])
            if turns := torch.nonzero(q_K - v_K > threshold).flatten().tolist():
                kept[episode.episode_id] = turns
                chosen.append(episode)
        if not kept:
            raise UserError(f"good_turns: no turn of {store.path} has progress above {threshold:g}; lower threshold")
        return Selection(kept, scored.cost, _figures(seen, chosen, sum(map(len, kept.values()))))


class ranked_pairs:
    """Registry entry `ranked_pairs`, offline: the better and the worse episode of a task, as online DPO takes them (arXiv 2502.10325)."""

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        prm: str | None = None,
        reward_model: str = "auto",
        score: Score = Scored,
        pairs: int = 1,
        aggregate: str = "last",
        margin: float = 0.0,
    ) -> EpisodePairs:
        """The best of a task's episodes with the worst, the second best with the second worst, and so on.

        Args:
            prm: checkpoint whose scores rank; without it the outcome does.
            reward_model: entry of the registry of reward models, or "auto": what the checkpoint says that it is.
            score: scores a store by a PRM.
            pairs: pairs a task, at most half as many as it has episodes.
            aggregate: the score of an episode from those of its turns.
            margin: scores of a pair have to differ by more.
        """
        _check("ranked_pairs", aggregate, prm, pairs=pairs)
        check_numbers("ranked_pairs", {"margin": (margin, 0, math.inf)})
        ranked, cost = _ranked(store, prm, reward_model, score, aggregate)
        found: list[EpisodePair] = []
        for episodes in ranked.values():
            for (high, better), (low, worse) in list(zip(episodes, reversed(episodes), strict=True))[: min(pairs, len(episodes) // 2)]:
                if high - low > margin and better.token_ids != worse.token_ids:
                    found.append(EpisodePair(better.episode_id, worse.episode_id, high - low))
        if not found:
            raise UserError(
                f"ranked_pairs: no two episodes of one task of {store.path} differ by more than the margin {margin:g}; lower it, or collect more "
                "samples a task"
            )
        outcomes = {e.episode_id: e.outcome for episodes in ranked.values() for _, e in episodes}
        figures = {
            "tasks": len(ranked),
            "pairs": len(found),
            "mean_margin": sum(p.margin for p in found) / len(found),
            "mean_outcome_chosen": sum(outcomes[p.chosen] for p in found) / len(found),
            "mean_outcome_rejected": sum(outcomes[p.rejected] for p in found) / len(found),
        }
        return EpisodePairs(found, cost, figures)


def _bound(min_outcome: float | None) -> dict[str, tuple[Any, float, float]]:
    """What `check_numbers` is to hold of it, if it is given."""
    return {} if min_outcome is None else {"min_outcome": (min_outcome, -math.inf, math.inf)}


def _check(method: str, aggregate: str, prm: str | None, min_outcome: float | None = None, **counts: Any) -> None:
    check_choice(method, "aggregate", aggregate, AGGREGATES)
    check_numbers(method, _bound(min_outcome))
    if prm is not None:
        check_given(method, {"prm": prm}, "a PRM's checkpoint")
    if wrong := [name for name, n in counts.items() if not isinstance(n, int) or isinstance(n, bool) or n < 1]:
        raise UserError([f"{method}: {name} is {counts[name]!r}; wanted a whole number from 1" for name in wrong])


def _reaches(episode: Episode, min_outcome: float | None, *, ranks: bool) -> bool:
    """Whether its outcome is enough; where the outcome ranks, and nothing is asked for, 0 is not."""
    if min_outcome is None:
        return episode.outcome > 0 or not ranks
    return episode.reaches(min_outcome)


def _start(episode: Episode) -> tuple[str, str, str]:
    """Where it began, by what the policy had seen: at its task's start, by one seed or another, or on the way of another episode."""
    seen = episode.token_ids[: episode.turns[0].action_start if episode.turns else None]
    return episode.env, episode.task_id, hashlib.blake2b(repr(seen).encode(), digest_size=16).hexdigest()


def _ranked(store: EpisodeStore, prm: str | None, reward_model: str, score: Score, aggregate: str) -> tuple[Ranked, dict[str, float]]:
    """Episodes with an outcome, by their score; equal ones in the order of their ids, which tells nothing of them."""
    ranked: Ranked = {}
    scored = score(store, prm, reward_model) if prm else None
    for value, episode in _by_prm(scored, aggregate) if scored else _by_outcome(store):
        ranked.setdefault(_start(episode), []).append((value, episode))
    for episodes in ranked.values():
        episodes.sort(key=lambda one: (-one[0], one[1].episode_id))
    return ranked, scored.cost if scored else dict(NO_COST)


def _by_prm(scored: Scored, aggregate: str) -> Iterator[tuple[float, Episode]]:
    for episode, q_K, _ in scored:
        yield float(aggregate_turns(q_K[None], torch.ones(1, len(q_K), dtype=torch.bool), aggregate)), episode


def _by_outcome(store: EpisodeStore) -> Iterator[tuple[float, Episode]]:
    return ((e.outcome, e) for e in store.episodes() if e.status.has_outcome and e.turns)


def _figures(ranked: Ranked, kept: list[Episode], turns: int) -> dict[str, Any]:
    """What was kept of what was there, and how good it is."""
    there = [e for episodes in ranked.values() for _, e in episodes]
    return {
        "tasks": len(ranked),
        "tasks_kept": len({_start(e) for e in kept}),
        "episodes": len(there),
        "episodes_kept": len(kept),
        "turns": sum(len(e.turns) for e in there),
        "turns_kept": turns,
        "mean_outcome": sum(e.outcome for e in there) / len(there),
        "mean_outcome_kept": sum(e.outcome for e in kept) / len(kept),
    }
