"""An engine whose distribution is known, for what can be worked out by hand."""

import random

from openrlhf_agentprm.rollout.engine import Sampled


class TableEngine:
    """Each completion is "up" or "stop", by a fair coin; of a request's own seed where it has one, and greedily "up"."""

    max_model_len = 128

    def __init__(self, chat, seed=0):
        self.actions = [chat.tokenizer.encode(word, add_special_tokens=False) + [chat.stop_token_ids[0]] for word in ("up", "stop")]
        self.random = random.Random(seed)
        self.queue, self.asked, self.logprobs = [], [], {}

    def submit(self, request_id, token_ids, sampling, max_tokens, stop_token_ids):
        assert max_tokens >= 1
        coin = self.random if sampling.seed is None else random.Random(sampling.seed)
        action = coin.choice(self.actions) if sampling.temperature else self.actions[0]
        self.asked.append((request_id, list(token_ids), sampling))
        self.queue.append(Sampled(request_id, action[:max_tokens], self.logprobs[action[0]] if self.logprobs else []))

    def step(self):
        self.random.shuffle(self.queue)  # completions end in any order
        return [self.queue.pop()]

    unfinished = property(lambda self: len(self.queue))
