"""Best-of-N played within a search: N whole episodes, of which the one is taken whose last action the scorer likes best.

Episodes that sample the same actions run through the same nodes, so that nothing is played or scored twice; a node knows how many run through it.
"""

from __future__ import annotations

from .budget import Need
from .nodes import Node, TaskSearch
from .tree import TreeSearch


class BestOfN(TreeSearch):
    """Best of N by the last action's score."""

    def _step(self, searches: list[TaskSearch]) -> None:
        wanted = []
        for search in searches:
            if search.nodes[0].last is None:
                search.nodes[0].copies = self.method.count
            count = self._affordable(search)
            wanted += [(search, node, node.copies) for node in search.live if count]
        groups = self._sample(wanted)
        self._play([(search, action) for (search, _, _), group in zip(wanted, groups, strict=True) for action in group])
        grown = {id(node): group for (_, node, _), group in zip(wanted, groups, strict=True)}
        for search in searches:
            nodes: list[Node | None] = []
            for node in search.nodes:
                nodes += [action.child for action in grown[id(node)]] if id(node) in grown else [node]
            search.nodes = [node for node in nodes if node is not None]
        self._judge([s for s in searches if not s.live])

    def _finish(self, searches: list[TaskSearch]) -> None:
        self._judge(searches)
        super()._finish(searches)

    def _affordable(self, search: TaskSearch) -> int:
        """Drop the episodes sampled last that the budget cannot play to their ends; how many stay."""
        live = search.live
        wanted = sum(node.copies for node in live)
        needs = [self.reserve(node, self.turns_left(node)) for node in live]
        each = Need(max(n.tokens for n in needs), max(n.turns for n in needs))
        stay = left = self.allowed(search, wanted, each, Need(), least=1)
        if stay:
            for node in live:
                node.copies = min(node.copies, left)
                left -= node.copies
            search.nodes = [node for node in search.nodes if node.finished or node.copies]
        return stay

    def _judge(self, searches: list[TaskSearch]) -> None:
        """Score the last actions of finished episodes; unfinished ones count only where none is finished, and of them the first."""
        done = [node for s in searches if not s.broken for node in s.nodes if node.finished and node.last is not None]
        self._score([[node.last] for node in done if node.last is not None])
        for node in done:
            if node.last is not None:
                node.scores[-1] = node.last.score
        for search in searches:
            search.nodes = [node for node in search.nodes if node.finished] or search.nodes
