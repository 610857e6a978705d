"""Search over turns: N nodes kept, M actions sampled at each, ranked by the PRM's score (arXiv 2511.08325, Algorithm 2).

With N = 1 this is greedy search by Q: at each turn the best-scored of M sampled actions is played. The first turn samples N·M actions from
the one root. A candidate is scored before it is played; a finished path keeps the score of its last turn and competes with the live ones for
its place among the N; the best-scored path wins once all N are finished. Scores at most `margin` below the highest count as equal to it, and the
entry that was sampled first is taken.

All tasks advance together: the candidates of a turn share the engine's batch, then one scoring pass, then the environment pool. States are
rebuilt by replaying actions, and a replay that differs from what was seen is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..agents.chat import ChatFormat
from ..core.errors import UserError
from ..data.layout import Span
from ..rollout.builder import Limits, outcome_of
from ..rollout.engine import Engine, Sampled, Sampling
from ..rollout.pool import EnvPool, Reply
from ..rollout.prefix import check_replay
from .choice import choose

T = TypeVar("T")
Scorer = Callable[[list[list[int]], list[Span], list[int]], list[float]]
"""Token ids up to an action's end, the action's span, and how often it was sampled, to the action's score."""


@dataclass
class Node:
    """A path from the root: its tokens end with the prompt for the next action, or with the last action if finished."""

    token_ids: list[int]
    actions: list[str] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)  # what the environment answered, the reset first
    scores: list[float] = field(default_factory=list)
    finished: bool = False
    success: bool = False
    outcome: float = 0.0

    @property
    def score(self) -> float:
        return self.scores[-1] if self.scores else 0.0


@dataclass
class _Candidate:
    parent: Node
    action_tokens: list[int]
    copies: int = 1  # how often it was sampled
    score: float = 0.0
    child: Node | None = None  # once it has been played


@dataclass
class SearchResult:
    """The winning path of a task."""

    task_id: str
    outcome: float
    sampled_actions: int
    sampled_tokens: int
    path: Node


@dataclass
class _Search:
    """One task's search."""

    task_id: str
    nodes: list[Node] = field(default_factory=list)
    candidates: list[_Candidate] = field(default_factory=list)
    kept: list[Node | _Candidate] = field(default_factory=list)
    sampled_actions: int = 0
    sampled_tokens: int = 0
    broken: bool = False

    @property
    def live(self) -> list[Node]:
        return [node for node in self.nodes if not node.finished]


class TreeSearch:
    """Beam search @N×M, greedy by Q for N = 1.

    Args:
        engine: samples actions.
        pool: plays them.
        chat: prompts and actions.
        scorer: ranks candidates.
        sampling: how actions are sampled (temperature 0.7 in the paper).
        limits: step limit and context.
        beams: N.
        actions: M.
        seed: of the environments.
        max_retries: times that a reset or replay which broke is asked again; then its task has no outcome.
        margin: what scores must differ by to count as different.
    """

    def __init__(
        self,
        engine: Engine,
        pool: EnvPool,
        chat: ChatFormat,
        scorer: Scorer,
        sampling: Sampling,
        limits: Limits,
        *,
        beams: int,
        actions: int,
        seed: int = 0,
        max_retries: int = 2,
        margin: float = 0.0,
    ) -> None:
        if beams < 1 or actions < 1:
            raise UserError(f"beams and actions are {beams} and {actions}; wanted at least 1")
        self.engine = engine
        self.pool = pool
        self.chat = chat
        self.scorer = scorer
        self.sampling = sampling
        self.limits = limits
        self.beams = beams
        self.actions = actions
        self.seed = seed
        self.max_retries = max_retries
        self.margin = margin
        self.faults: Counter[str] = Counter()

    def run(self, tasks: Sequence[str], on_turn: Callable[[int, int], None] | None = None) -> list[SearchResult]:
        """Search every task.

        Args:
            on_turn: told the turn and the number of tasks still searched, for progress displays.
        """
        searches = [_Search(task) for task in tasks]
        self._start(searches)
        for turn in range(self.limits.max_turns):
            going = [s for s in searches if s.live and not s.broken]
            if not going:
                break
            if on_turn is not None:
                on_turn(turn, len(going))
            self._sample(going, self.beams * self.actions if turn == 0 else self.actions)
            self._score(going)
            self._advance(going)
        return [self._result(s) for s in searches]

    def _start(self, searches: list[_Search]) -> None:
        requests = [(s, {"do": "reset", "task_id": s.task_id, "seed": self.seed}) for s in searches]
        for search, reply in self._ask(requests):
            if reply.kind != "ok":
                search.broken = True
                continue
            answer = reply.value
            root = Node(self.chat.first(answer["instruction"], answer["observation"]), observations=[answer["observation"]])
            search.broken = self._budget(root) < 1  # the first prompt fills the context
            search.nodes = [] if search.broken else [root]

    def _sample(self, searches: list[_Search], count: int) -> None:
        """Sample `count` actions at every live node, all in one engine batch; equal ones are merged."""
        owners: dict[str, tuple[_Search, Node]] = {}
        for search in searches:
            search.candidates = []
            for node in search.live:
                for _ in range(count):
                    request = f"s{len(owners)}"
                    owners[request] = (search, node)
                    budget = self._budget(node)
                    self.engine.submit(request, node.token_ids, self.sampling, budget, self.chat.stop_token_ids)
        seen: dict[tuple[int, tuple[int, ...]], _Candidate] = {}
        for sampled in self._finished():
            search, node = owners[sampled.request_id]
            search.sampled_actions += 1
            search.sampled_tokens += len(sampled.token_ids)
            key = (id(node), tuple(sampled.token_ids))
            if key in seen:
                seen[key].copies += 1
                continue
            seen[key] = _Candidate(node, list(sampled.token_ids))
            search.candidates.append(seen[key])

    def _finished(self) -> Iterable[Sampled]:
        found: list[Sampled] = []
        while self.engine.unfinished:
            found += self.engine.step()
        return sorted(found, key=lambda s: int(s.request_id[1:]))

    def _score(self, searches: list[_Search]) -> None:
        candidates = [c for s in searches for c in s.candidates]
        tokens = [c.parent.token_ids + c.action_tokens for c in candidates]
        spans = [(len(c.parent.token_ids), len(t)) for c, t in zip(candidates, tokens, strict=True)]
        for candidate, score in zip(candidates, self.scorer(tokens, spans, [c.copies for c in candidates]), strict=True):
            if not math.isfinite(score):
                raise UserError(f"the PRM gave the score {score} to an action; a search needs finite ones (was its training finite?)")
            candidate.score = score

    def _advance(self, searches: list[_Search]) -> None:
        """Keep the N best of finished paths and candidates, and play the candidates kept."""
        played: list[tuple[tuple[_Search, _Candidate], dict]] = []
        for search in searches:
            finished = [node for node in search.nodes if node.finished]
            search.kept = choose([*finished, *search.candidates], self.beams, self.margin)
            for candidate in (entry for entry in search.kept if isinstance(entry, _Candidate)):
                actions = [*candidate.parent.actions, self.chat.parse(self.chat.action_text(candidate.action_tokens))]
                request = {"do": "replay", "task_id": search.task_id, "seed": self.seed, "actions": actions}
                played.append(((search, candidate), request))
        for (search, candidate), reply in self._ask(played):
            if reply.kind != "ok":
                search.broken = True
                continue
            candidate.child = self._child(search, candidate, reply.value)
        for search in searches:
            nodes = [entry.child if isinstance(entry, _Candidate) else entry for entry in search.kept]
            search.nodes = [node for node in nodes if node is not None]

    def _child(self, search: _Search, candidate: _Candidate, answers: list[dict]) -> Node:
        parent = candidate.parent
        check_replay(search.task_id, parent.observations, answers, "search")
        last = answers[-1]
        tokens = parent.token_ids + candidate.action_tokens
        child = Node(
            tokens,
            [*parent.actions, self.chat.parse(self.chat.action_text(candidate.action_tokens))],
            [a["observation"] for a in answers],
            [*parent.scores, candidate.score],
        )
        child.finished = last["terminated"] or last["truncated"] or len(child.actions) >= self.limits.max_turns
        child.success = last["success"]
        child.outcome = outcome_of(last, [a["reward"] for a in answers[1:]], graded=self.pool.description["graded"])
        if not child.finished:
            child.token_ids = tokens + self.chat.following(last["observation"], closed=self.chat.is_closed(candidate.action_tokens))
            if self._budget(child) < 1:  # cut by the context: neither success nor failure
                child.finished, child.outcome = True, math.nan
                self.faults["context_overflow"] += 1
        return child

    def _budget(self, node: Node) -> int:
        room = self.limits.max_tokens - len(node.token_ids)
        return room if self.limits.max_tokens_per_turn is None else min(room, self.limits.max_tokens_per_turn)

    def _ask(self, requests: Sequence[tuple[T, dict]]) -> Iterable[tuple[T, Reply]]:
        """Send every request to some worker; (who asked, reply) as they come, each pair once. What breaks is asked again, and counted."""
        waiting = [(who, request, 0) for who, request in requests][::-1]
        free = list(range(len(self.pool)))
        asked: dict[int, tuple[T, dict, int]] = {}
        while waiting or asked:
            while free and waiting:
                worker = free.pop()
                asked[worker] = waiting.pop()
                self.pool.send(worker, dict(asked[worker][1]))
            for reply in self.pool.poll(None):
                free.append(reply.worker)
                who, request, attempt = asked.pop(reply.worker)
                if reply.kind != "ok":
                    self.faults[reply.kind] += 1
                    if attempt < self.max_retries:
                        waiting.append((who, request, attempt + 1))
                        continue
                yield who, reply

    def _result(self, search: _Search) -> SearchResult:
        if not search.nodes:
            return SearchResult(search.task_id, float("nan"), search.sampled_actions, search.sampled_tokens, Node([]))
        finished = [node for node in search.nodes if node.finished] or search.nodes
        best = choose(finished, 1, self.margin)[0]
        outcome = float("nan") if search.broken else best.outcome
        return SearchResult(search.task_id, outcome, search.sampled_actions, search.sampled_tokens, best)
