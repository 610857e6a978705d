"""Labels from completions: what a turn is worth is what a policy makes of the state behind it.

Each method is a value of a state's completions (core/montecarlo.py); the last turn has nothing behind it and is worth the episode's outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..core import montecarlo as mc
from ..core.errors import UserError
from ..data.sidecar import Sidecar, table_of
from ..data.store import EpisodeStore
from .completions import Complete, StoreStates, outcomes_table

Value = Callable[[torch.Tensor], torch.Tensor]


class mc_soft:
    """Registry entry `mc_soft`, offline: Q̂(s_t, a_t) = the share of N completions behind it that succeed (arXiv 2312.08935)."""

    @staticmethod
    def annotate(store: EpisodeStore, *, complete: Complete, samples: int = 16) -> Sidecar:
        """
        Args:
            complete: plays the completions.
            samples: N of every state; 16 in arXiv 2511.08325.
        """
        return _label(store, complete, samples, mc.soft_mean)


class mc_hard:
    """Registry entry `mc_hard`, offline: Q̂ = 1 if any of N completions succeeds (arXiv 2312.08935; arXiv 2511.08325, Eq 11)."""

    @staticmethod
    def annotate(store: EpisodeStore, *, complete: Complete, samples: int = 16) -> Sidecar:
        """
        Args:
            complete, samples: as in `mc_soft`.
        """
        return _label(store, complete, samples, mc.hard_any)


class er:
    """Registry entry `er`, offline: Q̂ = (1/η) log mean exp(η r) over N completions (ER-PRM, arXiv 2412.11006)."""

    @staticmethod
    def annotate(store: EpisodeStore, *, complete: Complete, samples: int = 16, eta: float = 2.0) -> Sidecar:
        """
        Args:
            complete, samples: as in `mc_soft`.
            eta: η from 0 (`mc_soft`) to infinity (`mc_hard`; write Infinity).
        """
        if not isinstance(eta, int | float) or not eta >= 0:
            raise UserError(f"er: eta is {eta!r}; wanted a number of 0 or more, or Infinity without quotes")
        return _label(store, complete, samples, lambda outcomes_SN: mc.entropic_mean(outcomes_SN, eta))


class rpe:
    """Registry entry `rpe`, offline: Q̂ = 1[MC(s, a) / MC(s) ≥ threshold], MC the share of success (arXiv 2504.00891).

    MC(s_t) is the value behind the turn before; of the episode's start it takes completions from there.
    """

    @staticmethod
    def annotate(store: EpisodeStore, *, complete: Complete, samples: int = 16, threshold: float = 0.8) -> Sidecar:
        """
        Args:
            complete, samples: as in `mc_soft`.
            threshold: the share of its state's value that an action must keep.
        """
        if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
            raise UserError(f"rpe: threshold is {threshold!r}; wanted a share above 0, at most 1")
        return _label(store, complete, samples, mc.soft_mean, relative_to=threshold)


def _label(store: EpisodeStore, complete: Complete, samples: int, value: Value, *, relative_to: float | None = None) -> Sidecar:
    """Values of all distinct states, read back along every episode."""
    if not isinstance(samples, int) or samples < 1:
        raise UserError(f"samples is {samples!r}; wanted a whole number of completions of a state, 1 or more")
    found = StoreStates.of(store)
    states = found.distinct(starts=relative_to is not None)
    values_S = value(outcomes_table(complete(states, samples), states, samples))
    value_of = {state.key: float(v) for state, v in zip(states, values_S, strict=True)}
    ids: list[str] = []
    turns: list[int] = []
    targets: list[float] = []
    for episode, path in found.paths:
        own = [value_of[s.key] for s in path[1:]] + [episode.outcome]
        if relative_to is not None:
            q_K = torch.tensor(own, dtype=torch.float64)
            own = mc.relative_progress(q_K, torch.tensor([value_of[path[0].key], *own[:-1]], dtype=torch.float64), relative_to).tolist()
        ids += [episode.episode_id] * len(own)
        turns += range(len(own))
        targets += own
    keep = [not math.isnan(t) for t in targets]
    figures = {
        "turns": len(ids),
        "labelled": sum(keep),
        "states": len(states),
        "states_without_outcome": int(values_S.isnan().sum()),
        "mean_target": sum(t for t in targets if not math.isnan(t)) / max(1, sum(keep)),
    }
    return Sidecar(table_of(ids, turns, targets, keep, [1.0] * len(ids)), complete.cost, figures)
