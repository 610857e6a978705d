"""A third party's label, advantage estimator and reward models."""

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


class Repeats:
    """A flaw to be found: Q = 1 for an action equal to the one before it, else 0; V is Q of the turn before."""

    @classmethod
    def load(cls, path):
        return cls()

    def score(self, batch):
        q_BK = torch.zeros(batch.positions.mask_BK.shape)
        for row, (ids, begins, ends, mask) in enumerate(zip(batch.input_ids_BT, *self.of(batch.positions), strict=True)):
            actions = [ids[b + 1 : e + 1].tolist() for b, e in zip(begins[mask], ends[mask], strict=True)]
            for turn in range(1, len(actions)):
                q_BK[row, turn] = float(actions[turn] == actions[turn - 1])
        return ProcessScores(q_BK, torch.nn.functional.pad(q_BK[:, :-1], (1, 0)) * batch.positions.mask_BK)

    @staticmethod
    def of(positions):
        return positions.v_BK, positions.q_BK, positions.mask_BK
