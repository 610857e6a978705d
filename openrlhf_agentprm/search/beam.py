"""Beam search over turns @N×M, greedy by Q for N = 1 (arXiv 2511.08325, Algorithm 2; greedy by Q: arXiv 2502.10325).

N nodes are kept, and at each M actions are sampled and scored before they are played; the first turn samples N·M actions from the one root. Of all
finished paths and all candidates the N best go on: a finished path keeps the score of its last action and competes with the live ones for its
place. Once all N are finished the best-scored path wins. Scores at most `margin` below the highest count as equal to it, and the entry that was
sampled first is taken.
"""

from __future__ import annotations

from .budget import Need
from .choice import choose
from .nodes import Candidate, Node, TaskSearch
from .tree import TreeSearch


class BeamSearch(TreeSearch):
    """@N×M."""

    def _step(self, searches: list[TaskSearch]) -> None:
        wanted = [(s, node, count) for s in searches for count in [self._count(s)] if count for node in s.live]
        groups = self._sample(wanted)
        self._look(list(zip((s for s, _, _ in wanted), groups, strict=True)))
        by_search: dict[int, list[Candidate]] = {}
        for (search, _, _), group in zip(wanted, groups, strict=True):
            by_search.setdefault(id(search), []).extend(group)
        self._advance([(s, by_search[id(s)]) for s in searches if id(s) in by_search])

    def _count(self, search: TaskSearch) -> int:
        """Actions to sample at each live node, within the budget."""
        live = search.live
        wanted = self.method.actions if live[0].spans else self.method.beams * self.method.actions
        this = 0 if self.options.step_tokens else 1  # behind a step stands the rest of its response
        after = [self.reserve(node, self.turns_left(node) - this) for node in live]
        each = self._need(live)
        rest = Need(max(n.tokens for n in after), max(n.turns for n in after) + self._plays())
        return self.allowed(search, wanted, each, rest)

    def _need(self, live: list[Node]) -> Need:
        """What one more action at every live node may cost."""
        return Need(sum(self.room(node) for node in live))

    def _plays(self) -> int:
        """Actions that are played once they are chosen."""
        return self.method.beams

    def _look(self, groups: list[tuple[TaskSearch, list[Candidate]]]) -> None:
        """Score the candidates of each node."""
        self._score([group for _, group in groups])

    def _advance(self, found: list[tuple[TaskSearch, list[Candidate]]]) -> None:
        """Keep the N best of finished paths and candidates, and play the candidates kept."""
        kept: list[tuple[TaskSearch, list[Node | Candidate]]] = []
        for search, candidates in found:
            entries: list[Node | Candidate] = [*(node for node in search.nodes if node.finished), *candidates]
            kept.append((search, choose(entries, self.method.beams, self.options.margin)))
        self._play([(search, entry) for search, entries in kept for entry in entries if isinstance(entry, Candidate)])
        for search, entries in kept:
            nodes = [entry.child if isinstance(entry, Candidate) else entry for entry in entries]
            search.nodes = [node for node in nodes if node is not None]
