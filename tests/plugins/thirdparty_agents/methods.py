"""A third party's label, advantage estimator and reward model."""

import torch

from openrlhf_agentprm.core.batches import ProcessScores, TurnAdvantages


def constant(batch, *, kl_coef, scale=1.0):
    advantages = scale * batch.action_mask_BT.float()
    metrics = {"thirdparty/turns": float(batch.mask_BK.sum()), "thirdparty/scale": scale, "thirdparty/kl_coef": kl_coef}
    return TurnAdvantages(advantages, torch.zeros_like(advantages), metrics)


def half(batch):
    return torch.full_like(batch.q_BK, 0.5)


class Position:
    """Scores a turn by its number: Q = k, V = k − 1."""

    @classmethod
    def load(cls, path):
        assert path == "nowhere"
        return cls()

    def score(self, batch):
        k_BK = batch.positions.mask_BK.cumsum(1).float()
        return ProcessScores(k_BK, k_BK - 1)
