"""Which of the host's features run together with a PRM and turn-level advantages: a real PPO run of two steps for each.

    python tests/benchmarks/combinations.py [NAME…]

Every run has a policy, its reference, a critic, a PRM and environments, on whatever machine this is; on a CPU it is the tiny policy of the tests.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS / "plugins"), os.environ.get("PYTHONPATH", "")]))

COMBINATIONS = {
    "as it comes": [],
    "dynamic batch": ["--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", 512, "--rollout.max_tokens_per_gpu", 512],
    "LoRA": ["--ds.lora.rank", 4],
    "ZeRO-2, two ranks": [
        "--ds.zero_stage",
        2,
        "--train.batch_size",
        16,
        "--train.micro_batch_size",
        4,
        "--actor.num_gpus_per_node",
        2,
        "--critic.num_gpus_per_node",
        2,
        "--prm.num_gpus_per_node",
        2,
    ],
    "ZeRO-3": ["--ds.zero_stage", 3],
    "hybrid engine": ["--train.colocate_all"],
    "hybrid engine with a sleeping vLLM": ["--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep"],
    "colocated pairs": ["--train.colocate_actor_ref", "--train.colocate_critic_reward", "--reward.num_gpus_per_node", 1],
    "KL in the loss, k3": ["--algo.kl.use_loss", "--algo.kl.estimator", "k3"],
    "KL in the loss, k2": ["--algo.kl.use_loss", "--algo.kl.estimator", "k2"],
    "KL in the reward, k3": ["--algo.kl.estimator", "k3"],
    "dynamic filtering": ["--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", -0.5, 1.5],
    "asynchronous": ["--train.async_enable", "--train.async_queue_size", 2],
    "partial rollouts": ["--train.async_enable", "--train.partial_rollout_enable"],
    "reference offloaded": ["--ref.offload"],
    "overlong penalty": ["--reward.overlong_buffer_len", 8],
    "packing": ["--ds.packing_samples"],
    "ring attention": ["--ds.ring_attn_size", 2, "--actor.num_gpus_per_node", 2, "--critic.num_gpus_per_node", 2, "--ds.packing_samples"],
    "images": ["--data.max_images_per_prompt", 1],
}


def main(names):
    from host.test_ppo import SMALL, steps
    from launching import deepspeed, module

    with tempfile.TemporaryDirectory() as folder:
        tiny, store, prm = (Path(folder) / name for name in ("tiny", "store", "prm"))
        game = ["--env.name", "thirdparty_count", "--env.max_turns", 3, "--env.max_tokens_per_turn", 4, "--env.num_workers", 8]
        module("tiny_policy", *game[:2], "--tiny.output", tiny)
        play = [*game, "--env.num_tasks", 32, "--policy.model_name_or_path", tiny, "--collect.n_samples_per_task", 2, "--data.max_len", 96]
        module("collect", *play, "--collect.output", store)
        deepspeed(
            "train_prm", "--model.model_name_or_path", tiny, "--data.dataset", store, "--ckpt.output_dir", prm, "--data.max_len", 128,
            "--ds.zero_stage", 0, "--ds.attn_implementation", "sdpa", "--ds.param_dtype", "fp32", "--train.batch_size", 16,
            "--train.micro_batch_size", 16, "--adam.lr", 1e-3,
        )  # fmt: skip
        flags = [*SMALL, *game, "--env.num_tasks", 16, "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", prm,
                 "--algo.advantage.estimator", "turn_gae", "--algo.advantage.process_reward", "delta", "--algo.advantage.lambd", 0.95,
                 "--ckpt.output_dir", Path(folder) / "out"]  # fmt: skip
        for name in names or COMBINATIONS:
            started = time.monotonic()
            done = module("train_ppo_ray", *flags, *COMBINATIONS[name], check=False, timeout=600)
            print(f"| {name} | {verdict(done, steps(done.stdout + done.stderr))} | {time.monotonic() - started:.0f} s |", flush=True)


def verdict(done, found):
    if done.returncode == 2:
        return "refused: " + done.stderr.strip().splitlines()[-1].strip()
    if done.returncode:
        return f"FAILED ({done.returncode}): " + " / ".join(line for line in done.stderr.splitlines() if "Error" in line)[-400:]
    sound = found and all(
        s["policy_loss"] == s["policy_loss"] and s["turns/per_episode"] > 0 and "prm/promise_mean" in s for s in found.values()
    )
    return f"{'runs' if sound else 'UNSOUND'}, {len(found)} steps"


if __name__ == "__main__":
    main(sys.argv[1:])
