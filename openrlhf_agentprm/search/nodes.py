"""Nodes, candidates and what a search keeps of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..data.layout import Span


@dataclass(eq=False)
class Node:
    """A path from the root: its tokens end with the prompt for the next action, with a step of a response, or with the last action if finished."""

    token_ids: list[int]
    actions: list[str] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)  # what the environment answered, the reset first
    scores: list[float] = field(default_factory=list)  # by which each action was chosen
    spans: list[Span] = field(default_factory=list)  # of the actions, in tokens
    rewards: list[float] = field(default_factory=list)
    last: Candidate | None = None  # the action that led here
    action_start: int | None = None  # inside a response: where it begins
    copies: int = 1  # sampled episodes that run through it (best-of-N)
    finished: bool = False
    success: bool = False
    outcome: float = 0.0

    @property
    def score(self) -> float:
        return self.scores[-1] if self.scores else 0.0


@dataclass(eq=False)
class Candidate:
    """An action sampled at a node."""

    parent: Node
    action_tokens: list[int]
    copies: int = 1  # how often it was sampled
    logprob: float = 0.0  # mean over its tokens, of the model without temperature
    q: float = 0.0  # what the scorer says of it
    v: float = 0.0  # and of the state that it is taken in
    score: float = 0.0  # what it is chosen by
    child: Node | None = None  # once it has been played
    extends: bool = False  # no step of its own: it is delimiters alone, or stands behind those that the response begins with

    @property
    def token_ids(self) -> list[int]:
        return self.parent.token_ids + self.action_tokens

    @property
    def response(self) -> list[int]:
        """The tokens of the whole action, with the steps that led here."""
        begun = self.parent.action_start
        return self.action_tokens if begun is None else self.token_ids[begun:]

    @property
    def spans(self) -> list[Span]:
        """Of all actions of the path, this one last."""
        end = len(self.token_ids)
        if self.extends:
            return [*self.parent.spans[:-1], (self.parent.spans[-1][0], end)]
        return [*self.parent.spans, (len(self.parent.token_ids), end)]

    def scores(self, own: float) -> list[float]:
        """By which each action of the path was chosen, this one by `own`."""
        before = self.parent.scores
        return [*(before[:-1] if self.extends else before), own]


Scorer = Callable[[Sequence[Candidate]], Sequence[tuple[float, float]]]
"""Candidates to (Q(s, a), V(s)) of each."""


@dataclass(eq=False)
class SearchResult:
    """The winning path of a task, and what it cost. An outcome of NaN is none: the environment broke, or the context cut the path."""

    task_id: str
    outcome: float
    sampled_actions: int
    sampled_tokens: int
    path: Node
    turns: int = 0  # environment steps, those not counted that only rebuild a state
    replayed_turns: int = 0
    budget_ended: bool = False


@dataclass(eq=False)
class TaskSearch:
    """One task's search."""

    task_id: str
    nodes: list[Node] = field(default_factory=list)
    sampled_actions: int = 0
    sampled_tokens: int = 0
    turns: int = 0
    replayed_turns: int = 0
    broken: bool = False
    plain: bool = False  # the budget allows no more search: the best path is played to its end as greedy decoding has it

    @property
    def live(self) -> list[Node]:
        return [node for node in self.nodes if not node.finished]
