"""What every search over turns is made of: nodes, sampling, scoring, playing, and the loop over all tasks at once.

All tasks advance together: the actions of a step are sampled in one batch of the engine, then scored in one pass, then played by the
environment pool. A method (`beam.py`, `best_of_n.py`, `lookahead.py`, `mcts.py`) says in `_step` what is sampled, what is scored and what is
played next. Each sampled action has a seed of its own, made of the search's seed, the task and the path to it, so that neither the order of the
tasks nor what else is searched decides it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from ..agents.chat import ChatFormat
from ..core.errors import UserError
from ..rollout.builder import Limits
from ..rollout.engine import Engine, Sampled, Sampling
from ..rollout.pool import EnvPool
from .budget import Need
from .choice import choose, rank
from .methods import Method
from .nodes import Candidate, Node, Scorer, SearchResult, TaskSearch
from .options import Options
from .states import States

GREEDY = Sampling(0.0)


class TreeSearch(ABC):
    """A search method at work.

    Args:
        engine: samples actions.
        pool: plays them.
        chat: prompts and actions.
        scorer: ranks candidates.
        sampling: how actions are sampled (temperature 0.7 in arXiv 2511.08325).
        limits: step limit and context.
        method: its sizes.
        options: everything else.
    """

    def __init__(
        self,
        engine: Engine,
        pool: EnvPool,
        chat: ChatFormat,
        scorer: Scorer,
        sampling: Sampling,
        limits: Limits,
        method: Method,
        options: Options | None = None,
    ) -> None:
        self.engine = engine
        self.pool = pool
        self.chat = chat
        self.scorer = scorer
        self.sampling = sampling
        self.limits = limits
        self.method = method
        self.options = options or Options()
        self.faults: Counter[str] = Counter()
        self.states = States(pool, chat, limits, self.options, self.faults)

    def run(self, tasks: Sequence[str], on_turn: Callable[[int, int], None] | None = None) -> list[SearchResult]:
        """Search every task.

        Args:
            on_turn: told the step and the number of tasks still searched, for progress displays.
        """
        self._ends = math.inf if self.options.budget.seconds is None else time.monotonic() + self.options.budget.seconds
        searches = [TaskSearch(task) for task in tasks]
        self.states.start(searches)
        step = 0
        while going := [s for s in searches if s.live and not s.broken and not s.plain]:
            if on_turn is not None:
                on_turn(step, len(going))
            step += 1
            if self._late():
                for search in going:
                    search.plain = True
                break
            self._step(going)
        self._finish([s for s in searches if s.plain and not s.broken])
        return [self._result(s) for s in searches]

    @abstractmethod
    def _step(self, searches: list[TaskSearch]) -> None:
        """Take every search a turn further; one whose budget does not allow it becomes `plain`."""

    @property
    def needs_logprobs(self) -> bool:
        return bool(self.options.logprob_weight) or (self.method.kind == "mcts" and self.options.mcts_prior == "logprob")

    def _late(self) -> bool:
        return time.monotonic() >= self._ends

    def _sample(
        self, wanted: Sequence[tuple[TaskSearch, Node, int]], sampling: Sampling | None = None, salt: str = "", capped: bool = False
    ) -> list[list[Candidate]]:
        """Sample so many actions at each node, all in one engine batch; equal ones of a node are merged, in the order of sampling.

        Args:
            salt: sets these samples apart from others of the same node.
            capped: an action has no more tokens than what is left of the budget.
        """
        sampling = sampling or self.sampling
        stops = [*self.chat.stop_token_ids, *self.options.step_tokens]
        owners: list[int] = []
        for place, (search, node, count) in enumerate(wanted):
            seeds = _seeds(self.options.seed, search.task_id, node.token_ids, salt, count)
            room = self.room(node)
            if capped and self.options.budget.tokens is not None:
                room = min(room, self.options.budget.tokens - search.sampled_tokens)
            for seed in seeds:
                self.engine.submit(f"s{len(owners)}", node.token_ids, replace(sampling, seed=seed), room, stops)
                owners.append(place)
        found: list[dict[tuple[int, ...], Candidate]] = [{} for _ in wanted]
        for sampled in self._drained():
            place = owners[int(sampled.request_id[1:])]
            search, node, _ = wanted[place]
            if self.needs_logprobs and sampled.token_ids and not sampled.logprobs:
                raise UserError("the engine gives no log-probabilities, which logprob_weight and the prior 'logprob' rank by")
            search.sampled_actions += 1
            search.sampled_tokens += len(sampled.token_ids)
            key = tuple(sampled.token_ids)
            if key in found[place]:
                found[place][key].copies += 1
            else:
                mean = sum(sampled.logprobs) / len(sampled.logprobs) if sampled.logprobs else 0.0
                found[place][key] = Candidate(node, list(key), logprob=mean, extends=self._extends(node, key))
        return [list(by_tokens.values()) for by_tokens in found]

    def _extends(self, node: Node, tokens: Sequence[int]) -> bool:
        """Whether the tokens belong to the step before them, as `data.steps.split_steps` divides a response."""
        if node.action_start is None:
            return False
        steps = self.options.step_tokens
        return all(t in steps for t in tokens) or all(t in steps for t in node.token_ids[node.action_start :])

    def _drained(self) -> Iterable[Sampled]:
        found: list[Sampled] = []
        while self.engine.unfinished:
            found += self.engine.step()
        return sorted(found, key=lambda s: int(s.request_id[1:]))

    def _score(self, groups: Sequence[Sequence[Candidate]]) -> None:
        """Score candidates, all in one pass, and rank each group: the candidates of one node."""
        candidates = [c for group in groups for c in group]
        if not candidates:
            return
        for candidate, (q, v) in zip(candidates, self.scorer(candidates), strict=True):
            if not math.isfinite(q):
                raise UserError(f"the PRM gave the score {q} to an action; a search needs finite ones (was its training finite?)")
            candidate.q, candidate.v = q, v
        for group in groups:
            rank(group, self.options.logprob_weight, self.options.policy_margin)

    def _play(self, wanted: Sequence[tuple[TaskSearch, Candidate]]) -> None:
        """Give every candidate that has none its child; a search whose environment breaks is broken."""
        self.states.play([(search, candidate) for search, candidate in wanted if candidate.child is None])

    def room(self, node: Node) -> int:
        """Tokens that the next action may have."""
        return self.states.room(node)

    def reserve(self, node: Node, turns: int) -> Need:
        """What playing at most so many turns on from a node may cost."""
        left = self.limits.max_tokens - len(node.token_ids)
        cap = self.limits.max_tokens_per_turn
        return Need(min(turns * (left if cap is None else cap), left), turns)

    def turns_left(self, node: Node) -> int:
        return self.limits.max_turns - len(node.actions)

    def allowed(self, search: TaskSearch, wanted: int, each: Need, besides: Need, least: int = 2) -> int:
        """How many of `wanted` the task's budget allows, 0 where it is fewer than `least`; then the search is `plain`."""
        count = self.options.budget.allowed(Need(search.sampled_tokens, search.turns), wanted, each, besides)
        if count < min(least, wanted):
            search.plain = True
            return 0
        return count

    def _finish(self, searches: list[TaskSearch]) -> None:
        """Play the best path of each to its end, one greedy action a turn, as long as the budget has anything left."""
        for search in searches:
            search.nodes = [choose(search.nodes, 1, self.options.margin)[0]]
        budget = self.options.budget
        while going := [s for s in searches if s.live and not s.broken and budget.left(s.sampled_tokens, s.turns)]:
            groups = self._sample([(s, s.nodes[0], 1) for s in going], GREEDY, capped=True)
            actions = [(s, group[0]) for s, group in zip(going, groups, strict=True)]
            for _, action in actions:
                action.score = action.parent.score
            self._play(actions)
            for search, action in actions:
                search.nodes = [action.child] if action.child is not None else []

    def _result(self, s: TaskSearch) -> SearchResult:
        cost: dict[str, Any] = {"turns": s.turns, "replayed_turns": s.replayed_turns, "budget_ended": s.plain}
        if not s.nodes:
            return SearchResult(s.task_id, math.nan, s.sampled_actions, s.sampled_tokens, Node([]), **cost)
        finished = [node for node in s.nodes if node.finished] or s.nodes
        best = choose(finished, 1, self.options.margin)[0]
        return SearchResult(s.task_id, math.nan if s.broken else best.outcome, s.sampled_actions, s.sampled_tokens, best, **cost)


def _seeds(seed: int, task: str, token_ids: Sequence[int], salt: str, count: int) -> list[int]:
    """Of the 1st, 2nd, … sample at a node; the first ones stay what they are when more are drawn."""
    state = blake2b(f"{seed}:{task}:{salt}:{','.join(map(str, token_ids))}".encode(), digest_size=8).digest()
    return [int.from_bytes(blake2b(state + i.to_bytes(4, "little"), digest_size=4).digest(), "little") for i in range(count)]
