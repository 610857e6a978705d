"""PPO with tool calls in a real model's template: what the policy writes is read as a call, the tool answers, and turns are trained on."""

import json
import math

import pytest
import torch
from real_templates import tokenizer_of
from test_ppo import ppo

from openrlhf_agentprm.agents.tiny import make_model, save_policy
from openrlhf_agentprm.rollout.builder import Assignment
from openrlhf_agentprm.rollout.config import EnvConfig
from openrlhf_agentprm.rollout.demonstrate import demonstrate

pytestmark = pytest.mark.host
ENV = {"items": 1}
TASKS = 16


def first_calls(tokenizer, folder):
    """Of each task Qwen2.5's prompt with the tools, and the expert's first call: token ids, and where the call begins."""
    tokenizer.save_pretrained(folder)
    config = EnvConfig("tools_arithmetic", args=ENV, num_workers=1, action_format="tool_call", max_turns=2)
    with config.pool() as pool:
        tasks = [Assignment(pool.name, task, "train", 0, 0, "p", "d", {}) for task in pool.tasks("train", 0, TASKS)]
        turns = [(e.token_ids, e.turns[0]) for e in demonstrate(tasks, pool, config.chat(str(folder)), config.limits(4096))]
    return [(ids[: turn.action_end], turn.action_start) for ids, turn in turns]


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A policy that has learnt the expert's first call of each task; its tokenizer has learnt the prompt's words, so that a prompt is short."""
    folder = tmp_path_factory.mktemp("caller") / "policy"
    letters = tokenizer_of("qwen2_5")
    texts = [letters.decode(ids) for ids, _ in first_calls(letters, folder)]
    tokenizer = letters.train_new_from_iterator(texts, vocab_size=700)
    calls = first_calls(tokenizer, folder)
    model = make_model(tokenizer, layers=2).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(600):
        ids, start = calls[step % TASKS]
        ids_BL = torch.tensor([ids])
        losses.append(model(input_ids=ids_BL, labels=ids_BL.masked_fill(torch.arange(len(ids)) < start, -100)).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert sum(loss.item() for loss in losses[-TASKS:]) / TASKS < 0.12, "a call of 25 tokens is known but for its item, log(10) / 25 = 0.09"
    save_policy(model.to(torch.bfloat16), tokenizer, folder)
    return folder


def test_calls_are_made_answered_and_trained_on(caller, tmp_path):
    found, _ = ppo(
        "--env.name", "tools_arithmetic", "--env.args", json.dumps(ENV), "--env.action_format", "tool_call", "--env.num_tasks", TASKS,
        "--env.max_turns", 2, "--env.max_tokens_per_turn", 40, "--env.num_workers", 8, "--env.invalid_action", "penalty",
        "--env.invalid_penalty", 0.5, "--data.max_len", 1024, "--algo.kl.init_coef", 0, "--algo.advantage.estimator", "turn_gae",
        "--algo.advantage.reward", "environment", "--actor.model_name_or_path", caller, "--critic.model_name_or_path", caller,
        "--actor.adam.lr", 1e-5, "--ckpt.output_dir", tmp_path / "out",
    )  # fmt: skip
    assert sorted(found) == [1, 2]
    for status in found.values():
        assert status["turns/per_episode"] > 1.8 and status["status/truncated"] >= 14, "it has not learnt to hand in an answer"
        assert status["valid_actions"] > 0.25, "of the first turn most"
        assert math.isfinite(status["policy_loss"]) and abs(status["logprobs_diff"]) < 0.1
    assert any(status["actor_grad_norm"] > 0 for status in found.values()), "turns without a call pay a penalty"
