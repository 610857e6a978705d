"""python -m openrlhf_agentprm.cli.select: which policy the next iteration starts from, and which is the best so far, by validation episodes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from .boundary import run_command

FILE = "selection.json"


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.select",
        description=(
            "Judge a policy by its episodes on validation tasks, beside those judged before. The output folder has two links: `best` leads to the "
            "policy with the highest success so far, `next` to the one that the next iteration is to start from. That is this policy, unless it "
            "fails: its success is below that of the policy it started from, or of the best so far, by a difference whose 95 % interval over "
            "tasks (paired, bootstrap) lies below 0. Then it is the best so far."
        ),
    )
    add = parser.add_argument
    add("--policy.model_name_or_path", required=True, help="the policy to judge")
    add("--select.dataset", required=True, help="episode store that it played on validation tasks")
    add("--select.before", default=None, help="output of the selection before this one (none: this is the first policy)")
    add("--select.output", required=True, help="folder to write")
    add("--select.build_on_failed_enable", action="store_true", help="start from it even if it fails")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    found = select(args)
    for name in ("judged", "start", "best"):
        if entry := found.get(name):
            low, high = (_percent(entry[k]) for k in ("low", "high"))
            print(f"{name:<8} {_percent(entry['mean'])} % [{low}, {high}] of {entry['tasks']} tasks  {entry['policy']}")
    print(found["sentence"])
    return 0


def select(args: Any) -> dict[str, Any]:
    """Judge, write the folder, and return what `selection.json` says."""
    from ..data.files import write_whole

    before = _read(args.select.before) if args.select.before else None
    judged = _judged(args.policy.model_name_or_path, args.select.dataset)
    found = decide(judged, before, build_on_failed=args.select.build_on_failed_enable)
    output = Path(args.select.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / FILE).unlink(missing_ok=True)
    for name in ("next", "best"):
        _link(output / name, _folder(found[name]["policy"]))
    write_whole(output / FILE, json.dumps(found, indent=1) + "\n")
    return found


def decide(judged: dict[str, Any], before: dict[str, Any] | None, *, build_on_failed: bool) -> dict[str, Any]:
    """The rule of the command.

    Args:
        judged: what `_judged` tells of a policy.
        before: the selection before this one.
        build_on_failed: `next` is the judged policy even if it fails.

    Returns:
        `judged`, `start` (what it started from), `next` and `best`, each a policy with its figures; `gains` over `start` and over the best before;
        `failed`; and a sentence.

    Raises:
        UserError: the episodes were played in another setting than those before, or on other tasks.
    """
    if before is None:
        return {"judged": judged, "next": judged, "best": judged, "gains": {}, "failed": False, "sentence": "It is the first policy."}
    start, best = before["next"], before["best"]
    gains = {"start": _gain(judged, start), "best": _gain(judged, best)}
    failed = any(gain["high"] is not None and gain["high"] < 0 for gain in gains.values())
    better = judged["mean"] > best["mean"]
    goes_on = judged if build_on_failed or not failed else best
    told = ", ".join(
        f"{_points(gain)} over the {'policy it started from' if of == 'start' else 'best before'}" for of, gain in gains.items()
    )
    then = "it fails, and " if failed else ""
    then += "the next iteration starts from it" if goes_on is judged else f"the next iteration starts from {best['policy']}"
    return {
        "judged": judged,
        "start": start,
        "next": goes_on,
        "best": judged if better else best,
        "gains": gains,
        "failed": failed,
        "sentence": f"{told}: {then}; the best so far is {'this one' if better else best['policy']}.",
    }


def _judged(policy: str, dataset: str) -> dict[str, Any]:
    """Success of a policy by task, with its 95 % interval, and how it was played.

    Raises:
        UserError: the store holds episodes of another policy or of several settings, or none with an outcome.
    """
    from ..agents.digest import policy_digest
    from ..data.store import EpisodeStore
    from ..report.compare import of_tasks

    digest = policy_digest(policy)
    outcomes: dict[str, list[float]] = {}
    settings: set[str] = set()
    others: set[str] = set()
    left_out = 0
    for e in EpisodeStore(dataset).episodes():
        settings.add(json.dumps([e.env, e.split, e.sampling], sort_keys=True))
        others |= {e.policy} if e.policy_digest != digest else set()
        left_out += not e.status.has_outcome
        if e.status.has_outcome:
            outcomes.setdefault(e.task_id, []).append(e.outcome)
    estimate = of_tasks({task: sum(values) / len(values) for task, values in sorted(outcomes.items())})
    problems = [
        f"{dataset} holds episodes of {name}, which is not {policy} as it is now; play validation tasks again" for name in sorted(others)
    ]
    if len(settings) > 1:
        problems.append(f"the episodes of {dataset} were played in {len(settings)} settings; a policy is judged in one")
    if estimate is None:
        problems.append(f"no episode of {dataset} has an outcome, so the policy cannot be judged")
    if problems or estimate is None:
        raise UserError(problems)
    return {
        "policy": policy,
        "policy_digest": digest,
        "dataset": dataset,
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "tasks": estimate.tasks,
        "episodes": sum(map(len, outcomes.values())),
        "left_out": left_out,
        "setting": json.loads(settings.pop()),
        "by_task": estimate.by_task,
    }


def _gain(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The difference of success, task by task."""
    from ..report.compare import Estimate, gain

    if new["setting"] != old["setting"]:
        raise UserError(
            f"{new['dataset']} was played as {json.dumps(new['setting'])} and {old['dataset']} as {json.dumps(old['setting'])}; policies are "
            "compared in one setting"
        )
    both = [Estimate(e["mean"], e["low"], e["high"], e["tasks"], e["by_task"]) for e in (new, old)]
    found = gain(*both)
    if found is None:
        raise UserError(f"{new['dataset']} and {old['dataset']} share no task; play the same validation tasks")
    return {"mean": found.mean, "low": found.low, "high": found.high, "tasks": len(new["by_task"].keys() & old["by_task"].keys())}


def _read(folder: str) -> dict[str, Any]:
    path = Path(folder, FILE)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UserError(f"--select.before {folder} is no finished selection: {path} is not there or is no JSON ({error})") from error


def _folder(policy: str) -> Path:
    """Where a policy's files lie; of a hub name, where they were downloaded to."""
    path = Path(policy)
    if not path.is_dir():
        from transformers.utils import cached_file

        path = Path(str(cached_file(policy, "config.json"))).parent
    return path.resolve()


def _link(link: Path, target: Path) -> None:
    """A relative link, so that a run folder can be moved as a whole."""
    half = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    half.unlink(missing_ok=True)
    half.symlink_to(os.path.relpath(target, link.parent.resolve()), target_is_directory=True)
    os.replace(half, link)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _points(gain: dict[str, Any]) -> str:
    interval = "" if gain["low"] is None else f" [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
    return f"{100 * gain['mean']:+.1f} points{interval}"


if __name__ == "__main__":
    run_command(main)
