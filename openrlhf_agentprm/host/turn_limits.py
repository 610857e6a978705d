"""Limits of one turn inside the rollout actor: a cap of tokens and stop tokens by id, for every agent executor."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

from .activate import report as report  # what is active in the rollout actor, sent with its workers' reports

ROLLOUT_VARIABLE = "OPENRLHF_AGENTPRM_ROLLOUT"


@functools.cache
def rollout_settings() -> dict[str, Any]:
    """What the driver told the rollout actors; empty without our flags."""
    return json.loads(os.environ.get(ROLLOUT_VARIABLE, "{}"))


def limit_turn(sampling_params: Any) -> Any:
    """The sampling parameters of one turn, with the cap and the stop tokens of `--env.*`."""
    settings = rollout_settings()
    cap = settings.get("max_tokens_per_turn")
    if cap is not None:
        left = sampling_params.max_tokens
        sampling_params.max_tokens = cap if left is None else min(left, cap)
    if stop := settings.get("stop_token_ids"):
        sampling_params.stop_token_ids = sorted({*(sampling_params.stop_token_ids or []), *stop})
    return sampling_params
