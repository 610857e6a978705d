"""An engine whose distribution is known, for what can be worked out by hand."""

import random

from openrlhf_agentprm.rollout.engine import Sampled


class TableEngine:
    """Each completion is "up" or "stop", by a fair coin."""

    max_model_len = 128

    def __init__(self, chat, seed=0):
        self.actions = [chat.tokenizer.encode(word, add_special_tokens=False) + [chat.stop_token_ids[0]] for word in ("up", "stop")]
        self.random = random.Random(seed)
        self.queue = []

    def submit(self, request_id, token_ids, sampling, max_tokens, stop_token_ids):
        assert max_tokens >= 1
        self.queue.append(Sampled(request_id, self.random.choice(self.actions)))

    def step(self):
        self.random.shuffle(self.queue)  # completions end in any order
        return [self.queue.pop()]

    unfinished = property(lambda self: len(self.queue))
