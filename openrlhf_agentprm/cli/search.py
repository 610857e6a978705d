"""python -m openrlhf_agentprm.cli.search: search over turns by several methods, guided by a PRM or by noise."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.argument_types import positive_int
from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError, collecting
from ..core.registry import REWARD_MODELS
from ..prm.step_flags import add_step_flags
from ..rollout.config import EnvConfig, check_context
from ..rollout.flags import add_env_flags
from ..search.methods import Method
from .boundary import run_command
from .evaluate import named
from .search_flags import add_search_flags, as_now, check_scale, check_scores, entry_of, methods_of, options_of, step_tokens

if TYPE_CHECKING:
    from ..search.nodes import Scorer


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.search",
        description="Search over turns with a process reward model, by any of several methods (docs/search.md).",
    )
    add_env_flags(parser)
    add = parser.add_argument
    add("--policy.model_name_or_path", required=True, help="policy that samples actions")
    add("--prm.model_name_or_path", nargs="*", default=[], help="PRMs that rank them, as PATH or NAME=PATH")
    add("--prm.name", default="auto", choices=["auto", *REWARD_MODELS.names()], help="kind of reward model (auto: as the checkpoint says)")
    add("--prm.param_dtype", default="fp32", choices=["fp32", "bf16", "fp16"], help="dtype of the PRM's backbone")
    add_step_flags(parser)
    add_search_flags(parser)
    add("--data.max_len", type=int, default=None, help="context in tokens (2048, or what the policy has if that is less)")
    add("--vllm.tensor_parallel_size", type=int, default=1, help="GPUs for one copy of the policy")
    add("--vllm.gpu_memory_utilization", type=float, default=0.5, help="share of the GPU's memory for vLLM; the PRM shares the GPU")
    add("--vllm.max_num_seqs", type=positive_int, default=256, help="completions that run at once")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..prm.kinds import check_reward_model

    args = parse_nested(build_parser(), argv)
    problems: list[str] = []
    methods = methods_of(args, problems)
    prms: dict[str, str] = {}
    with collecting(problems):
        prms = named(args.prm.model_name_or_path)
    for path in [*prms.values(), *([args.search.prover] if args.search.prover else [])]:
        with collecting(problems):
            check_scores(args.prm.name, path)
            check_reward_model(args.prm.name, path, args.policy.model_name_or_path)
            check_scale(args, path)
    with collecting(problems):
        args.search.step_tokens = step_tokens(args, prms.values()) if not problems else ()
    if not args.prm.model_name_or_path and args.search.random_disable:
        problems.append("nothing ranks the actions: give --prm.model_name_or_path, or leave out --search.random_disable")
    if problems:
        raise UserError(problems)
    search(args, methods, prms)
    return 0


def search(args: Any, methods: list[Method], prms: dict[str, str]) -> None:
    """Run what the output file lacks, one entry after the other."""
    from ..data.files import write_whole
    from ..host.engine import context_length
    from ..rollout.digest import policy_digest, text_digest

    output = Path(args.search.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    results = read_results(output)
    config = EnvConfig.from_namespace(args.env)
    judges = {**prms, **({} if args.search.random_disable else {"random": ""})}
    args.data.max_len = context_length(args.policy.model_name_or_path, args.data.max_len)
    chat = config.chat(args.policy.model_name_or_path)
    identity = {
        "policy": policy_digest(args.policy.model_name_or_path),
        "temperature": args.search.temperature,
        "seed": args.search.seed,
        "max_turns": config.max_turns,
        "env": config.name,
        "env_args": config.args,
        "max_len": args.data.max_len,
        "max_tokens_per_turn": config.max_tokens_per_turn,
        "format": text_digest(chat.identity()),
        "split": config.split,
        "first_task": config.first_task,
        "num_tasks": config.num_tasks,
        "invalid_action": config.invalid_action,
        "invalid_penalty": config.invalid_penalty,
    }
    wanted = []
    for name, path in judges.items():
        for method in methods:
            entry = {"prm": name, "prm_digest": _digest(args.prm.name, path), **entry_of(args, method, control=not path), **identity}
            if prover := entry.get("prover"):
                entry["prover"] = _digest(args.prm.name, prover)
            entry |= {} if path else {"random_scores": "one for each sample"}
            if not any(entry.items() <= as_now(r).items() for r in results):
                wanted.append((entry, path, method))
    if not wanted:
        print(f"all {len(judges) * len(methods)} searches are in {output} already")
        return
    with _Session(args, config, chat) as session:
        for entry, path, method in wanted:
            results.append(session.run(entry, path, method))
            write_whole(output, json.dumps(results, indent=1) + "\n")


def read_results(output: Path) -> list[dict[str, Any]]:
    """The entries of a file that an earlier search wrote; none where there is no file.

    Raises:
        UserError: it is another file.
    """
    if not output.exists():
        return []
    try:
        found = json.loads(output.read_text(encoding="utf-8"))
        why = (
            "" if isinstance(found, list) and all(isinstance(entry, dict) and "prm" in entry for entry in found) else "no list of searches"
        )
    except (ValueError, OSError) as error:
        why = f"no JSON that can be read: {error}"
    if why:
        raise UserError(f"--search.output {output} is there already and is {why}; give another file")
    return found


def _digest(name: str, path: str) -> str:
    """Of a reward model; empty for none."""
    from ..prm.kinds.identity import reward_model_digest

    return reward_model_digest(name, path) if path else ""


class _Session:
    """The engine and the pool, shared by all searches."""

    def __init__(self, args: Any, config: EnvConfig, chat: Any) -> None:
        from ..host.engine import VLLMEngine
        from ..search.states import check_snapshots

        self.args = args
        s = args.search
        self.config = config
        self.chat = chat
        self.pool = config.pool()
        if s.restore == "snapshot":
            check_snapshots(self.pool)
        self.tasks = config.tasks(self.pool)
        check_context(self.pool, self.chat, self.tasks, args.data.max_len)
        self.engine = VLLMEngine(
            args.policy.model_name_or_path,
            max_model_len=args.data.max_len,
            seed=args.search.seed,
            gpu_memory_utilization=args.vllm.gpu_memory_utilization,
            tensor_parallel_size=args.vllm.tensor_parallel_size,
            logprobs=bool(s.logprob_weight or s.policy_margin) or s.mcts_prior == "logprob",
            max_num_seqs=args.vllm.max_num_seqs,
            request_seeds=True,
        )

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self.engine.close()

    def run(self, entry: dict[str, Any], path: str, method: Method) -> dict[str, Any]:
        import torch
        from tqdm import tqdm

        from ..prm.evaluation import clean, with_interval
        from ..rollout.engine import Sampling
        from ..search.api import make_search

        tree = make_search(
            method,
            self.engine,
            self.pool,
            self.chat,
            self._scorer(path, pav=bool(entry.get("pav_alpha"))),
            Sampling(self.args.search.temperature),
            self.config.limits(self.args.data.max_len),
            options_of(self.args, method, self.config.max_retries),
        )
        started = time.monotonic()
        with tqdm(total=self.config.max_turns, desc=f"{entry['prm']} {method.name}", unit="turn") as bar:
            found = tree.run(self.tasks, on_turn=lambda turn, going: (bar.update(), bar.set_postfix(tasks=going))[0])
        seconds = time.monotonic() - started
        outcomes = torch.tensor([r.outcome for r in found])
        kept = outcomes[~outcomes.isnan()]
        summary = with_interval(kept)
        print(f"{entry['prm']} {method.name}: {100 * summary['mean']:.1f} % of {len(kept)} tasks")
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
                "env_steps_per_task": sum(r.turns for r in found) / len(found),
                "replayed_steps_per_task": sum(r.replayed_turns for r in found) / len(found),
                "budget_ended": sum(r.budget_ended for r in found),
                "seconds": round(seconds, 2),
                "outcomes": {r.task_id: r.outcome for r in found},
            }
        )

    def _scorer(self, path: str, *, pav: bool) -> Scorer:
        """Of a PRM, or noise."""
        from ..host.cpu import has_cuda
        from ..prm.scoring import load_reward_model
        from ..search.scorers import Pav, prm_scorer, random_scorer

        if not path:
            return random_scorer(self.args.search.seed)
        how: dict[str, Any] = {"dtype": self.args.prm.param_dtype, "device": "cuda" if has_cuda() else "cpu"}
        prm, s = load_reward_model(self.args.prm.name, path, **how), self.args.search
        prover = load_reward_model(self.args.prm.name, s.prover, **how) if pav and s.prover else None
        return prm_scorer(prm, Pav(s.pav_alpha, prover, s.pav_best_of_k) if pav else None)


if __name__ == "__main__":
    run_command(main)
