"""An executor that answers the same episodes in every run, so that two runs can be compared to the bit."""

import hashlib

from openrlhf.utils.agent import AgentExecutorBase


class AgentExecutor(AgentExecutorBase):
    def __init__(self):
        self.asked = {}

    async def execute(self, prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images=None):
        number = self.asked[prompt] = self.asked.get(prompt, -1) + 1
        noise = hashlib.sha256(f"{prompt}{number}".encode()).digest()
        tokens = hf_tokenizer.encode(prompt, add_special_tokens=False)
        ranges, rewards = [], []
        for turn in range(1 + noise[0] % 3):
            action = [5 + noise[1 + turn + k] % 8 for k in range(1 + noise[4 + turn] % 3)]
            ranges.append((len(tokens), len(tokens) + len(action)))
            rewards.append(0.0)
            tokens = tokens + action + ([6, 7] if noise[8] % 2 else [])
        reward = float(noise[9] % 2)
        return {
            "prompt": prompt, "label": label, "images": None, "mm_train_inputs": None, "reward": reward, "scores": reward,
            "observation_tokens": tokens, "action_ranges": ranges, "rollout_log_probs": None, "truncated": False, "extra_logs": {},
        }  # fmt: skip
