"""An agent as users of the host write it: its own classes, no word of this package."""

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor


class Guess(AgentInstanceBase):
    def __init__(self, *args, **kwargs):
        self.turns = 0

    async def reset(self, states, **kwargs):
        return {"observation": states["observation"]}

    async def step(self, states, **kwargs):
        self.turns += 1
        right = "stop" in states["action_text"]
        done = right or self.turns >= 3
        reward = torch.tensor(1.0 if right else -0.1)
        return {
            "rewards": reward,
            "scores": torch.tensor(float(right)),
            "environment_feedback": "" if self.turns == 2 else "<|user|>again<|assistant|>",
            "done": done,
            "sampling_params": states["sampling_params"],
            "extra_logs": {"agent_turns": torch.tensor(float(self.turns))},
        }


class AgentExecutor(MultiTurnAgentExecutor):
    def __init__(self):
        super().__init__(Guess)
