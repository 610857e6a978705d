"""Does the iterated loop rise: recipes/iterate-*.yaml over seeds, in slices that resume, and success on fresh tasks from π0 to π3.

    python tests/benchmarks/iterate_study.py run --recipes iterate-agentprm iterate-mc iterate-inverse --seeds 0 1 2 --minutes 15
    python tests/benchmarks/iterate_study.py summary --seeds 0 1 2

Seeds differ in their models and samples; their tasks are the same. "best" is the policy that was best on the validation tasks, where an
iteration that fails is not built on.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from study import line, outcomes, run, table

RECIPES = ["iterate-agentprm", "iterate-mc", "iterate-inverse", "iterate-dpo"]
STEPS = {"π0": "test_0", "π1": "test-1", "π2": "test-2", "π3": "test-3", "best": "test_best"}


def changes(seed: int, folder: str) -> list[str]:
    return [f"seed={seed}", f"run_dir={folder}/seed{seed}"]


def summary(seeds: list[int], folder: str, recipes: list[str]) -> None:
    """Success of each policy, and the gain of each over π0 task by task."""
    print(f"{platform.machine()}, {os.cpu_count()} cores; success in %\n")
    head = " | ".join(f"seed {s}" for s in seeds) + " | all | 95 % bootstrap | 95 % Student |\n|---|" + "---|" * (len(seeds) + 3)
    print(f"| fresh tasks, one sample | {head}")
    for recipe in recipes:
        runs = [Path(folder) / recipe / f"seed{seed}" for seed in seeds]
        found = [{name: outcomes(path / stage) for name, stage in STEPS.items() if (path / stage).is_dir()} for path in runs]
        for name in STEPS:
            parts = [table([row[name]]) if name in row else None for row in found]
            if any(part is not None for part in parts):
                print(line(f"{recipe}: {name}", parts))
        for name in list(STEPS)[1:]:
            parts = [table([row[name]], [row["π0"]]) if {name, "π0"} <= row.keys() else None for row in found]
            if any(part is not None for part in parts):
                print(line(f"{recipe}: {name} over π0", parts, "+"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "summary"])
    parser.add_argument("--recipes", nargs="+", default=RECIPES[:3], choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=15, help="length of this slice; a stage that has begun is finished")
    parser.add_argument("--folder", default="runs/iterate-study")
    args = parser.parse_args()
    if args.do == "summary":
        return summary(args.seeds, args.folder, args.recipes)
    for recipe in args.recipes:
        run(args.seeds, args.minutes / len(args.recipes), f"{args.folder}/{recipe}", list(STEPS.values()), recipe=recipe, changes=changes)


if __name__ == "__main__":
    main()
