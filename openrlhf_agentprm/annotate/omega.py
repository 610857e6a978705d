"""`omega`: the first fatal turn of each failed episode, by a binary search over completions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.bisection import Bounds, selection_score
from ..core.errors import UserError
from ..core.montecarlo import soft_mean
from ..data.episode import Episode
from ..data.sidecar import Sidecar
from ..data.store import EpisodeStore
from .completions import Complete, State, StoreStates, outcomes_table
from .given import Rows, check_choice, check_numbers
from .montecarlo import check_samples


class omega:
    """Registry entry `omega`, offline: OmegaPRM (arXiv 2406.06592) over the tree that a task's episodes make.

    Behind the first turn whose completions all fail (MC = 0) everything is 0; a turn before it has its MC. ⌈log2 K⌉ states of a failed episode of
    K turns are completed, not K. What is ours: the tree is that of the store, so its episodes are the rollouts that are searched and completions
    do not grow it; a search begins behind the last state from which some episode succeeded; a turn before the fatal one whose state was not
    completed takes the share of the episodes through it that succeed, and has no label if none did.
    """

    @staticmethod
    def scale(options: Mapping[str, Any]) -> str:
        """Hard labels are verdicts, soft ones shares of successes."""
        return "judgement" if options.get("label") == "hard" else "probability"

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        complete: Complete,
        samples: int = 8,
        label: str = "soft",
        searches: int = 0,
        alpha: float = 0.5,
        beta: float = 0.9,
        c_puct: float = 0.125,
        scale: float = 500,
    ) -> Sidecar:
        """
        Args:
            complete: plays the completions.
            samples: k, completions of a state.
            label: "soft": MC before the fatal turn; "hard": 1 there, and at every turn of an episode that succeeds.
            searches: failed episodes of a task that are searched, the most promising by `core.bisection.selection_score`; 0 is all.
            alpha, beta, c_puct, scale: of that score; lengths are in tokens.
        """
        check_samples(samples)
        check_choice("omega", "label", label, ("soft", "hard"))
        check_numbers(
            "omega", {"alpha": (alpha, 0, 1), "beta": (beta, 0, 1), "c_puct": (c_puct, 0, math.inf), "scale": (scale, 1, math.inf)}
        )
        if not isinstance(searches, int) or searches < 0:
            raise UserError(f"omega: searches is {searches!r}; wanted a whole number of failed episodes a task, or 0 for all")
        found = StoreStates.of(store)
        share = _shares(found)
        failed = [_Search.of(episode, path, share) for episode, path in found.paths if episode.outcome <= 0]
        chosen = _chosen(failed, share, searches, alpha=alpha, beta=beta, c_puct=c_puct, scale=scale) if searches else failed
        mc = _search(chosen, complete, samples)
        bounds = {search.episode.episode_id: search.bounds for search in failed}
        rows = Rows()
        for episode, path in found.paths:
            values = [_known(state.key, mc, share) for state in path[1:]] + [episode.outcome]
            rows.add(episode.episode_id, _targets(values, bounds.get(episode.episode_id), hard=label == "hard"))
        figures = {
            "failed_episodes": len(failed),
            "searched": len(chosen),
            "undecided": sum(search.undecided for search in chosen),
            "states_completed": len(mc),
            "most_states_of_an_episode": max((len(search.asked) for search in chosen), default=0),
            "mean_fatal_turn": sum(s.bounds.high for s in chosen if s.bounds.found) / max(1, sum(s.bounds.found for s in chosen)),
        }
        return rows.sidecar(complete.cost, figures, f"omega: no turn of {store.path} has a label")


@dataclass
class _Search:
    """The search of one failed episode.

    Args:
        path: its states, that before turn t at t.
        asked: states that were completed for it.
        undecided: no completion of a state that it asked for has an outcome, so it stands still.
    """

    episode: Episode
    path: list[State]
    bounds: Bounds
    asked: set[str] = field(default_factory=set)
    undecided: bool = False

    @classmethod
    def of(cls, episode: Episode, path: list[State], share: Mapping[str, float]) -> _Search:
        alive = [turn for turn, state in enumerate(path[1:]) if share[state.key] > 0]
        return cls(episode, path, Bounds(alive[-1] + 1 if alive else 0, len(path) - 1))

    @property
    def probe(self) -> State:
        """The state behind the turn whose value is wanted next."""
        return self.path[self.bounds.probe + 1]

    @property
    def goes_on(self) -> bool:
        return not (self.bounds.found or self.undecided)


def _shares(found: StoreStates) -> dict[str, float]:
    """Of the episodes through each state the share that succeeds."""
    through: Counter[str] = Counter()
    succeeded: Counter[str] = Counter()
    for episode, path in found.paths:
        through.update(state.key for state in path)
        succeeded.update(state.key for state in path if episode.outcome > 0)
    return {key: succeeded[key] / count for key, count in through.items()}


def _chosen(searches: Sequence[_Search], share: Mapping[str, float], most: int, **rule: float) -> list[_Search]:
    """The most promising of every task, one after another, each counting as a visit of the state that its search begins from."""
    tasks: dict[str, list[_Search]] = {}
    for search in searches:
        if not search.bounds.found:
            tasks.setdefault(search.path[0].key, []).append(search)
    chosen = []
    for open_ones in tasks.values():
        visits: Counter[str] = Counter()
        for turn in range(min(most, len(open_ones))):
            best = max(open_ones, key=lambda s: _score(s, share, visits, turn, rule))
            open_ones.remove(best)
            visits[best.path[best.bounds.low].key] += 1
            chosen.append(best)
    return chosen


def _score(search: _Search, share: Mapping[str, float], visits: Mapping[str, int], all_visits: int, rule: Mapping[str, float]) -> float:
    low = search.bounds.low
    key, length = search.path[low].key, len(search.episode.token_ids) - search.episode.turns[low].action_start
    return selection_score(share[key], length, visits.get(key, 0), all_visits, **rule)


def _search(searches: Sequence[_Search], complete: Complete, samples: int) -> dict[str, float]:
    """Narrow every search down to its turn, all of them side by side: one call of `complete` for each halving."""
    mc: dict[str, float] = {}
    while wanted := {s.probe.key: s.probe for s in searches if s.goes_on and s.probe.key not in mc}:
        for search in searches:
            if search.goes_on and search.probe.key in wanted:
                search.asked.add(search.probe.key)
        states = list(wanted.values())
        values_S = soft_mean(outcomes_table(complete(states, samples), states, samples))
        mc |= {state.key: float(value) for state, value in zip(states, values_S, strict=True)}
        for search in searches:
            while search.goes_on and search.probe.key in mc:
                value = mc[search.probe.key]
                search.undecided = math.isnan(value)
                search.bounds = search.bounds if search.undecided else search.bounds.told(value)
    return mc


def _known(key: str, mc: Mapping[str, float], share: Mapping[str, float]) -> float:
    """MC of a state by its completions; where it has none, or they all fail and an episode did not, by the episodes through it."""
    value = mc.get(key, math.nan)
    return value if value > 0 else share[key]


def _targets(values: Sequence[float], bounds: Bounds | None, *, hard: bool) -> list[float]:
    """Of a failed episode, known to be alive before `bounds.low` and lost from `bounds.high` on; of one that succeeded without bounds."""
    if bounds is None:
        return [1.0] * len(values) if hard else list(values)
    alive = [1.0 if hard else value if value > 0 else math.nan for value in values[: bounds.low]]
    return alive + [math.nan] * (bounds.high - bounds.low) + [0.0] * (len(values) - bounds.high)
