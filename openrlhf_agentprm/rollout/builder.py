"""The state of one episode between the engine and the environment, with no input or output of its own.

The collector and the host's rollout actors drive it alike: `begin` with the reset's answer, then `act` with what was sampled and
`observe` with the step's answer, until `finished`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..agents.chat import ChatFormat
from ..core.errors import UserError
from ..data.episode import Episode, Status, Turn, episode_id
from .prefix import Prefix, check_replay


@dataclass(frozen=True)
class Assignment:
    """Which episode is to be played; its identity is known before it begins.

    One with a `prefix` begins in that state, and `sampling` says so: the prefix is no part of the identity. With `own_turns_only` the turns of the
    prefix are no turns of the episode but part of its prompt. `steer` is an instruction that is shown while the episode is sampled and is not
    stored; `sampling` says so too.
    """

    env: str
    task_id: str
    split: str
    seed: int
    sample: int
    policy: str
    policy_digest: str
    sampling: Mapping[str, Any]
    iteration: int = 0
    prefix: Prefix | None = None
    own_turns_only: bool = False
    steer: str = ""

    @property
    def episode_id(self) -> str:
        return episode_id(self.env, self.task_id, self.seed, self.sample, self.policy_digest, self.sampling, self.iteration)


@dataclass(frozen=True)
class Limits:
    """Limits of an episode.

    Args:
        max_turns: actions; reaching it is `truncated`.
        max_tokens: the context; an episode that does not fit ends as `context_overflow`.
        max_tokens_per_turn: cap of one action.
        invalid_action: what becomes of an action that the environment finds invalid: "message" (its own answer alone), "penalty" (its reward is
            less by `invalid_penalty`), "end" (that too, and the episode has failed).
        invalid_penalty: of an invalid action.
    """

    max_turns: int = 20
    max_tokens: int = 2048
    max_tokens_per_turn: int | None = None
    invalid_action: str = "message"
    invalid_penalty: float = 0.0

    def ruled(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """A step's answer, by the rule for invalid actions."""
        if answer["valid_action"] or self.invalid_action == "message":
            return answer
        answer = {**answer, "reward": answer["reward"] - self.invalid_penalty}
        if self.invalid_action == "end" and not answer["terminated"]:
            answer |= {"terminated": True, "truncated": False, "success": False}
        return answer


INVALID_ACTION = ("message", "penalty", "end")


def outcome_of(last: Mapping[str, Any], rewards: Sequence[float], *, graded: bool) -> float:
    """An episode's outcome from its last answer: success, or the environment's own number (else the sum of its rewards) if it grades."""
    if not graded:
        return float(last["success"])
    return float(sum(rewards) if last.get("outcome") is None else last["outcome"])


class EpisodeBuilder:
    """Grows one episode, keeping the engine's own token ids from first to last.

    Args:
        assignment: which episode.
        chat: prompts and actions.
        limits: when it ends.
        graded: the outcome is the environment's own number, not just success.
    """

    def __init__(self, assignment: Assignment, chat: ChatFormat, limits: Limits, *, graded: bool = False) -> None:
        self.assignment = assignment
        self.chat = chat
        self.limits = limits
        self.graded = graded
        self.finished = False
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.turns: list[Turn] = []
        self._instruction = ""
        self._observation = ""
        self._action_start: int | None = None  # of an action that a prefix has begun
        self._steered: list[int] = []  # the first prompt that the engine is shown in place of the nominal one
        self._nominal = 0  # tokens of the nominal one
        self._status: Status | None = None
        self._ended: dict[str, Any] = {"terminated": False, "truncated": False, "outcome": 0.0, "error": ""}

    def begin(self, answer: Mapping[str, Any]) -> None:
        """The environment was reset."""
        self._instruction = answer["instruction"]
        self._observation = answer["observation"]
        first = self.chat.first(self._instruction, self._observation)
        if steer := self.assignment.steer:
            self._steered = self.chat.first("\n".join(filter(None, (self._instruction, steer))), self._observation)
            self._nominal = len(first)
        self._extend(first)

    def request(self) -> dict[str, Any]:
        """What brings an environment to where the episode begins; `begin` or `resume` takes the answer."""
        a = self.assignment
        begin = {"task_id": a.task_id, "seed": a.seed}
        if a.prefix is None:
            return {"do": "reset", **begin}
        return {"do": "replay", **begin, "actions": [self.chat.parse(turn.action) for turn in self._retold(a.prefix)]}

    def resume(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """The turns of the prefix were played again.

        Raises:
            UserError: they did not lead where they led before.
        """
        prefix = self.assignment.prefix
        assert prefix is not None
        check_replay(
            self.assignment.task_id, [t.observation for t in prefix.turns] + [prefix.observation], answers, "going on from a state"
        )
        if answers[-1].get("terminated") or answers[-1].get("truncated"):
            raise UserError(f"task {self.assignment.task_id!r} has ended after {len(prefix.turns)} actions when they were played again")
        self._instruction = answers[0]["instruction"]
        self._observation = prefix.observation
        self.turns = self._retold(prefix)
        self._action_start = prefix.action_start
        self._extend(prefix.token_ids, prefix.logprobs)

    def _retold(self, prefix: Prefix) -> list[Turn]:
        """The turns of a prefix; of those that were put together from steps the action is read from their tokens."""
        text = lambda turn: self.chat.action_text(prefix.token_ids[turn.action_start : turn.action_end])  # noqa: E731
        return [replace(turn, action=turn.action or text(turn)) for turn in prefix.turns]

    @property
    def prompt(self) -> list[int]:
        """What the engine is shown: the tokens so far, behind a first prompt that steers where there is one."""
        return [*self._steered, *self.token_ids[self._nominal :]] if self._steered else self.token_ids

    @property
    def _shown(self) -> int:
        """Tokens of the prompt, or of what is stored if that is longer: both have to fit."""
        return len(self.token_ids) + max(0, len(self._steered) - self._nominal)

    @property
    def budget(self) -> int:
        """Tokens that the next action may have."""
        room = self.limits.max_tokens - self._shown
        begun = 0 if self._action_start is None else len(self.token_ids) - self._action_start
        return room if self.limits.max_tokens_per_turn is None else min(room, self.limits.max_tokens_per_turn - begun)

    def act(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> str:
        """An action was sampled, or the rest of one that a prefix has begun; the text that the environment is to be given."""
        start = len(self.token_ids) if self._action_start is None else self._action_start
        self._action_start = None
        self.token_ids.extend(token_ids)
        self.logprobs.extend(logprobs if logprobs else [0.0] * len(token_ids))
        text = self.chat.action_text(self.token_ids[start:])
        self.turns.append(Turn(self._observation, text, start, len(self.token_ids)))
        return self.chat.parse(text)

    def observe(self, answer: Mapping[str, Any]) -> None:
        """The environment answered the action."""
        answer = self.limits.ruled(answer)
        turn = self.turns[-1]
        turn.reward = answer["reward"]
        turn.valid_action = answer["valid_action"]
        self._observation = answer["observation"]
        if answer["terminated"] or answer["truncated"]:
            self._end(answer)
        elif len(self.turns) >= self.limits.max_turns:
            self._end({**answer, "truncated": True})
        else:
            action = self.token_ids[turn.action_start : turn.action_end]
            self._extend(self.chat.following(self._observation, closed=self.chat.is_closed(action), action_tokens=action))

    def fail(self, status: Status, message: str) -> None:
        """The environment broke down."""
        self._finish(status, error=message)

    def episode(self) -> Episode:
        """The finished episode."""
        assert self.finished and self._status is not None
        a = self.assignment
        last = self.turns[-1].action_end if self.turns else len(self.token_ids)
        others = len(a.prefix.turns) if a.prefix and a.own_turns_only else 0
        return Episode(
            env=a.env,
            task_id=a.task_id,
            split=a.split,
            seed=a.seed,
            sample=a.sample,
            policy=a.policy,
            policy_digest=a.policy_digest,
            sampling=dict(a.sampling),
            iteration=a.iteration,
            status=self._status,
            outcome=float(self._ended["outcome"]),
            terminated=bool(self._ended["terminated"]),
            truncated=bool(self._ended["truncated"]),
            token_ids=self.token_ids[:last],
            logprobs=[] if self._steered else self.logprobs[:last],  # what is known is of other prompts
            turns=self.turns[others:],
            instruction=self._instruction,
            final_observation=self._observation,
            error=str(self._ended["error"]),
        )

    def _extend(self, token_ids: Sequence[int], logprobs: Sequence[float] = ()) -> None:
        self.token_ids.extend(token_ids)
        self.logprobs.extend(logprobs or [0.0] * len(token_ids))
        if self._shown >= self.limits.max_tokens:
            self._finish(Status.CONTEXT_OVERFLOW, truncated=True, error=f"{self._shown} of {self.limits.max_tokens} tokens")

    def _end(self, answer: Mapping[str, Any]) -> None:
        success = answer["success"]
        status = Status.SUCCESS if success else Status.TRUNCATED if not answer["terminated"] else Status.FAILURE
        outcome = outcome_of(answer, [t.reward for t in self.turns], graded=self.graded)
        self._finish(status, terminated=answer["terminated"], truncated=answer["truncated"], outcome=outcome)

    def _finish(self, status: Status, *, terminated: bool = False, truncated: bool = False, outcome: float = 0.0, error: str = "") -> None:
        self.finished = True
        self._status = status
        self._ended = {"terminated": terminated, "truncated": truncated, "outcome": outcome, "error": error}
