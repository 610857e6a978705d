"""Ways of ranking candidate actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

from ..core.errors import UserError
from ..core.search_values import best_of_k, effective_reward
from ..prm.scoring import RewardModel, score_all
from ..prm.tree_scoring import Branches, score_branches, takes_branches
from .nodes import Candidate, Node, Scorer


@dataclass(frozen=True)
class Pav:
    """The effective reward Q + α · A^μ in place of Q (arXiv 2410.08146).

    Args:
        alpha: α.
        prover: a PRM of the prover's promises Q^μ and V^μ; None: best-of-K of the searched PRM's own, in closed form.
        k: K of best-of-K.
    """

    alpha: float = 0.5
    prover: RewardModel | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        if (self.prover is None) == (self.k is None):
            raise UserError("PAV's effective reward needs one prover: another PRM, or the K of best-of-K, not both")


def prm_scorer(prm: RewardModel, pav: Pav | None = None) -> Scorer:
    """Q(s, a) of the PRM at the action's last token, and V(s); with `pav` the effective reward for Q."""

    def score(candidates: Sequence[Candidate]) -> list[tuple[float, float]]:
        q, v = promises(prm, candidates)
        if pav is not None:
            if pav.prover is not None:
                prover_q, prover_v = promises(pav.prover, candidates)
            else:
                assert pav.k is not None
                prover_q, prover_v = best_of_k(q, pav.k), best_of_k(v, pav.k)
            q = effective_reward(q, prover_q, prover_v, pav.alpha)
        return list(zip(q.tolist(), v.tolist(), strict=True))

    return score


def promises(prm: RewardModel, candidates: Sequence[Candidate]) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and V of each candidate, (len,) float32: those of one node behind their prefix in one pass, where the PRM takes that.

    What extends the step before it is scored by itself: its V is read before that step.
    """
    q, v = torch.empty(len(candidates)), torch.empty(len(candidates))
    alone = list(range(len(candidates)))
    if takes_branches(prm):
        groups: dict[int, list[int]] = {}
        alone = [i for i, candidate in enumerate(candidates) if candidate.extends]
        for i, candidate in enumerate(candidates):
            if not candidate.extends:
                groups.setdefault(id(candidate.parent), []).append(i)
        wanted = []
        for members in groups.values():
            parent: Node = candidates[members[0]].parent
            wanted.append(Branches(parent.token_ids, parent.spans, [candidates[i].action_tokens for i in members]))
        for members, (q_M, v_node) in zip(groups.values(), score_branches(prm, wanted), strict=True):
            q[members], v[members] = q_M, v_node
    found = score_all(prm, [candidates[i].token_ids for i in alone], [candidates[i].spans for i in alone])
    for i, (q_K, v_K) in zip(alone, found, strict=True):
        q[i], v[i] = q_K[-1], v_K[-1]
    return q, v


def random_scorer(seed: int) -> Scorer:
    """Uniform noise: the same search without knowledge, the control of every search result.

    Noise belongs to every sampled action, and of equal ones the highest counts (the highest of k draws is U^{1/k}). So the best of M actions
    is one of the M at random, as the policy meant it; noise for each different action would prefer rare ones. It is made of the seed and of
    the path's tokens, so that the order of tasks does not matter; V(s) is the noise of the path that led to s.
    """

    def noise(token_ids: list[int]) -> float:
        digest = blake2b(f"{seed}:{','.join(map(str, token_ids))}".encode(), digest_size=7).digest()
        return (int.from_bytes(digest, "little") + 0.5) / 2**56

    return lambda candidates: [(noise(c.token_ids) ** (1 / c.copies), noise(c.parent.token_ids)) for c in candidates]
