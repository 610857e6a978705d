"""When two turns are visits of one state and action."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def state_keys(token_ids: np.ndarray, ends: Sequence[int], env: str, task_id: str) -> list[bytes]:
    """A digest of the task and of the tokens up to each of `ends`: the state as the policy sees it.

    Keys never reach over tasks, so a split by task lets no outcome of one side into the labels of the other.

    Args:
        token_ids: int32.
        ends: rising.
    """
    digest = hashlib.blake2b(f"{env}\0{task_id}\0".encode(), digest_size=16)
    found, at = [], 0
    for end in ends:
        digest.update(np.ascontiguousarray(token_ids[at:end], dtype=np.int32).data)
        found.append(digest.digest())
        at = end
    return found
