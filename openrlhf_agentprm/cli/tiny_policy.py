"""python -m openrlhf_agentprm.cli.tiny_policy: a tiny policy from scratch, with a tokenizer made of an environment's own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from ..rollout.config import EnvConfig
from ..rollout.flags import add_env_flags
from .boundary import run_command


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.tiny_policy",
        description="Make a Qwen3-shaped model of a few hundred thousand parameters and a word-level tokenizer, with no download.",
    )
    add_env_flags(parser)
    add = parser.add_argument
    add("--tiny.output", required=True, help="folder for the model and its tokenizer")
    add("--tiny.hidden_size", type=int, default=128, help="width")
    add("--tiny.layers", type=int, default=3, help="depth")
    add("--tiny.heads", type=int, default=4, help="attention heads; hidden size over heads must be 32, 64, 80, 96, 112 or 128")
    add("--tiny.context", type=int, default=1024, help="positions")
    add("--tiny.seed", type=int, default=0, help="seed of the weights")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..agents.tiny import make_model, make_tokenizer, save_policy

    args = parse_nested(build_parser(), argv)
    config = EnvConfig.from_namespace(args.env)
    with config.pool(size=1, spares=0) as pool:
        tasks = replace(config, num_tasks=config.num_tasks or 400).tasks(pool)
        texts, broken = _read_and_said(pool, tasks, config.max_turns)
        if broken:
            task, problem = next(iter(broken.items()))
            told = f"{len(broken)} of {len(tasks)} tasks broke and were left out, the first ({task!r}) with: {problem}"
            if not texts:
                raise UserError(f"there is no text to make a tokenizer of: {told}")
            print(told)
        tokenizer = make_tokenizer(texts, pool.description["lexicon"])
    t = args.tiny
    model = make_model(tokenizer, hidden_size=t.hidden_size, layers=t.layers, heads=t.heads, context=t.context, seed=t.seed)
    save_policy(model, tokenizer, t.output)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} words: {t.output}")
    return 0


def _read_and_said(pool: Any, tasks: list[str], max_turns: int) -> tuple[list[str], dict[str, str]]:
    """(what the expert, and one that errs where actions can be listed, reads and says; what went wrong in the tasks that broke)."""
    kinds = [("expert", 0.0)] + ([("careless", 0.7)] if "HasAdmissibleActions" in pool.description["abilities"] else [])
    texts: list[str] = []
    broken: dict[str, str] = {}
    for kind, noise in kinds:
        for task in tasks:
            if task in broken:  # it may take its whole time limit again
                continue
            request = {
                "do": "demonstrate",
                "task_id": task,
                "seed": 0,
                "demonstrator": kind,
                "noise": noise,
                "max_turns": max_turns,
            }
            try:
                played = pool.call(0, request)
            except RuntimeError as error:
                broken[task] = str(error)
                continue
            texts += [played["start"]["instruction"], played["start"]["observation"]]
            for action, answer in played["steps"]:
                texts += [action, answer["observation"]]
    return texts, broken


if __name__ == "__main__":
    run_command(main)
