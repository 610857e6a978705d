"""Everything about a search that is no method: how it ranks, what it may cost, how it rebuilds states."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import UserError
from .budget import Budget

RULES = ("uct", "puct")
PRIORS = ("frequency", "logprob")
RESTORE = ("replay", "snapshot")


@dataclass(frozen=True)
class Options:
    """How a search is made.

    Args:
        seed: of environments and samples.
        max_retries: times that a reset or a replay which broke is asked again; then its task has no outcome.
        margin: scores at most this far below the highest count as equal to it.
        policy_margin: by how much an action has to beat the one that the policy samples most.
        logprob_weight: w of score + w · mean log-probability of the action's tokens.
        budget: ceilings.
        restore: "replay" the actions that led to a state, or restore a "snapshot" of it.
        step_tokens: token ids that end a step inside a response: what is sampled, scored and chosen are steps, and the environment is given the
            whole response once it has ended.
        mcts_rule, mcts_prior, mcts_actions, exploration, rollout_weight: of `mcts`, see there.
        lookahead_temperature: of the continuation's actions; 0 is greedy.

    Raises:
        UserError: a rule, a prior or a way to restore that does not exist.
    """

    seed: int = 0
    max_retries: int = 2
    margin: float = 0.0
    policy_margin: float = 0.0
    logprob_weight: float = 0.0
    budget: Budget = Budget()
    restore: str = "replay"
    step_tokens: tuple[int, ...] = ()
    mcts_rule: str = "puct"
    mcts_prior: str = "frequency"
    mcts_actions: int = 4
    exploration: float = 1.0
    rollout_weight: float = 0.0
    lookahead_temperature: float = 0.0

    def __post_init__(self) -> None:
        named = {"mcts_rule": RULES, "mcts_prior": PRIORS, "restore": RESTORE}
        if wrong := [
            f"{n} is {getattr(self, n)!r}; allowed: {', '.join(names)}" for n, names in named.items() if getattr(self, n) not in names
        ]:
            raise UserError(wrong)
