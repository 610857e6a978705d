"""Labels from visits: `mc_visits`, the mean return of all visits of a state and action, and `qlass`, the highest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..core.errors import UserError, collecting
from ..core.visits import returns_behind, visit_maxima, visit_means
from ..data.sidecar import Sidecar, table_of
from ..data.store import EpisodeStore
from .given import check_flags, check_numbers
from .paths import paths_of


class mc_visits:
    """Registry entry `mc_visits`, offline.

    Two turns are visits of one state and action if they are of one task and their tokens are the same from the prompt to the action's end.
    """

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        gamma: float = 1.0,
        discount_from: str = "turn",
        min_visits: int = 1,
        weight: str = "visit",
        dense: bool = False,
    ) -> Sidecar:
        """Q̂(s, a) = mean over visits of G_t, see `core.visits`.

        Args:
            gamma: discount a turn; the paper does not state it.
            discount_from: "turn" (steps to go) or "start" (steps since the episode's start, as the released code).
            min_visits: a turn whose state and action were visited less often gets no label.
            weight: "visit": every turn counts once in the loss; "pair": every state and action does.
            dense: the environment's rewards in place of the outcome, moved and scaled to [0, 1] over the store if they leave it.
        """
        _check("mc_visits", gamma, dense, discount_from, min_visits, weight)
        found = _Visits.of(store, gamma, discount_from, dense)
        targets_N, visits_N = visit_means(found.returns_N, found.groups_N)
        if min_visits > int(visits_N.max()):
            raise UserError(
                f"mc_visits: no state and action of {store.path} was visited {min_visits} times (the most is {int(visits_N.max())}); "
                "lower min_visits, or collect more samples a task"
            )
        return found.sidecar(targets_N, visits_N, visits_N >= min_visits, weight, dense)


class qlass:
    """Registry entry `qlass`, offline: a state and action is worth the best that came of it (QLASS, arXiv 2502.02584)."""

    @staticmethod
    def annotate(store: EpisodeStore, *, gamma: float = 1.0, weight: str = "visit", dense: bool = False) -> Sidecar:
        """Q̂(s, a) = max over visits of G_t, the max-backup over the tree of a task's episodes, see `core.visits`.

        Args:
            gamma, weight, dense: as in `mc_visits`.
        """
        _check("qlass", gamma, dense, weight=weight)
        found = _Visits.of(store, gamma, "turn", dense)
        _, visits_N = visit_means(found.returns_N, found.groups_N)
        every_N = torch.ones(len(found.ids), dtype=torch.bool)
        return found.sidecar(visit_maxima(found.returns_N, found.groups_N), visits_N, every_N, weight, dense)


@dataclass
class _Visits:
    """Every turn of every episode with an outcome: where it stands, what came behind it, which state and action it visits."""

    ids: list[str]
    turns: list[int]
    returns_N: torch.Tensor
    groups_N: torch.Tensor

    @classmethod
    def of(cls, store: EpisodeStore, gamma: float, discount_from: str, dense: bool) -> _Visits:
        ids: list[str] = []
        turns: list[int] = []
        returns: list[float] = []
        groups: list[int] = []
        known: dict[bytes, int] = {}
        for path in paths_of(store, dense=dense):
            ids += [path.episode_id] * len(path.actions)
            turns += range(len(path.actions))
            returns += returns_behind(path.rewards, gamma=gamma, discount_from=discount_from)
            groups += [known.setdefault(key, len(known)) for key in path.actions]
        if not ids:
            raise UserError(f"the store {store.path} holds no episode with an outcome, so there is nothing to label")
        return cls(ids, turns, torch.tensor(returns, dtype=torch.float64), torch.tensor(groups))

    def sidecar(self, targets_N: torch.Tensor, visits_N: torch.Tensor, keep_N: torch.Tensor, weight: str, dense: bool) -> Sidecar:
        """Dense returns that leave [0, 1] are moved and scaled over the store."""
        low, high = float(targets_N.min()), float(targets_N.max())
        if dense and (low < 0 or high > 1):
            targets_N = (targets_N - low) / max(high - low, 1e-12)
        weights_N = 1 / visits_N if weight == "pair" else torch.ones(len(self.ids))
        known = int(self.groups_N.max()) + 1
        figures = {
            "turns": len(self.ids),
            "labelled": int(keep_N.sum()),
            "states_and_actions": known,
            "mean_visits": len(self.ids) / known,
            "visited_once": int((visits_N == 1).sum()),
            "returns_from_to": [low, high],
        }
        rows = table_of(self.ids, self.turns, targets_N.numpy(), keep_N.numpy(), weights_N.numpy())
        return Sidecar(rows, {"sampled_tokens": 0, "environment_steps": 0}, figures)


def _check(method: str, gamma: float, dense: bool, discount_from: str = "turn", min_visits: int = 1, weight: str = "visit") -> None:
    problems: list[str] = []
    with collecting(problems):
        check_numbers(method, {"gamma": (gamma, 0, 1), "min_visits": (min_visits, 1, math.inf)})
        check_flags(method, {"dense": dense})
    if discount_from not in ("turn", "start"):
        problems.append(f"{method}: discount_from is {discount_from!r}; allowed: turn, start")
    if weight not in ("visit", "pair"):
        problems.append(f"{method}: weight is {weight!r}; allowed: visit, pair")
    if problems:
        raise UserError(problems)
