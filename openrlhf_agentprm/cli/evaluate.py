"""python -m openrlhf_agentprm.cli.evaluate: what PRMs know about held-out episodes beyond their length, and what choosing by them gains."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.argument_types import positive_int
from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError, collecting
from ..core.registry import REWARD_MODELS
from ..prm.step_flags import add_step_flags
from .boundary import run_command

if TYPE_CHECKING:
    from ..data.steps import Delimiters

AGGREGATES = ("last", "min", "mean", "product", "sum")  # as core.metrics has them, which imports torch
MAJORITY_KEYS = ("last_action", "actions", "final_observation")  # as prm.evaluation has them


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.evaluate",
        description=(
            "Judge process reward models on episodes of one policy: AUC and calibration by turn and by turns left, best-of-N and weighted "
            "majority beside random choice, choices by length alone, the policy's log-probability, greedy decoding and the oracle, against "
            "Monte-Carlo values of the turns, and a verdict on what each PRM knows beyond length."
        ),
    )
    add = parser.add_argument
    add("--eval.dataset", required=True, help="episode store with several samples a task")
    add("--eval.greedy_dataset", default=None, help="episode store of greedy decoding on the same tasks")
    add("--eval.output", required=True, help="JSON file to write")
    add("--eval.max_samples_per_task", type=positive_int, default=None, help="use this many samples a task (all that most tasks have)")
    add(
        "--eval.tie_margin",
        type=margin,
        default=0.0,
        help="best-of-N takes PRM scores at most this far below the highest for equal, and one of those samples at random",
    )
    add(
        "--eval.aggregate",
        nargs="+",
        choices=AGGREGATES,
        default=list(AGGREGATES),
        help="one score of an episode from those of its turns; the first is used throughout, all stand in the table of aggregates",
    )
    add("--eval.majority_key", choices=MAJORITY_KEYS, default="last_action", help="what two samples share that vote together")
    add("--eval.mc_labels", default=None, help="sidecar of cli.label (mc_soft, mc_visits) for the same store: what turns are worth")
    add("--eval.mc_margin", type=margin, default=0.0, help="sibling actions whose Monte-Carlo values differ by no more are not compared")
    add("--prm.model_name_or_path", nargs="*", default=[], help="checkpoints, as PATH or NAME=PATH")
    add("--prm.name", default="auto", choices=["auto", *REWARD_MODELS.names()], help="kind of reward model (auto: as the checkpoint says)")
    add_step_flags(parser)
    add("--prm.param_dtype", default="fp32", choices=["fp32", "bf16", "fp16"], help="dtype of the backbone")
    add("--prm.max_tokens", type=int, default=16_384, help="padded tokens a scoring batch")
    add("--prm.device", default=None, help="device (cuda where there is one)")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..data.files import write_whole
    from .evaluate_tables import show

    args = parse_nested(build_parser(), argv)
    result = evaluate(args)
    Path(args.eval.output).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(args.eval.output), json.dumps(result, indent=1) + "\n")
    show(result)
    return 0


def margin(text: str) -> float:
    """argparse type: a distance between scores, 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


_TAKEN = (
    "random",
    "oracle",
    "fewest turns",
    "most turns",
    "length regression",
    "log-probability per turn",
    "majority",
    "turn number",
    "log-probability of the turn",
)


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


def read_grid(args: Any, problems: list[str]) -> Any:
    """The episodes, several of each task; what is wrong with them is added to the problems, and then there may be none."""
    from ..data.store import EpisodeStore
    from ..prm import evaluation as ev

    with collecting(problems):
        grid = ev.sample_grid(list(EpisodeStore(args.eval.dataset).episodes()), args.eval.max_samples_per_task)
        problems += ev.grid_problems(grid, args.eval.dataset, args.eval.max_samples_per_task)
        return grid
    return None


def in_steps(args: Any, paths: Collection[str], grid: Any) -> tuple[Any, Delimiters]:
    """The same episodes in steps, where the flags say so or the PRMs were trained on steps, and what ends one; baselines count steps too."""
    from ..agents.chat import load_tokenizer
    from ..prm.kinds.ensemble import checkpoints_of
    from ..prm.steps import given_delimiters, settle, to_steps, trained_on

    model = next((checkpoint for path in paths for checkpoint in checkpoints_of(args.prm.name, path)), None)
    delimiters = settle(given_delimiters(args.prm, model), trained_on(args.prm.name, paths))
    read = load_tokenizer(model) if delimiters and model else None
    text = (lambda tokens: read.decode(list(tokens), skip_special_tokens=True)) if read else None
    episodes = to_steps(grid.episodes, delimiters, args.eval.dataset, text)
    return dataclasses.replace(grid, episodes=episodes, played=grid.episodes), delimiters


def read_truth(args: Any, grid: Any, delimiters: Delimiters, problems: list[str]) -> Any:
    """The Monte-Carlo values of the episodes' turns, or steps; None where they are not given or wrong."""
    from ..data.sidecar import read_about, read_labels
    from ..prm.evaluation.ground_truth import GroundTruth, label_problems

    if args.eval.mc_labels is None:
        return None
    with collecting(problems):
        about, labels = read_about(args.eval.mc_labels), read_labels(args.eval.mc_labels)
        found = label_problems(grid, labels, about, args.eval.mc_labels, delimiters)
        problems += found
        return None if found else GroundTruth.of(grid, labels)
    return None


def read_greedy(args: Any, grid: Any, problems: list[str]) -> dict[str, Any] | None:
    """Outcome and sampled tokens of greedy decoding by task."""
    from ..data.store import EpisodeStore

    if not args.eval.greedy_dataset:
        return None
    with collecting(problems):
        tasks = set(grid.tasks)
        episodes = [e for e in EpisodeStore(args.eval.greedy_dataset).episodes() if e.status.has_outcome and e.task_id in tasks]
        found = {e.task_id: e for e in episodes}
        if not episodes:
            told = f"holds none of the tasks of {args.eval.dataset}; play greedy decoding on the same tasks"
        elif warm := [e for e in episodes if e.sampling.get("temperature") != 0]:
            told = f"was played at the temperature {warm[0].sampling.get('temperature')}; greedy decoding is --collect.temperature 0"
        elif len(found) < len(episodes):
            told = f"holds {len(episodes)} episodes of {len(found)} tasks; greedy decoding has one a task"
        else:
            return found
        problems.append(f"{args.eval.greedy_dataset} {told}")
    return None


def score(args: Any, prms: dict[str, str], grid: Any) -> dict[str, list[Any]]:
    """q_K of every episode by every PRM.

    Raises:
        UserError: scores that are no numbers, of all PRMs.
    """
    from ..data.layout import spans_of
    from ..host.reasoning import vllm_reasoner
    from ..prm import evaluation as ev
    from ..prm.scoring import load_reward_model, score_all

    tokens, spans = [e.token_ids for e in grid.episodes], [spans_of(e) for e in grid.episodes]
    found, problems = {}, []
    for name, path in prms.items():
        device = args.prm.device or _device()
        prm = load_reward_model(args.prm.name, path, dtype=args.prm.param_dtype, device=device, reasoner=vllm_reasoner)
        scores = score_all(prm, tokens, spans, max_tokens=args.prm.max_tokens, names=[e.episode_id for e in grid.episodes])
        found[name] = [q_K for q_K, _ in scores]
        problems += ev.score_problems(name, grid, found[name])
    if problems:
        raise UserError(problems)
    return found


def evaluate(args: Any) -> dict[str, Any]:
    from ..data.sidecar import read_about
    from ..prm.evaluation import clean
    from ..prm.evaluation.comparison import beside_truth, compare
    from ..prm.kinds import check_reward_model, records_of
    from ..prm.kinds.ensemble import checkpoints_of
    from ..prm.vocabulary import check_vocabulary

    problems: list[str] = []
    prms: dict[str, str] = {}
    with collecting(problems):
        prms = named(args.prm.model_name_or_path)
    if doubled := sorted({how for how in args.eval.aggregate if args.eval.aggregate.count(how) > 1}):
        problems.append(f"--eval.aggregate names {', '.join(doubled)} twice; give each once")
    grid = read_grid(args, problems)
    truth = greedy = None
    delimiters: Delimiters = ()
    if grid is not None and grid.tasks:
        for path in prms.values():
            with collecting(problems):
                check_reward_model(args.prm.name, path)
                for checkpoint in checkpoints_of(args.prm.name, path):
                    with collecting(problems):
                        check_vocabulary(checkpoint, args.eval.dataset, grid.episodes)
        with collecting(problems):
            grid, delimiters = in_steps(args, prms.values(), grid)
        truth, greedy = read_truth(args, grid, delimiters, problems), read_greedy(args, grid, problems)
    if problems:
        raise UserError(problems)
    scores = score(args, prms, grid)
    how = args.eval
    unlike = {name for name, path in prms.items() if any(r.scale != "probability" for r in records_of(args.prm.name, path))}
    options = {"aggregates": how.aggregate, "margin": how.tie_margin, "majority_key": how.majority_key}
    result = compare(grid, scores, greedy=greedy, no_probability=unlike, **options)
    if truth is not None:
        result["monte_carlo"] = beside_truth(truth, scores, read_about(how.mc_labels), how.mc_labels, how.mc_margin)
    return clean(result)


def _device() -> str:
    from ..host.cpu import has_cuda

    return "cuda" if has_cuda() else "cpu"


if __name__ == "__main__":
    run_command(main)
