"""python -m openrlhf_agentprm.cli.collect: play episodes into a store, by a policy or by a demonstrator."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.argument_types import iteration, seed, temperature, top_p
from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from ..rollout.config import EnvConfig, check_context
from ..rollout.explore import Exploration, add_explore_flags, problems_of_exploration, sampling_of
from ..rollout.flags import add_env_flags
from .boundary import run_command

_BROKEN_IN_A_ROW = 32  # at least: then the environment does not work any more


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.collect",
        description="Play episodes and keep them in a store. The same command continues an interrupted collection.",
    )
    add_env_flags(parser)
    policy = parser.add_argument_group("policy")
    policy.add_argument("--policy.model_name_or_path", required=True, help="model folder or hub name; of a demonstrator: the tokenizer's")
    policy.add_argument(
        "--data.max_len",
        type=int,
        default=None,
        help="context in tokens; an episode that does not fit is counted apart (2048, or what the model has if that is less)",
    )
    policy.add_argument("--vllm.tensor_parallel_size", type=int, default=1, help="GPUs for one copy of the policy")
    policy.add_argument("--vllm.gpu_memory_utilization", type=float, default=0.9, help="share of the GPU's memory for vLLM")
    policy.add_argument("--vllm.enforce_eager", action="store_true", help="no CUDA graphs")
    collect = parser.add_argument_group("collection")
    collect.add_argument("--collect.output", required=True, help="folder of the episode store")
    collect.add_argument("--collect.n_samples_per_task", type=int, default=16, help="episodes a task")
    collect.add_argument("--collect.temperature", type=temperature, default=1.0, help="sampling temperature; 0 is greedy")
    collect.add_argument("--collect.top_p", type=top_p, default=1.0, help="nucleus sampling")
    collect.add_argument("--collect.seed", type=seed, default=0, help="seed of environments and sampler")
    collect.add_argument("--collect.iteration", type=iteration, default=0, help="iteration noted with the episodes")
    collect.add_argument("--collect.shard_size", type=int, default=1024, help="episodes a Parquet shard")
    collect.add_argument(
        "--collect.demonstrator", default=None, help="expert, careless, or one that the environment brings; no policy plays"
    )
    collect.add_argument("--collect.noise", type=float, default=0.0, help="probability that an erring demonstrator errs in a turn")
    add_explore_flags(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    if problems := problems_of_exploration(args.collect):
        raise UserError(problems)
    collect(args)
    return 0


def collect(args: Any) -> dict[str, Any]:
    """Play what the store lacks; a summary, which is written beside the store's shards as well.

    Retries and restarts of workers are summed over all processes that filled the store, all else is of this one.
    """
    from tqdm import tqdm

    from ..data.files import write_whole
    from ..data.store import EpisodeWriter
    from ..host.engine import context_length
    from ..rollout.collect import Stats, unless_all_break

    config = EnvConfig.from_namespace(args.env)
    args.data.max_len = context_length(args.policy.model_name_or_path, args.data.max_len)
    chat = config.chat(args.policy.model_name_or_path)
    stats = Stats()
    started = time.monotonic()
    note = Path(args.collect.output, ".collect.json")
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    with config.pool() as pool, EpisodeWriter(args.collect.output, shard_size=args.collect.shard_size) as writer:
        tasks = config.tasks(pool)
        check_context(pool, chat, tasks, args.data.max_len)
        wanted = list(_assignments(args, config, chat, tasks))
        missing = [a for a in wanted if a.episode_id not in writer.ids]
        bar = tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc="episodes", unit="ep", mininterval=1.0, smoothing=0.05)
        try:
            playing = _play(args, config, pool, chat, missing, stats) if missing else ()
            for episode in unless_all_break(playing, max(_BROKEN_IN_A_ROW, 2 * len(pool))):
                writer.add(episode)
                bar.update()
                bar.set_postfix(dict(sorted(stats.statuses.items())), refresh=False)
        finally:
            bar.close()
            summary = {
                "episodes": len(wanted),
                "played": sum(stats.statuses.values()),
                "statuses": dict(stats.statuses),
                "retries": before.get("retries", 0) + stats.retries,
                "worker_restarts": before.get("worker_restarts", 0) + pool.counts["restarts"],
                "turns": stats.turns,
                "action_tokens": stats.action_tokens,
                "seconds": round(time.monotonic() - started, 2),
                **{name: n for name in ("reset", "steer") if (n := sum(name in a.sampling for a in wanted))},
                "task_source": pool.description["task_source"],
            }
            write_whole(note, json.dumps(summary, indent=1) + "\n")
    return summary


def _assignments(args: Any, config: EnvConfig, chat: Any, tasks: list[str]) -> Iterator[Any]:
    from ..rollout.builder import Assignment
    from ..rollout.digest import policy_digest, text_digest

    path = args.policy.model_name_or_path
    if args.collect.demonstrator:
        who, digest = args.collect.demonstrator, f"{args.collect.demonstrator}-{args.collect.noise:g}"
        sampling: dict[str, Any] = {"noise": args.collect.noise}
    else:
        who, digest, sampling = path, policy_digest(path), sampling_of(args.collect).identity()
    sampling |= {
        "max_turns": config.max_turns,
        "max_len": args.data.max_len,
        "max_tokens_per_turn": config.max_tokens_per_turn,
        "env_args": config.args,
        "format": text_digest(chat.identity()),
        **config.rules(),
    }
    explore = Exploration.of(args.collect, config.name, config.split, sampling)
    for sample in range(args.collect.n_samples_per_task):
        for task in tasks:
            number = args.collect.seed + (sample if args.collect.demonstrator else 0)
            yield explore.vary(Assignment(config.name, task, config.split, number, sample, who, digest, sampling, args.collect.iteration))


def _play(args: Any, config: EnvConfig, pool: Any, chat: Any, missing: list[Any], stats: Any) -> Iterator[Any]:
    limits = config.limits(args.data.max_len)
    if args.collect.demonstrator:
        from ..rollout.demonstrate import demonstrate

        yield from demonstrate(
            missing,
            pool,
            chat,
            limits,
            demonstrator=args.collect.demonstrator,
            noise=args.collect.noise,
            max_retries=config.max_retries,
            stats=stats,
        )
        return
    from ..host.play import Player

    player = Player(
        args.policy.model_name_or_path,
        config,
        args.data.max_len,
        sampling_of(args.collect),
        args.collect.seed,
        args.vllm.tensor_parallel_size,
        args.vllm.gpu_memory_utilization,
        args.vllm.enforce_eager,
    )
    yield from player.play(missing, pool=pool, chat=chat, stats=stats)


if __name__ == "__main__":
    run_command(main)
