"""`relabel`: preference pairs of different actions at one state, from any values of turns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ..core.errors import UserError
from ..core.preferences import pairs_by_margin
from ..core.visits import returns_behind, visit_means
from ..data.pairs import Pair, PairsSidecar
from ..data.store import EpisodeStore
from .given import NO_COST, Targets, check_choice, check_given, check_numbers, padded, targets_in
from .paths import paths_of
from .scored import Score, Scored


class relabel:
    """Registry entry `relabel`, offline: pairs (a⁺, a⁻) at one state with Q(s, a⁺) − Q(s, a⁻) > margin (arXiv 2502.10325).

    A state and action is one item however often it was visited: its value is the mean over its visits, and the first of them stands for it.
    States are equal if the task and the tokens before the action are, so both sides of a pair are of one task.
    """

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        targets: str | None = None,
        prm: str | None = None,
        reward_model: str = "auto",
        score: Score = Scored,
        gamma: float = 1.0,
        margin: float = 0.1,
        weight: str = "pair",
    ) -> PairsSidecar:
        """
        Args:
            targets: folder of labels of turns that are Q; or
            prm: a PRM's checkpoint, whose scores are Q. Without either Q is the mean return of the visits, as `mc_visits`.
            reward_model: entry of the registry of reward models that `prm` is of, or "auto": what it says that it is.
            score: scores a store by a PRM.
            gamma: discount a turn of those returns.
            margin: pairs have to differ by more; the paper does not state its own.
            weight: "pair": every pair counts once in the loss; "state": every state does, however many pairs it has.
        """
        check_numbers("relabel", {"gamma": (gamma, 0, 1), "margin": (margin, 0, math.inf)})
        check_choice("relabel", "weight", weight, ("pair", "state"))
        check_given("relabel", {name: q for name, q in (("targets", targets), ("prm", prm)) if q is not None}, "a folder")
        if targets is not None and prm is not None:
            raise UserError("relabel: give one Q, labels as the option targets or a checkpoint as the option prm")
        scored = score(store, prm, reward_model) if prm else None
        given = targets_in(targets, store) if targets is not None else None
        if scored:
            given = {episode.episode_id: q_K.tolist() for episode, q_K, _ in scored}
        found = _Actions.of(store, given, gamma)
        values_A, states_A = found.values_A, torch.tensor(found.states)
        chosen_P, rejected_P = pairs_by_margin(values_A, states_A, margin)
        per_state = torch.bincount(states_A[chosen_P], minlength=int(states_A.max()) + 1)
        choices = int((torch.bincount(states_A) > 1).sum())
        if not len(chosen_P):
            raise UserError(
                f"relabel: no two actions at one state of {store.path} differ by more than the margin {margin:g} "
                f"({choices} of {len(per_state)} states have a choice); lower margin, or collect more samples a task"
            )
        gaps_P = values_A[chosen_P] - values_A[rejected_P]
        weights_P = 1 / per_state[states_A[chosen_P]] if weight == "state" else torch.ones(len(gaps_P))
        columns = (x.tolist() for x in (chosen_P, rejected_P, gaps_P, weights_P))
        pairs = [Pair._make((*found.turns[one], *found.turns[other], gap, w)) for one, other, gap, w in zip(*columns, strict=True)]
        figures = {
            "pairs": len(pairs),
            "states": len(per_state),
            "states_with_a_choice": choices,
            "states_with_pairs": int((per_state > 0).sum()),
            "mean_margin": float(gaps_P.mean()),
        }
        return PairsSidecar.of(pairs, scored.cost if scored else dict(NO_COST), figures)


@dataclass
class _Actions:
    """Every state and action once.

    Args:
        turns: the turn that stands for it: episode and number.
        states: its state's number.
        values_A: its value, the mean over its visits.
    """

    turns: list[tuple[str, int]] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    values_A: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(cls, store: EpisodeStore, given: Targets | None, gamma: float) -> _Actions:
        found = cls()
        actions: dict[bytes, int] = {}
        states: dict[bytes, int] = {}
        visits: list[int] = []
        values: list[float] = []
        for path in paths_of(store, states=True):
            own = returns_behind(path.rewards, gamma=gamma)
            if given is not None:
                own = padded(given, path.episode_id, len(path.actions)).tolist()
            for turn, (state, action, value) in enumerate(zip(path.states, path.actions, own, strict=True)):
                if math.isnan(value):
                    continue
                number = actions.setdefault(action, len(actions))
                if number == len(found.turns):
                    found.turns.append((path.episode_id, turn))
                    found.states.append(states.setdefault(state, len(states)))
                visits.append(number)
                values.append(value)
        if not visits:
            raise UserError(f"relabel: no turn of {store.path} has a value")
        visits_N = torch.tensor(visits)
        means_N = visit_means(torch.tensor(values, dtype=torch.float64), visits_N)[0]
        found.values_A = torch.empty(len(actions), dtype=torch.float64).scatter_(0, visits_N, means_N)
        return found
