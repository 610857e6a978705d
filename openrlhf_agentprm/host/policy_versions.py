"""Which weights sampled a turn: inside the rollout actor, where a partial rollout may be paused for new ones in the middle of a turn."""

from __future__ import annotations

from typing import Any


def noted(engine: Any, last_parameter: bool) -> None:
    """Count an update of the weights, which is whole with its last parameter; generation is paused or over until then,
    and what was given up is out of the engine."""
    engine.policy_version = version(engine) + int(last_parameter)


def version(engine: Any) -> int:
    """Updates of the weights so far; 0 are those that the engine was started with."""
    return getattr(engine, "policy_version", 0)


def stamped(output: Any, engine: Any, began: int) -> Any:
    """A request's output, with the version that it began under and the one that it ended under."""
    if output is not None:
        output.policy_versions = (began, version(engine))
    return output
