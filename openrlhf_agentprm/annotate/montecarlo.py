"""Labels from completions: what a turn is worth is what a policy makes of the state behind it.

Each method is a value of a state's completions (core/montecarlo.py); the last turn has nothing behind it and is worth the episode's outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from ..core import montecarlo as mc
from ..core.errors import UserError
from ..data.episode import Episode
from ..data.sidecar import Sidecar
from ..data.store import EpisodeStore
from .completions import Complete, State, StoreStates, outcomes_table
from .given import Rows, check_given, check_numbers, padded, targets_in

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

    scale = "judgement"

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


class shaped:
    """Registry entry `shaped`, offline: Q̂ = (1 − α) Q + α A^μ with a reference policy μ, A^μ = Q^μ − V^μ (arXiv 2502.10325).

    The completions are μ's (--policy.model_name_or_path): Q^μ is its share of success behind a turn, V^μ that behind the turn before, of the
    episode's start by completions from there. Targets lie in [−α, 1].
    """

    scale = "judgement"

    @staticmethod
    def annotate(store: EpisodeStore, *, complete: Complete, q: str | None = None, samples: int = 16, alpha: float = 0.5) -> Sidecar:
        """
        Args:
            complete: plays μ's completions.
            q: folder of labels of turns that are Q of the policy that is trained, such as `mc_visits`' or `mc_soft`'s.
            samples: N of every state.
            alpha: α from 0 (Q alone) to 1 (the reference's advantage alone); the default is ours.
        """
        check_given("shaped", {"q": q}, "labels that are Q")
        check_numbers("shaped", {"alpha": (alpha, 0, 1)})
        given = targets_in(str(q), store)
        found, value_of = _values(store, complete, samples, mc.soft_mean, starts=True)
        rows = Rows()
        for episode, path in found.paths:
            after_K, before_K = _along(value_of, episode, path)
            rows.add(episode.episode_id, mc.shaped_values(padded(given, episode.episode_id, len(path)), after_K, before_K, alpha))
        nothing = f"shaped: no turn of {store.path} has both a label in {q} and completions with an outcome"
        return rows.sidecar(complete.cost, _figures(value_of), nothing)


def _label(store: EpisodeStore, complete: Complete, samples: int, value: Value, *, relative_to: float | None = None) -> Sidecar:
    """Values of all distinct states, read back along every episode."""
    found, value_of = _values(store, complete, samples, value, starts=relative_to is not None)
    rows = Rows()
    for episode, path in found.paths:
        own_K, before_K = _along(value_of, episode, path)
        rows.add(episode.episode_id, own_K if relative_to is None else mc.relative_progress(own_K, before_K, relative_to))
    return rows.sidecar(complete.cost, _figures(value_of), f"no turn of {store.path} has a label: no completion has an outcome")


def _values(store: EpisodeStore, complete: Complete, samples: int, value: Value, *, starts: bool) -> tuple[StoreStates, dict[str, float]]:
    """The states of a store and the value of each by its key; of the episodes' starts only if asked for."""
    check_samples(samples)
    found = StoreStates.of(store)
    states = found.distinct(starts=starts)
    values_S = value(outcomes_table(complete(states, samples), states, samples))
    return found, {state.key: float(v) for state, v in zip(states, values_S, strict=True)}


def _along(value_of: Mapping[str, float], episode: Episode, path: Sequence[State]) -> tuple[torch.Tensor, torch.Tensor]:
    """(value behind each turn, value before it), float64; behind the last turn it is the outcome, before the first NaN unless it was asked for."""
    after = [value_of[state.key] for state in path[1:]] + [episode.outcome]
    before = [value_of.get(path[0].key, math.nan), *after[:-1]]
    return torch.tensor(after, dtype=torch.float64), torch.tensor(before, dtype=torch.float64)


def _figures(value_of: Mapping[str, float]) -> dict[str, int]:
    return {"states": len(value_of), "states_without_outcome": sum(math.isnan(v) for v in value_of.values())}


def check_samples(samples: object) -> None:
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise UserError(f"samples is {samples!r}; wanted a whole number of completions of a state, 1 or more")
