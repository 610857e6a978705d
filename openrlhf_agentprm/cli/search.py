"""python -m openrlhf_agentprm.cli.search: greedy search by Q and beams over turns, guided by a PRM or by noise."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError, collecting
from ..core.registry import REWARD_MODELS
from ..rollout.config import EnvConfig, add_env_flags, check_context
from .boundary import run_command
from .evaluate import margin, named


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.search",
        description="Search over turns with a process reward model. Each --search.methods entry is N×M: N nodes kept, M actions sampled at each.",
    )
    add_env_flags(parser)
    add = parser.add_argument
    add("--policy.model_name_or_path", required=True, help="policy that samples actions")
    add("--prm.model_name_or_path", nargs="*", default=[], help="PRMs that rank them, as PATH or NAME=PATH")
    add("--prm.name", default="auto", choices=["auto", *REWARD_MODELS.names()], help="kind of reward model (auto: as the checkpoint says)")
    add("--prm.param_dtype", default="fp32", choices=["fp32", "bf16", "fp16"], help="dtype of the PRM's backbone")
    add("--search.output", required=True, help="JSON file to write; what it holds already is not searched again")
    add(
        "--search.methods",
        nargs="+",
        default=["1x4", "2x2"],
        help="searches, such as 1x4 (greedy by Q over 4 actions) and 2x2 (beam)",
    )
    add("--search.temperature", type=float, default=0.7, help="of sampled actions (0.7 in arXiv 2511.08325)")
    add(
        "--search.tie_margin",
        type=margin,
        default=0.0,
        help="scores at most this far below the highest count as equal to it: the policy's own choice, sampled first, stands",
    )
    add("--search.seed", type=int, default=0, help="of sampler, environments and random scores")
    add("--search.random_disable", action="store_true", help="leave out the same searches with random scores, the control of each")
    add("--data.max_len", type=int, default=None, help="context in tokens (2048, or what the policy has if that is less)")
    add("--vllm.tensor_parallel_size", type=int, default=1, help="GPUs for one copy of the policy")
    add("--vllm.gpu_memory_utilization", type=float, default=0.5, help="share of the GPU's memory for vLLM; the PRM shares the GPU")
    return parser


def parse_method(text: str) -> tuple[int, int]:
    """`2x2` as (beams, actions)."""
    beams, x, actions = text.lower().replace("×", "x").partition("x")
    if not (x and beams.isdigit() and actions.isdigit() and int(beams) > 0 and int(actions) > 0):
        raise UserError(f"search method {text!r} is not N×M, such as 2x2")
    return int(beams), int(actions)


def main(argv: Sequence[str]) -> int:
    from ..prm.kinds import check_reward_model

    args = parse_nested(build_parser(), argv)
    problems: list[str] = []
    with collecting(problems):
        methods = [parse_method(m) for m in args.search.methods]
    with collecting(problems):
        prms = named(args.prm.model_name_or_path)
        for path in prms.values():
            with collecting(problems):
                check_reward_model(args.prm.name, path, args.policy.model_name_or_path)
    if not args.prm.model_name_or_path and args.search.random_disable:
        problems.append("nothing ranks the actions: give --prm.model_name_or_path, or leave out --search.random_disable")
    if problems:
        raise UserError(problems)
    search(args, methods, prms)
    return 0


def search(args: Any, methods: list[tuple[int, int]], prms: dict[str, str]) -> None:
    """Run what the output file lacks, one entry after the other."""
    from ..data.files import write_whole
    from ..host.engine import context_length
    from ..prm.ensemble import checkpoints_of
    from ..rollout.digest import policy_digest, text_digest

    output = Path(args.search.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    config = EnvConfig.from_namespace(args.env)
    policy = policy_digest(args.policy.model_name_or_path)
    jobs = [(name, path, m) for name, path in {**prms, **({} if args.search.random_disable else {"random": ""})}.items() for m in methods]
    args.data.max_len = context_length(args.policy.model_name_or_path, args.data.max_len)
    chat = config.chat(args.policy.model_name_or_path)
    identity = {
        "policy": policy,
        "temperature": args.search.temperature,
        "tie_margin": args.search.tie_margin,
        "seed": args.search.seed,
        "max_turns": config.max_turns,
        "env": config.name,
        "env_args": config.args,
        "max_len": args.data.max_len,
        "max_tokens_per_turn": config.max_tokens_per_turn,
        "format": text_digest(chat.identity()),
    }
    wanted = []
    for name, path, (beams, actions) in jobs:
        made_of = dict.fromkeys([path, *checkpoints_of(args.prm.name, path)]) if path else {}
        entry = {"prm": name, "prm_digest": "+".join(map(policy_digest, made_of)), "beams": beams, "actions": actions, **identity}
        entry |= {"split": config.split, "first_task": config.first_task, "num_tasks": config.num_tasks}
        entry |= {} if path else {"random_scores": "one for each sample"}
        if not any(entry.items() <= ({"tie_margin": 0.0} | r).items() for r in results):
            wanted.append((entry, path))
    if not wanted:
        print(f"all {len(jobs)} searches are in {output} already")
        return
    with _Session(args, config, chat) as session:
        for entry, path in wanted:
            results.append(session.run(entry, path))
            write_whole(output, json.dumps(results, indent=1) + "\n")


class _Session:
    """The engine and the pool, shared by all searches."""

    def __init__(self, args: Any, config: EnvConfig, chat: Any) -> None:
        from ..host.engine import VLLMEngine

        self.args = args
        self.config = config
        self.chat = chat
        self.pool = config.pool()
        self.tasks = config.tasks(self.pool)
        check_context(self.pool, self.chat, self.tasks, args.data.max_len)
        self.engine = VLLMEngine(
            args.policy.model_name_or_path,
            max_model_len=args.data.max_len,
            seed=args.search.seed,
            gpu_memory_utilization=args.vllm.gpu_memory_utilization,
            tensor_parallel_size=args.vllm.tensor_parallel_size,
            logprobs=False,
        )

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self.engine.close()

    def run(self, entry: dict[str, Any], path: str) -> dict[str, Any]:
        import torch
        from tqdm import tqdm

        from ..host.cpu import has_cuda
        from ..prm.evaluation import clean, with_interval
        from ..prm.scoring import load_reward_model
        from ..rollout.engine import Sampling
        from ..search.scorers import prm_scorer, random_scorer
        from ..search.tree import TreeSearch

        device = "cuda" if has_cuda() else "cpu"
        scorer = (
            prm_scorer(load_reward_model(self.args.prm.name, path, dtype=self.args.prm.param_dtype, device=device))
            if path
            else random_scorer(self.args.search.seed)
        )
        tree = TreeSearch(
            self.engine,
            self.pool,
            self.chat,
            scorer,
            Sampling(self.args.search.temperature),
            self.config.limits(self.args.data.max_len),
            beams=entry["beams"],
            actions=entry["actions"],
            seed=self.args.search.seed,
            max_retries=self.config.max_retries,
            margin=self.args.search.tie_margin,
        )
        started = time.monotonic()
        with tqdm(total=self.config.max_turns, desc=f"{entry['prm']} {entry['beams']}×{entry['actions']}", unit="turn") as bar:
            found = tree.run(self.tasks, on_turn=lambda turn, going: (bar.update(), bar.set_postfix(tasks=going))[0])
        outcomes = torch.tensor([r.outcome for r in found])
        kept = outcomes[~outcomes.isnan()]
        summary = with_interval(kept)
        print(f"{entry['prm']} {entry['beams']}×{entry['actions']}: {100 * summary['mean']:.1f} % of {len(kept)} tasks")
        return clean(
            entry
            | {
                "success": summary,
                "tasks": len(kept),
                "faults": dict(tree.faults),
                "broken": int(outcomes.isnan().sum()),
                "sampled_actions_per_task": sum(r.sampled_actions for r in found) / len(found),
                "sampled_tokens_per_task": sum(r.sampled_tokens for r in found) / len(found),
                "turns_per_task": sum(len(r.path.actions) for r in found) / len(found),
                "seconds": round(time.monotonic() - started, 2),
                "outcomes": {r.task_id: r.outcome for r in found},
            }
        )


if __name__ == "__main__":
    run_command(main)
