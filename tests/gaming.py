"""PPO on a counting game with a PRM that pays for repeating oneself: a policy to start from, a run, what its monitors wrote."""

import json
from pathlib import Path

import torch
from launching import module

from openrlhf_agentprm.data.store import EpisodeStore

PAYS = {  # what the flaw can earn in an episode, and the flags that ask for it; one line a form
    "sum": ["--algo.advantage.process_reward", "promise"],  # as much as there are turns
    "progress": ["--algo.advantage.process_reward", "progress", "--algo.advantage.force_enable"],  # at most the last score, 1
    "delta": ["--algo.advantage.process_reward", "delta"],  # at most the last score, 1
    "min_form": ["--algo.advantage.process_reward", "min_form"],  # at most the lowest score, 0 in the first turn
    "outcome": ["--algo.advantage.process_reward", "none"],
}
_RUN = [
    "--env.name", "thirdparty_patient", "--env.max_turns", 6, "--env.max_tokens_per_turn", 4, "--env.num_workers", 8, "--data.max_len", 96,
    "--prm.name", "thirdparty_repeats", "--prm.model_name_or_path", "nowhere", "--algo.advantage.estimator", "turn_gae",
    "--algo.advantage.values", "prm", "--env.num_tasks", 32, "--algo.advantage.lambd", 1, "--algo.kl.init_coef", 0,
    "--actor.lr_scheduler", "constant", "--actor.num_gpus_per_node", 1,
    "--ref.num_gpus_per_node", 1, "--critic.num_gpus_per_node", 1, "--vllm.num_engines", 1, "--vllm.enforce_eager",
    "--vllm.gpu_memory_utilization", 0.05, "--vllm.sync_backend", "gloo", "--rollout.batch_size", 32, "--rollout.n_samples_per_prompt", 4,
    "--rollout.micro_batch_size", 64, "--train.batch_size", 128, "--train.micro_batch_size", 64, "--ds.zero_stage", 0,
    "--ds.attn_implementation", "sdpa",
]  # fmt: skip


def gamed(policy, folder, *flags, steps, **kwargs):
    """A watched run of so many steps, each of 4 episodes of the same 32 tasks; the rows of its `monitor.jsonl`, and its output."""
    folder = Path(folder)
    line = [
        "--actor.model_name_or_path",
        policy,
        "--train.num_episodes",
        steps,
        "--ckpt.output_dir",
        folder,
        "--ckpt.path",
        folder / "state",
    ]
    done = module("train_ppo_ray", *_RUN, *line, *flags, **kwargs)
    return rows_of(folder), done.stdout + done.stderr


def rows_of(folder):
    """What a watched run wrote, by kind."""
    rows = {"training": [], "held_out": [], "alarm": []}
    for row in map(json.loads, (Path(folder) / "monitor.jsonl").read_text().splitlines()):
        rows[row["kind"]].append(row)
    return rows


def success(rows, step, reach=1):
    """Mean success of training batches at most `reach` steps away: 384 episodes with reach 1."""
    near = [row["success"] for row in rows["training"] if abs(row["step"] - step) <= reach]
    return sum(near) / len(near)


def imitate(start, store, folder, *, epochs=12, lr=3e-3, seed=0):
    """A copy of a policy, trained on the actions of a store's successes, in seconds."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from openrlhf_agentprm.agents.tiny import save_policy

    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    episodes = sorted((e for e in EpisodeStore(store).episodes() if e.outcome > 0.5), key=lambda e: e.task_id)
    width = max(len(e.token_ids) for e in episodes)
    ids, labels = torch.zeros(len(episodes), width, dtype=torch.long), torch.full((len(episodes), width), -100)
    for row, episode in enumerate(episodes):
        ids[row, : len(episode.token_ids)] = torch.tensor(episode.token_ids)
        for turn in episode.turns:
            labels[row, turn.action_start : turn.action_end] = ids[row, turn.action_start : turn.action_end]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(episodes), generator=shuffle).split(16):
            loss = model(input_ids=ids[rows], labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_policy(model, tokenizer, folder)
    return float(loss.detach())
