"""Ways of ranking candidate actions."""

from __future__ import annotations

import random

from ..data.layout import Span
from ..prm.scoring import RewardModel, score_all
from .tree import Scorer


def prm_scorer(prm: RewardModel) -> Scorer:
    """Q(s, a) of the PRM at the action's last token."""

    def score(token_ids: list[list[int]], spans: list[Span]) -> list[float]:
        return [float(q_K[-1]) for q_K, _ in score_all(prm, token_ids, [[span] for span in spans])]

    return score


def random_scorer(seed: int) -> Scorer:
    """Uniform noise: the same search without knowledge, the control of every search result."""
    rng = random.Random(seed)
    return lambda token_ids, spans: [rng.random() for _ in spans]
