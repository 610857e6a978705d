"""python -m openrlhf_agentprm.cli.evaluate: what PRMs know about held-out episodes, and best-of-N beside its baselines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from ..core.registry import REWARD_MODELS
from ..prm.step_flags import add_step_flags
from .boundary import run_command

SIZES = (1, 2, 4, 8, 16, 32, 64)


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.evaluate",
        description=(
            "Judge process reward models on episodes of one policy: AUC between samples of one task at a fixed turn and at equal length, "
            "calibration, and best-of-N beside the lowest-scored of N, random choice, fewest turns, the policy's log-probability and the oracle."
        ),
    )
    add = parser.add_argument
    add("--eval.dataset", required=True, help="episode store with several samples a task")
    add("--eval.greedy_dataset", default=None, help="episode store of greedy decoding on the same tasks")
    add("--eval.output", required=True, help="JSON file to write")
    add("--eval.max_samples_per_task", type=int, default=None, help="use this many samples a task (all that most tasks have)")
    add(
        "--eval.tie_margin",
        type=margin,
        default=0.0,
        help="best-of-N takes PRM scores at most this far below the highest for equal, and one of those samples at random",
    )
    add("--prm.model_name_or_path", nargs="*", default=[], help="checkpoints, as PATH or NAME=PATH")
    add_step_flags(parser)
    add("--prm.name", default="auto", choices=["auto", *REWARD_MODELS.names()], help="kind of reward model (auto: as the checkpoint says)")
    add("--prm.param_dtype", default="fp32", choices=["fp32", "bf16", "fp16"], help="dtype of the backbone")
    add("--prm.max_tokens", type=int, default=16_384, help="padded tokens a scoring batch")
    add("--prm.device", default=None, help="device (cuda where there is one)")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..data.files import write_whole

    args = parse_nested(build_parser(), argv)
    result = evaluate(args)
    Path(args.eval.output).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(args.eval.output), json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


def margin(text: str) -> float:
    """argparse type: a distance between scores, 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


_TAKEN = ("random", "oracle", "fewest turns", "most turns", "log-probability per turn")


def named(paths: Sequence[str]) -> dict[str, str]:
    """`NAME=PATH` or `PATH` (named by its folder) as a mapping; a name given twice, or one that a baseline has, is an error."""
    found: dict[str, str] = {}
    for text in paths:
        name, eq, path = text.partition("=")
        name, path = (name, path) if eq else (Path(text).name, text)
        if name in _TAKEN:
            raise UserError(f"a PRM is named {name!r}, as the baseline is; give another name as NAME=PATH")
        if name in found:
            raise UserError(f"two PRMs are named {name!r} ({found[name]}, {path}); give names as NAME=PATH")
        found[name] = path
    return found


def evaluate(args: Any) -> dict[str, Any]:
    from ..data.layout import spans_of
    from ..data.store import EpisodeStore
    from ..prm import evaluation as ev
    from ..prm.ensemble import checkpoints_of
    from ..prm.scoring import load_reward_model, score_all
    from ..prm.steps import given_delimiters, settle, to_steps
    from ..prm.vocabulary import check_vocabulary

    grid = ev.sample_grid(list(EpisodeStore(args.eval.dataset).episodes()), args.eval.max_samples_per_task)
    if not grid.tasks:
        raise UserError(f"{args.eval.dataset} holds no task with {args.eval.max_samples_per_task or 'any'} episodes that have an outcome")
    for path in named(args.prm.model_name_or_path).values():
        for checkpoint in checkpoints_of(args.prm.name, path):
            check_vocabulary(checkpoint, args.eval.dataset, grid.episodes)
    checkpoints = [c for path in named(args.prm.model_name_or_path).values() for c in checkpoints_of(args.prm.name, path)]
    delimiters = settle(given_delimiters(args.prm, next(iter(checkpoints), None)), checkpoints)
    grid = dataclasses.replace(grid, episodes=to_steps(grid.episodes, delimiters, args.eval.dataset))
    scores = ev.free_scores(grid)
    quality = {}
    for name, path in named(args.prm.model_name_or_path).items():
        prm = load_reward_model(args.prm.name, path, dtype=args.prm.param_dtype, device=args.prm.device or _device())
        tokens, spans = [e.token_ids for e in grid.episodes], [spans_of(e) for e in grid.episodes]
        q = [q_K for q_K, _ in score_all(prm, tokens, spans, max_tokens=args.prm.max_tokens)]
        quality[name] = ev.prm_quality(grid, q)
        scores[name] = [float(q_K[-1]) for q_K in q]
    sizes = [n for n in SIZES if n <= grid.samples]
    by_prm = {name: scores.pop(name) for name in quality}
    curves = ev.baseline_curves(grid, sizes) | ev.choice_curves(grid, scores, sizes)
    curves |= ev.choice_curves(grid, by_prm, sizes, margin=args.eval.tie_margin)
    lowest = ev.choice_curves(grid, {name: [-v for v in values] for name, values in by_prm.items()}, sizes, margin=args.eval.tie_margin)
    result: dict[str, Any] = {
        "tasks": len(grid.tasks),
        "samples_per_task": grid.samples,
        "single_sample": ev.with_interval(grid.outcomes_GN.mean(1)),
        "mean_turns": sum(len(e.turns) for e in grid.episodes) / len(grid.episodes),
        "length_leak": ev.length_leak(grid),
        "tie_margin": args.eval.tie_margin,
        **({"step_delimiter": delimiters} if delimiters else {}),
        "best_of_n": ev.means(curves),
        "lowest_of_n": ev.means(lowest),
        "prm_quality": quality,
        "task_ids": grid.tasks,
        "by_task": ev.by_task(curves),
        "lowest_by_task": ev.by_task(lowest),
    }
    if args.eval.greedy_dataset:
        greedy = {e.task_id: e.outcome for e in EpisodeStore(args.eval.greedy_dataset).episodes() if e.status.has_outcome}
        import torch

        result["greedy"] = ev.with_interval(torch.tensor([greedy[t] for t in grid.tasks if t in greedy]))
    return ev.clean(result)


def table(result: dict[str, Any]) -> str:
    """Best-of-N and AUC as text."""
    sizes = list(result["best_of_n"]["random"])
    head = f"{result['tasks']} tasks × {result['samples_per_task']} samples, single sample {_percent(result['single_sample'])}"
    if "greedy" in result:
        head += f", greedy {_percent(result['greedy'])}"
    width = max(len(name) for name in (*result["best_of_n"], *(f"{name}, lowest" for name in result["lowest_of_n"]))) + 2
    lines = [head, "best of".ljust(width) + "".join(n.rjust(8) for n in sizes)]
    for name, curve in result["best_of_n"].items():
        lines.append(name.ljust(width) + "".join(f"{100 * curve[n]['mean']:8.1f}" for n in sizes))
    for name, curve in result["lowest_of_n"].items():
        lines.append(f"{name}, lowest".ljust(width) + "".join(f"{100 * curve[n]['mean']:8.1f}" for n in sizes))
    for name, quality in result["prm_quality"].items():
        turns = "  ".join(f"t{row['turn']} {_two(row['auc_within_task'])}" for row in quality["by_turn"])
        last = quality["last"]
        lines.append(
            f"{name}: AUC between samples of one task, still alive: {turns}; last turn {_two(last['auc_within_task'])}, "
            f"at equal length {_two(last['auc_within_task_and_length'])}"
        )
    return "\n".join(lines)


def _percent(entry: dict[str, float]) -> str:
    return f"{100 * entry['mean']:.1f} [{100 * (entry['low'] or 0):.1f}, {100 * (entry['high'] or 0):.1f}]"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _device() -> str:
    from ..host.cpu import has_cuda

    return "cuda" if has_cuda() else "cpu"


if __name__ == "__main__":
    run_command(main)
