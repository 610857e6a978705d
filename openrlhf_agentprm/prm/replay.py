"""Replay: older episodes beside the newest iteration's, fewer or of less weight."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..data.episode import Episode


def replay_weights(episodes: Sequence[Episode], decay: float) -> list[float]:
    """w = ρ^(i_max − i) of an episode of iteration i, i_max the newest among these; every turn of it has that weight in the loss."""
    newest = max(e.iteration for e in episodes)
    return [decay ** (newest - e.iteration) for e in episodes]


def cap_older(episodes: Sequence[Episode], share: float, left_out: Counter[str]) -> list[Episode]:
    """Keep older iterations' episodes to at most a share of what is left; which ones, a hash of their ids says. The others are counted."""
    newest = max(e.iteration for e in episodes)
    older = sorted((e for e in episodes if e.iteration < newest), key=lambda e: hashlib.sha256(e.episode_id.encode()).digest())
    room = int(share / (1 - share) * (len(episodes) - len(older)) + 1e-9) if share < 1 else len(older)
    dropped = {id(e) for e in older[room:]}
    if dropped:
        left_out["more than --data.replay_share"] += len(dropped)
    return [e for e in episodes if id(e) not in dropped]


def iterations(episodes: Sequence[Episode], decay: float) -> dict[str, Any]:
    """By iteration: episodes and the weight of each, for the record."""
    counts = Counter(e.iteration for e in episodes)
    return {str(i): {"episodes": n, "weight": decay ** (max(counts) - i)} for i, n in sorted(counts.items())}
