"""What a PRM in the loop costs: PPO steps with one beside the host's own steps with a reward model of the same size.

    python tests/benchmarks/throughput.py [ROUNDS]

Both train the same policy without a critic (the host's rloo; turn_gae with the PRM's values) on the same prompts, 16 of 4 samples a step. The
two commands alternate; each figure is a median over all steps but the first of each run. Ours are episodes of one turn of an agent, as the
host's reward model judges single answers.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
PROMPTS, SAMPLES, STEPS = 16, 4, 6
AGENT = """
import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor


class Once(AgentInstanceBase):
    def __init__(self, *args, **kwargs):
        pass

    async def reset(self, states, **kwargs):
        return {"observation": states["observation"]}

    async def step(self, states, **kwargs):
        won = torch.tensor(float(len(states["action_text"]) % 2))
        return {"rewards": won, "scores": won, "environment_feedback": "", "done": True, "sampling_params": states["sampling_params"]}


class AgentExecutor(MultiTurnAgentExecutor):
    def __init__(self):
        super().__init__(Once)
"""
LINE = [
    "--data.max_len", 256, "--rollout.max_new_tokens", 64,
    "--actor.num_gpus_per_node", 1, "--ref.num_gpus_per_node", 1, "--reward.num_gpus_per_node", 1,
    "--vllm.num_engines", 1, "--vllm.enforce_eager", "--vllm.gpu_memory_utilization", 0.05, "--vllm.sync_backend", "gloo",
    "--rollout.batch_size", PROMPTS, "--rollout.n_samples_per_prompt", SAMPLES, "--rollout.micro_batch_size", 8,
    "--train.batch_size", PROMPTS * SAMPLES, "--train.micro_batch_size", 8, "--ds.zero_stage", 0, "--ds.attn_implementation", "sdpa",
    "--data.input_key", "input", "--data.label_key", "label",
]  # fmt: skip


def make(folder: Path) -> list[object]:
    """A policy, a reward model and a PRM of its size, prompts, an agent; the flags that both runs share."""
    from launching import module

    from openrlhf_agentprm.agents.chat import load_tokenizer
    from openrlhf_agentprm.prm.model import save_prm, start_from
    from openrlhf_agentprm.prm.record import Record

    policy = folder / "policy"
    size = ["--tiny.hidden_size", 512, "--tiny.layers", 8, "--tiny.heads", 8]
    module("tiny_policy", "--env.name", "babyai", "--env.num_tasks", 100, "--tiny.output", policy, *size)
    tokenizer = load_tokenizer(str(policy))
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    rng = random.Random(0)
    rows = [{"input": " ".join(rng.choices(words, k=120)), "label": ""} for _ in range(PROMPTS * STEPS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "agent.py").write_text(AGENT)
    save_prm(start_from(str(policy), dtype="bf16", seed=0), tokenizer, folder / "prm", Record(method="td_gae"))
    return [
        *LINE,
        "--data.prompt_dataset",
        folder / "prompts.jsonl",
        "--actor.model_name_or_path",
        policy,
        "--ckpt.output_dir",
        folder / "out",
    ]


def timings(folder: Path, flags: list[object]) -> list[dict[str, float]]:
    """Every step but the first."""
    from host.test_ppo import steps
    from launching import module

    done = module("train_ppo_ray", *flags, "--ckpt.path", folder / "state")
    return [row for number, row in sorted(steps(done.stdout + done.stderr).items()) if number > 1]


def main(rounds: int = 2) -> None:
    with tempfile.TemporaryDirectory(prefix="thr-", dir="/tmp") as name:
        folder = Path(name)
        shared = make(folder)
        ours = ["--prm.model_name_or_path", folder / "prm", "--train.agent_func_path", folder / "agent.py"]
        ours += ["--algo.advantage.estimator", "turn_gae", "--algo.advantage.values", "prm"]
        ours += ["--env.max_tokens_per_turn", 64]  # an agent's turn has all of the context else, and its answers are longer than the host's
        theirs = ["--reward.model_name_or_path", folder / "policy", "--algo.advantage.estimator", "rloo"]
        rows: dict[str, list[dict[str, float]]] = {"the host with a reward model": [], "with a PRM": []}
        for _ in range(rounds):
            for kept, flags in zip(rows.values(), (theirs, ours), strict=True):
                kept += timings(folder, [*shared, *flags])
        names = [n for n in rows["with a PRM"][0] if n.startswith("timing/")]
        median = {who: {n: statistics.median(row[n] for row in found) for n in names} for who, found in rows.items()}
        print("| seconds a step | " + " | ".join(n.removeprefix("timing/") for n in names) + " |\n|---|" + "---|" * len(names))
        for who, values in median.items():
            print(f"| {who} | " + " | ".join(f"{values[n]:.3f}" for n in names) + " |")
        host, prm = (values["timing/step_total"] for values in median.values())
        own = statistics.median(row["agentprm/time_advantages_s"] / row["timing/step_total"] for row in rows["with a PRM"])
        print(f"\na step with a PRM takes {prm / host - 1:+.0%} of the host's own with a reward model (wanted: at most +25 %)")
        print(f"turns and their advantages take {own:.1%} of a step (wanted: at most 3 %)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
