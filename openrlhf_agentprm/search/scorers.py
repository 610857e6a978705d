"""Ways of ranking candidate actions."""

from __future__ import annotations

import random

from ..data.layout import Span
from ..prm.scoring import RewardModel, score_all
from .tree import Scorer


def prm_scorer(prm: RewardModel) -> Scorer:
    """Q(s, a) of the PRM at the action's last token."""

    def score(token_ids: list[list[int]], spans: list[Span], copies: list[int]) -> list[float]:
        return [float(q_K[-1]) for q_K, _ in score_all(prm, token_ids, [[span] for span in spans])]

    return score


def random_scorer(seed: int) -> Scorer:
    """Uniform noise: the same search without knowledge, the control of every search result.

    Noise is drawn for every sampled action, and of equal ones the highest counts (the highest of k draws is U^{1/k}). So the best of M actions
    is one of the M at random, as the policy meant it; noise for each different action would prefer rare ones.
    """
    rng = random.Random(seed)
    return lambda token_ids, spans, copies: [rng.random() ** (1 / k) for k in copies]
