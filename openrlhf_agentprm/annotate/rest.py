"""`rest_mcts`: how far along the way to success a turn stands, by the tree that a task's episodes make."""

from __future__ import annotations

import torch

from ..core.visits import fewest_turns, visit_maxima, visit_means, weighted_values
from ..data.sidecar import Sidecar
from ..data.store import EpisodeStore
from .given import NO_COST, Rows, check_choice, padded, targets_in
from .paths import Path, paths_of


class rest_mcts:
    """Registry entry `rest_mcts`, offline: the value of ReST-MCTS* (arXiv 2406.03816) over the tree of a task's episodes.

    The paper grows that tree by search; ours is what the store's episodes make, equal states and actions being one node. The quality of a turn
    is hard in its released code (1 if any success lies behind it, else −1); the soft one is ours.
    """

    scale = "judgement"

    @staticmethod
    def annotate(store: EpisodeStore, *, quality: str = "hard", mc: str | None = None) -> Sidecar:
        """V_t = max(0, V_{t−1} + (1 − V_{t−1}) r_t / m_t), see `core.visits.weighted_values`; episodes of tasks never solved get no label.

        Args:
            quality: r_t = 2 MC_t − 1 with MC_t "hard", the highest outcome of the visits, or "soft", their mean.
            mc: folder of labels that are MC_t in place of the visits', such as `mc_soft`'s; `quality` is then not read.
        """
        check_choice("rest_mcts", "quality", quality, ("hard", "soft"))
        given = targets_in(mc, store) if mc is not None else None
        paths = list(paths_of(store, states=True))
        known: dict[bytes, int] = {}
        groups = [known.setdefault(key, len(known)) for path in paths for key in path.actions]
        groups_N = torch.tensor(groups, dtype=torch.int64)
        outcomes_N = torch.tensor([path.outcome for path in paths for _ in path.actions], dtype=torch.float64)
        left_N = torch.tensor([len(path.actions) - k for path in paths for k in range(len(path.actions))], dtype=torch.int64)
        distances = fewest_turns(left_N, outcomes_N > 0, groups_N, len(known))[groups_N].tolist() if groups else []
        starts = _starts(paths)
        qualities: list[float] = []
        if given is None and groups:
            found_N = visit_maxima(outcomes_N, groups_N) if quality == "hard" else visit_means(outcomes_N, groups_N)[0]
            qualities = found_N.tolist()
        rows, at = Rows(), 0
        for path in paths:
            of = slice(at, at := at + len(path.actions))
            own = qualities[of] if given is None else padded(given, path.episode_id, len(path.actions)).tolist()
            rows.add(path.episode_id, weighted_values(own, distances[of], starts[path.states[0]]))
        figures = {"states_and_actions": len(known), "never_solved": sum(not m for m in starts.values()), "starts": len(starts)}
        return rows.sidecar(dict(NO_COST), figures, f"rest_mcts: no task of {store.path} was ever solved")


def _starts(paths: list[Path]) -> dict[bytes, int]:
    """m of every start: one more than the fewest turns of an episode that succeeded from it, 0 where none did."""
    fewest: dict[bytes, int] = {}
    for path in paths:
        known = fewest.get(path.states[0], 0)
        own = len(path.actions) + 1 if path.outcome > 0 else 0
        fewest[path.states[0]] = min(known, own) if known and own else known or own
    return fewest
