"""Monte-Carlo tree search over turns, with the PRM's values (UCT: Kocsis and Szepesvári 2006; PUCT: arXiv 1712.01815).

At every turn S simulations are made from the state that the search stands in, then the action visited most is played (of equal ones the one of the
higher mean value) and its subtree is kept. One simulation:

    select    from the root, the action of highest   UCT: Q̄ + c √(ln N(s) / N(s, a))   or   PUCT: Q̄ + c P(s, a) √N(s) / (1 + N(s, a)),
              until one that has not been played. Q̄ is the mean of what its simulations brought. Without a visit it is the PRM's Q(s, a) under PUCT;
              UCT tries each action once, the best-scored first.
    expand    play it; at the new state s' sample `mcts_actions` actions, equal ones merged, and score them, in one pass.
    value     V(s') as the PRM reads it; of a finished path its last Q(s, a). With a rollout weight w > 0:  (1 − w) V + w r,  r the outcome of an
              episode that the policy samples from s' to its end (of a finished path its own). With w = 0 the search never sees an outcome.
    back up   add the value to Q̄ of every action on the way, and a visit.

The prior P(s, a) is the policy's: how often the action was sampled ("frequency"), or its probability among those sampled ("logprob"). Simulations of
one task follow one another; those of all tasks go side by side, so each step of all is one batch of the engine, of the scorer and of the pool.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..core.search_values import leaf_value, puct, uct
from .budget import Need
from .nodes import Candidate, Node, TaskSearch
from .tree import TreeSearch


@dataclass
class Edge:
    """An action of the tree."""

    candidate: Candidate
    prior: float
    visits: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """Q̄(s, a); the scorer's Q(s, a) before the first visit."""
        return self.total / self.visits if self.visits else self.candidate.q


class MCTS(TreeSearch):
    """S simulations a turn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._edges: dict[int, list[Edge]] = {}  # by the identity of the node, which its edges keep alive

    def _step(self, searches: list[TaskSearch]) -> None:
        fresh = [s for s in searches if id(s.nodes[0]) not in self._edges]
        self._expand([(s, s.nodes[0]) for s in fresh if self._affords(s, s.nodes[0], Need(self._width(s.nodes[0])))])
        for _ in range(self.method.count):
            going = [s for s in searches if not s.broken and not s.plain and id(s.nodes[0]) in self._edges]
            self._simulate([s for s in going if self._affords(s, s.nodes[0], self._cost(s.nodes[0]))])
            if self._late():
                break
        self._move([s for s in searches if not s.broken and not s.plain])

    def _finish(self, searches: list[TaskSearch]) -> None:
        self._move(searches)
        super()._finish(searches)

    def _width(self, node: Node) -> int:
        """Tokens of the actions sampled at a node, or at any below it, which may begin a response where this one is inside of one."""
        return self.options.mcts_actions * self.reserve(node, 1).tokens

    def _cost(self, node: Node) -> Need:
        """What a simulation may cost at its worst."""
        tokens, turns = self._width(node), 1
        if self.options.rollout_weight:
            rollout = self.reserve(node, self.turns_left(node))
            tokens, turns = tokens + rollout.tokens, turns + rollout.turns
        return Need(tokens, turns)

    def _affords(self, search: TaskSearch, node: Node, cost: Need) -> bool:
        """Whether the budget still holds this and plain play from the node; else the search becomes plain."""
        return self.allowed(search, 1, cost, self.reserve(node, self.turns_left(node)), least=1) == 1

    def _simulate(self, searches: list[TaskSearch]) -> None:
        paths = [(s, self._select(s.nodes[0])) for s in searches]
        new = [(s, path[-1].candidate) for s, path in paths if path[-1].candidate.child is None]
        self._play(new)
        opened = [(s, c.child) for s, c in new if c.child is not None and not c.child.finished]
        self._expand(opened)
        outcomes = self._rollouts(opened) if self.options.rollout_weight else {}
        for search, path in paths:
            node = path[-1].candidate.child
            if search.broken or node is None:
                continue
            value = path[-1].candidate.q if node.finished else self._edges[id(node)][0].candidate.v
            outcome = node.outcome if node.finished else outcomes.get(id(node), math.nan)
            value = leaf_value(value, outcome, self.options.rollout_weight)
            for edge in path:
                edge.visits += 1
                edge.total += value

    def _select(self, node: Node) -> list[Edge]:
        """From a node down to an action that has not been played, or to a finished path."""
        path: list[Edge] = []
        while True:
            edges = self._edges[id(node)]
            visits = sum(edge.visits for edge in edges)
            path.append(max(edges, key=lambda edge, n=visits: self._worth(edge, n)))  # type: ignore[misc]
            child = path[-1].candidate.child
            if child is None or child.finished:
                return path
            node = child

    def _worth(self, edge: Edge, parent_visits: int) -> tuple[float, float]:
        c = self.options.exploration
        if self.options.mcts_rule == "uct":
            return uct(edge.mean, edge.visits, parent_visits, c), edge.candidate.q
        return puct(edge.mean, edge.visits, parent_visits, c, edge.prior), edge.candidate.q

    def _expand(self, opened: list[tuple[TaskSearch, Node]]) -> None:
        """Sample and score actions at each node."""
        groups = self._sample([(s, node, self.options.mcts_actions) for s, node in opened])
        self._score(groups)
        for (_, node), group in zip(opened, groups, strict=True):
            self._edges[id(node)] = [Edge(c, p) for c, p in zip(group, priors(group, self.options.mcts_prior), strict=True)]

    def _rollouts(self, opened: list[tuple[TaskSearch, Node]]) -> dict[int, float]:
        """Outcomes of one sampled episode from each node to its end; NaN where the environment broke or the context cut it."""
        ends = {id(node): node for _, node in opened}
        while going := [(s, node) for s, node in opened if not s.broken and not ends[id(node)].finished]:
            groups = self._sample([(s, ends[id(node)], 1) for s, node in going], salt="rollout")
            self._play([(s, group[0]) for (s, _), group in zip(going, groups, strict=True)])
            for (_, node), group in zip(going, groups, strict=True):
                ends[id(node)] = group[0].child or ends[id(node)]
        return {key: node.outcome for key, node in ends.items() if node.finished}

    def _move(self, searches: list[TaskSearch]) -> None:
        """Play the action visited most. Where the budget has ended, so down to the end of the tree; plain play goes on from there."""
        for search in searches:
            while edges := [e for e in self._edges.get(id(search.nodes[0]), []) if e.visits]:
                best = max(edges, key=lambda e: (e.visits, e.mean))
                child = best.candidate.child
                assert child is not None
                child.scores = best.candidate.scores(best.mean)
                search.nodes = [child]
                if child.finished or not search.plain:
                    break


def priors(group: list[Candidate], kind: str) -> list[float]:
    """P(s, a) over the actions sampled at a node: their share of the samples, or their probability among them."""
    if kind == "frequency":
        total = sum(c.copies for c in group)
        return [c.copies / total for c in group]
    logprobs = [c.logprob * len(c.action_tokens) for c in group]
    weights = [math.exp(value - max(logprobs)) for value in logprobs]
    return [w / sum(weights) for w in weights]
