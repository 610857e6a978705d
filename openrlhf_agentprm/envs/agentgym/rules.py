"""What a step of a server means: the reward, whether and how the episode ended, and whether the action was carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .profile import Profile
from .reading import Step


@dataclass(frozen=True)
class Judged:
    """A step in the terms of an episode; `outcome` is None where success alone grades."""

    reward: float
    terminated: bool
    truncated: bool
    success: bool
    valid: bool
    outcome: float | None


def judge(p: Profile, step: Step, last: Step | None, *, action: str, before: str, admissible: Sequence[str] | None) -> Judged:
    """What a step means.

    Args:
        p: of the server.
        step: what came.
        last: the step before; None: there was none.
        action: that was sent.
        before: the observation that it answered.
        admissible: the actions that were listed with it; None: none were.
    """
    said = p.success_text != "" and p.success_text in step.text and step.reward != 0  # a mission that has failed is called completed too
    reached = {"done": p.success_at, "reward": step.reward, "score": step.score or 0.0}[p.success_by] >= p.success_at
    success = said or (step.done and reached)
    terminated = step.done or said
    limit = not success and (step.truncated or (terminated and p.loss_is_limit))
    reward = (step.reward - (last.reward if last else 0.0) if p.running else step.reward) / p.scale
    graded = {"": None, "reward": step.reward, "score": step.score}[p.outcome]
    return Judged(
        reward=reward,
        terminated=terminated and not limit,
        truncated=limit,
        success=success,
        valid=_valid(p, step, action, before, admissible),
        outcome=None if graded is None else min(1.0, max(0.0, graded / p.scale)),
    )


def _valid(p: Profile, step: Step, action: str, before: str, admissible: Sequence[str] | None) -> bool:
    """By the list that was shown; else by how the answer begins."""
    if admissible is not None:
        return action in admissible or (p.any_case and action.lower() in {listed.lower() for listed in admissible})
    return (
        bool(action)
        and not step.text.startswith(p.invalid or "\0")
        and not (p.unchanged_is_invalid and step.text == before and not step.done)
    )
