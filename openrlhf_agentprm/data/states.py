"""When two turns are visits of one state and action."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from .layout import Span


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


def anchor_keys(token_ids: np.ndarray, spans: Sequence[Span], *, whole: bool) -> list[int]:
    """A signed 64-bit number for the state that each turn begins in, by tokens: what was observed since the turn before, or the whole history.

    Args:
        token_ids: of one episode.
        spans: of its turns.
        whole: by the history.
    """
    found, seen_from, before = [], 0, -1
    for start, end in spans:
        if start > before:  # a step that follows another at once is in the state that its response began in, and what it has written since
            seen_from = max(before, 0)
        seen = np.ascontiguousarray(token_ids[0 if whole else seen_from : start], dtype=np.int64)
        found.append(int.from_bytes(hashlib.blake2b(seen.tobytes(), digest_size=8).digest(), "big", signed=True))
        before = end
    return found
