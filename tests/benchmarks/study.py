"""The README's comparisons: study.yaml over seeds, in slices that can be stopped and resumed, and their summary.

    python tests/benchmarks/study.py run --seeds 0 1 2 --minutes 30     # run until the time is up; the same command goes on
    python tests/benchmarks/study.py summary --seeds 0 1 2              # tables from what is there

Each seed makes its own demonstrations, policy, PRMs and PPO runs, on tasks of its own, and is judged on 300 fresh tasks of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

SEEDS = range(8)


def changes(seed: int, folder: str) -> list[str]:
    """Tasks of one seed never meet those of another; the split has 100,000 to train on: four blocks, each with room for two seeds."""
    if seed not in SEEDS:
        raise SystemExit(f"there are tasks of their own for the seeds 0 to {SEEDS[-1]}; {seed} has none")
    row, block = divmod(seed, 4)
    values = {
        "seed": seed,
        "run_dir": f"{folder}/seed{seed}",
        "vars.first_demonstration": 25_000 * block + 10_000 + 5_000 * row,
        "vars.first_train": 25_000 * block + 1_000 * row,
        "vars.first_ppo": 25_000 * block + 20_000 + 2_000 * row,
        "vars.first_test": 1_000 + 1_000 * seed,
    }
    return [f"{k}={v}" for k, v in values.items()]


GOALS = ["search", "evaluation", "test_ppo_agentprm", "test_ppo_outcome", "test_ppo_progress", "control_search"]
GOALS += ["random_search_2", "random_search_3", "random_search_4", "report"]


def run(
    seeds: list[int], minutes: float, folder: str, goals: list[str], recipe: str = str(HERE / "study.yaml"), changes: Any = changes
) -> None:
    """Goal by goal, each in all seeds, stopping between stages once the time is up. A goal is a stage and all that it reads; "report" is
    the whole recipe."""
    from openrlhf_agentprm.cli.run import Display, parsers
    from openrlhf_agentprm.pipeline.recipe import load_recipe
    from openrlhf_agentprm.pipeline.run import run_recipe

    end = time.monotonic() + 60 * minutes
    for goal in goals:
        for seed in seeds:
            whole = load_recipe(recipe, changes(seed, folder), parsers())
            part = whole if goal == "report" else replace(whole, stages=_read_by(whole, goal))
            for stage in part.stages:
                if time.monotonic() > end:
                    print("the slice is over; the same command goes on")
                    return
                run_recipe(part, last=stage.name, on_event=Display())


def _read_by(recipe: Any, goal: str) -> Any:
    """The stage and what it reads, and what that reads, in the recipe's order."""
    wanted = {goal}
    for stage in reversed(recipe.stages):
        if stage.name in wanted:
            wanted.update(stage.needs)
    return type(recipe.stages)(stage for stage in recipe.stages if stage.name in wanted)


def outcomes(store: Path) -> dict[str, float]:
    """Mean outcome of each task of a store."""
    from openrlhf_agentprm.data.store import EpisodeStore

    found: dict[str, list[float]] = {}
    for row in EpisodeStore(store).rows(["task_id", "outcome", "status"]):
        if row["status"] in ("success", "failure", "truncated"):
            found.setdefault(row["task_id"], []).append(row["outcome"])
    return {task: sum(values) / len(values) for task, values in found.items()}


def gathered(run_dir: Path) -> dict[str, list[dict[str, float]]]:
    """Each measure of a seed, task by task, once for each draw: the control is trained on several shuffles, all else once."""
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    rows["single sample"].append(outcomes(run_dir / "test_samples"))
    rows["greedy decoding"].append(outcomes(run_dir / "test_greedy"))
    for file, way in (("evaluation.json", ""), ("control_evaluation.json", ""), ("plain_evaluation.json", "plain ")):
        if not (run_dir / file).exists():
            continue
        evaluation = json.loads((run_dir / file).read_text())
        first = {f"{way}best of 8: {name}": curve for name, curve in evaluation["by_task"].items() if name != "random"}
        last = {f"{way}lowest of 8: {name}": curve for name, curve in evaluation["lowest_by_task"].items()}
        for name, curve in (first | last).items():
            if file == "evaluation.json" or name.partition(": ")[2] in evaluation["prm_quality"]:
                rows[_without_draw(name)].append(dict(zip(evaluation["task_ids"], curve["8"], strict=True)))
    for file in ("search.json", "control_search.json", *(f"random_search_{n}.json" for n in (2, 3, 4))):
        for entry in json.loads((run_dir / file).read_text()) if (run_dir / file).exists() else []:
            kept = {t: v for t, v in entry["outcomes"].items() if v is not None}
            rows[_without_draw(f"search {entry['beams']}×{entry['actions']}: {entry['prm']}")].append(kept)
    for arm in ("agentprm", "outcome", "progress"):
        if (run_dir / f"test_ppo_{arm}").is_dir():
            rows[f"PPO: {arm}"].append(outcomes(run_dir / f"test_ppo_{arm}"))
    return rows


def _without_draw(name: str) -> str:
    """`shuffled_3` is a further draw of `shuffled`."""
    return re.sub(r"_\d+$", "", name)


PAIRS = [
    ("best of 8: AgentPRM", "single sample"),
    ("best of 8: AgentPRM", "greedy decoding"),
    ("best of 8: AgentPRM", "best of 8: log-probability per turn"),
    ("best of 8: AgentPRM", "best of 8: fewest turns"),
    ("best of 8: AgentPRM", "best of 8: most turns"),
    ("best of 8: PVM", "single sample"),
    ("best of 8: ORM", "single sample"),
    ("best of 8: shuffled", "single sample"),
    ("plain best of 8: AgentPRM", "single sample"),
    ("plain best of 8: shuffled", "single sample"),
    ("plain best of 8: shuffled", "plain lowest of 8: shuffled"),
    ("best of 8: AgentPRM", "lowest of 8: AgentPRM"),
    ("best of 8: shuffled", "lowest of 8: shuffled"),
    ("search 2×2: AgentPRM", "search 2×2: random"),
    ("search 2×2: PVM", "search 2×2: random"),
    ("search 2×2: ORM", "search 2×2: random"),
    ("search 2×2: shuffled", "search 2×2: random"),
    ("search 1×4: AgentPRM", "search 1×4: random"),
    ("search 1×4: shuffled", "search 1×4: random"),
    ("PPO: agentprm", "single sample"),
    ("PPO: outcome", "single sample"),
    ("PPO: agentprm", "PPO: outcome"),
    ("PPO: progress", "single sample"),
]


STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantiles of Student's t, by number of seeds


def interval(parts: list[torch.Tensor], resamples: int = 4000) -> tuple[float, float, float]:
    """Mean over seeds, and its 95 % bootstrap interval: seeds are drawn, then draws and tasks within each, as a further seed differs in its
    models too. Each part is (draws, tasks)."""
    generator = torch.Generator().manual_seed(0)
    means = []
    for seeds in torch.randint(len(parts), (resamples, len(parts)), generator=generator).tolist():
        means.append(sum(_resampled(parts[s], generator).mean() for s in seeds) / len(seeds))
    low, high = torch.quantile(torch.stack(means), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(sum(part.mean() for part in parts) / len(parts)), low, high


def _resampled(part: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    draws, tasks = part.shape
    if draws > 1:
        part = part[torch.randint(draws, (draws,), generator=generator)]
    return part[:, torch.randint(tasks, (tasks,), generator=generator)]


def student(parts: list[torch.Tensor]) -> str:
    """The interval over the seeds' means alone, which is wide for few seeds; the bootstrap over few of them is too narrow."""
    if len(parts) not in STUDENT:
        return "–"
    means = torch.stack([part.mean() for part in parts])
    mean, half = float(means.mean()), STUDENT[len(parts)] * float(means.std()) / len(parts) ** 0.5
    return f"{100 * (mean - half):.1f} to {100 * (mean + half):.1f}"


def table(draws: list[dict[str, float]], minus: list[dict[str, float]] | None = None) -> torch.Tensor | None:
    """(draws, tasks) over the tasks that all have, less the other measure's: draw by draw if it has as many, else their mean."""
    if not draws or minus == []:
        return None
    tasks = [t for t in draws[0] if all(t in d for d in (*draws, *(minus or [])))]
    values = torch.tensor([[d[t] for t in tasks] for d in draws], dtype=torch.float64)
    if minus is None:
        return values
    others = torch.tensor([[d[t] for t in tasks] for d in minus], dtype=torch.float64)
    return values - (others if len(minus) == len(draws) else others.mean(0))


def line(name: str, parts: list[torch.Tensor | None], sign: str = "") -> str:
    there = [part for part in parts if part is not None]
    mean, low, high = interval(there)
    cells = " | ".join("–" if part is None else f"{100 * float(part.mean()):{sign}.1f}" for part in parts)
    return f"| {name} | {cells} | {100 * mean:{sign}.1f} | {100 * low:{sign}.1f} to {100 * high:{sign}.1f} | {student(there)} |"


def summary(seeds: list[int], folder: str) -> None:
    """Means by seed and over all, and paired gains with bootstrap intervals over all tasks of all seeds, beside Student's."""
    found = {seed: gathered(Path(folder) / f"seed{seed}") for seed in seeds if (Path(folder) / f"seed{seed}" / "search.json").exists()}
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    head = " | ".join(f"seed {s}" for s in found) + " | all | 95 % bootstrap | 95 % Student |\n|---|" + "---|" * (len(found) + 3)
    print(f"{platform.machine()}, {os.cpu_count()} cores; seeds {', '.join(map(str, found))}; 300 fresh tasks a seed; success in %\n")
    print(f"| | {head}")
    for name in names:
        print(line(name, [table(rows[name]) for rows in found.values()]))
    print(f"\n| gain in points, task by task | {head}")
    for new, old in PAIRS:
        parts = [table(rows[new], rows[old]) for rows in found.values()]
        if any(part is not None for part in parts):
            print(line(f"{new} over {old}", parts, "+"))
    quality([Path(folder) / f"seed{seed}" for seed in found])
    print("\n| control, shuffle by shuffle | " + " | ".join(f"seed {s}" for s in found) + " |\n|---|" + "---|" * len(found))
    for new, old in PAIRS:
        if "shuffled" in new:
            parts = [table(rows[new], rows[old]) for rows in found.values()]
            cells = ["–" if part is None else ", ".join(f"{100 * float(mean):+.1f}" for mean in part.mean(1)) for part in parts]
            print(f"| {new} over {old} | " + " | ".join(cells) + " |")


def quality(folders: list[Path]) -> None:
    """What length cannot pass: AUC between samples of one task, at a fixed turn among those alive, and at equal length; and what search costs."""
    measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    costs: dict[str, list[float]] = defaultdict(list)
    for folder in folders:
        for file in ("evaluation.json", "control_evaluation.json"):
            evaluation = json.loads((folder / file).read_text()) if (folder / file).exists() else {"prm_quality": {}}
            for name, found in evaluation["prm_quality"].items():
                row = measured[_without_draw(name)]
                for turn in found["by_turn"]:
                    row[f"turn {turn['turn']}"].append(turn["auc_within_task"])
                row["last turn"].append(found["last"]["auc_within_task"])
                row["at equal length"].append(found["last"]["auc_within_task_and_length"])
        for entry in json.loads((folder / "search.json").read_text()):
            costs[f"{entry['prm']} {entry['beams']}×{entry['actions']}"].append(entry["sampled_actions_per_task"])
    columns = [f"turn {n}" for n in range(1, 5)] + ["last turn", "at equal length"]
    print("\n| AUC between samples of one task | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, row in measured.items():
        cells = [[value for value in row[column] if value is not None] for column in columns]
        print(f"| {name} | " + " | ".join(f"{sum(cell) / len(cell):.2f}" if cell else "–" for cell in cells) + " |")
    print("\nactions sampled a task: " + ", ".join(f"{name} {sum(found) / len(found):.1f}" for name, found in costs.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=30, help="length of this slice; a stage that has begun is finished")
    parser.add_argument("--folder", default="runs/study")
    parser.add_argument("--goals", nargs="+", default=GOALS, metavar="STAGE", help="stages to reach in all seeds, one after the other")
    args = parser.parse_args()
    run(args.seeds, args.minutes, args.folder, args.goals) if args.do == "run" else summary(args.seeds, args.folder)


if __name__ == "__main__":
    main()
