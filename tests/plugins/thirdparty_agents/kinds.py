"""A third party's kind of reward model, with an objective of its own to train it by."""

import torch

from openrlhf_agentprm.prm.dataset import collate
from openrlhf_agentprm.prm.objective import read
from openrlhf_agentprm.prm.scoring import ScalarPRM


class Median(ScalarPRM):
    """A kind that can be trained: every turn's score against the outcome by absolute error. All else is as in `scalar`."""

    @staticmethod
    def objective(train, args, labels):
        return AbsoluteError(train)

    @staticmethod
    def problems(args):
        return []

    @staticmethod
    def reads(args):
        return ("label.shuffle_seed",)

    @staticmethod
    def recorded(args):
        return {"values": "previous_q", "output": "linear", "value_trained": False, "scale": "probability"}


class AbsoluteError:
    scale = "probability"

    def __init__(self, train):
        self.train = train
        self.lengths = [len(e.token_ids) for e in train]

    def batch(self, items):
        return collate([self.train[i] for i in items])

    def counts(self, part):
        return part.positions.mask_BK.sum().float()[None]

    def loss(self, model, part, counts):
        q_BK, _ = read(model, part)
        errors_BK = (q_BK - part.outcome_B[:, None]).abs()
        return torch.where(part.positions.mask_BK, errors_BK, 0.0).sum() / counts[0], {}

    def scores(self, model, part):
        return read(model, part)
