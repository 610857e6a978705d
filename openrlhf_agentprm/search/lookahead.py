"""Look-ahead search @N×M×D: a beam whose candidates are judged by where they lead (arXiv 2408.03314, with a learned PRM as the judge).

Each candidate is played in the environment and continued by the policy for at most D turns (greedily, unless a temperature is given); its score is
the PRM's for the last action of the continuation. D = 0 is the beam, but for candidates being played before the choice. The continuations are
only looked at: the search goes on from the candidates' own states. It costs N·M·(1 + D) environment steps a turn where the beam costs N, and the
continuations' tokens; what it needs is an environment that can be tried out.
"""

from __future__ import annotations

from ..rollout.engine import Sampling
from .beam import BeamSearch
from .budget import Need
from .choice import rank
from .nodes import Candidate, Node, TaskSearch


class LookaheadSearch(BeamSearch):
    """@N×M×D."""

    def _need(self, live: list[Node]) -> Need:
        each = [self.reserve(node, min(1 + self.method.depth, self.turns_left(node))) for node in live]
        return Need(sum(n.tokens for n in each), sum(n.turns for n in each))

    def _plays(self) -> int:
        return 0  # they are played before the choice

    def _look(self, groups: list[tuple[TaskSearch, list[Candidate]]]) -> None:
        """Score the candidates by the last actions of their continuations."""
        first = [(search, candidate) for search, group in groups for candidate in group]
        self._play(first)
        ends = {id(c): c for _, c in first}
        sampling = Sampling(self.options.lookahead_temperature)
        for _ in range(self.method.depth):
            going = [(s, c, end) for s, c in first if (end := ends[id(c)].child) is not None and not end.finished and not s.broken]
            nexts = self._sample([(s, end, 1) for s, _, end in going], sampling, salt="look-ahead")
            for (_, candidate, _), found in zip(going, nexts, strict=True):
                ends[id(candidate)] = found[0]
            self._play([(s, ends[id(c)]) for s, c, _ in going])
        for _, candidate in first:
            ends[id(candidate)].copies = candidate.copies
        self._score([[ends[id(c)]] for _, c in first])
        for _, group in groups:
            for candidate in group:
                candidate.q, candidate.v = ends[id(candidate)].q, ends[id(candidate)].v
            rank(group, self.options.logprob_weight, self.options.policy_margin)
            for candidate in group:
                if candidate.child is not None:
                    candidate.child.scores[-1] = candidate.score
