"""Figures for the second tier of labels, losses and kinds, on the episodes of study-labels: second_tier.yaml over seeds, and its summary.

python tests/benchmarks/labels_study.py run --seeds 0 1 2     # first: the episodes, completions and tests
python tests/benchmarks/second_tier.py run --seeds 0 1 2 --minutes 30
python tests/benchmarks/second_tier.py summary --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from labels_study import knowledge
from study import HERE, interval, outcomes, run, table

BESIDE = "AgentPRM"


def changes_for(base: str):
    return lambda seed, folder: [f"seed={seed}", f"run_dir={folder}/seed{seed}", f"vars.base={base}/seed{seed}"]


def summary(seeds: list[int], folder: str, base: str, n: int = 8) -> None:
    """Best of n by every PRM over all seeds, the difference to AgentPRM's task by task, and what each knows at fixed turns."""
    folders = {s: Path(folder) / f"seed{s}" for s in seeds if (Path(folder) / f"seed{s}/evaluation.json").exists()}
    rows: dict[str, list[dict[str, float]]] = {"one sample": []}
    for seed, path in folders.items():
        evaluation = json.loads((path / "evaluation.json").read_text())
        rows["one sample"].append(outcomes(Path(base) / f"seed{seed}" / "test_samples"))
        for name, curve in evaluation["by_task"].items():
            rows.setdefault(name, []).append(dict(zip(evaluation["task_ids"], curve[str(n)], strict=True)))
    print(f"{platform.machine()}, {os.cpu_count()} cores; seeds {', '.join(map(str, folders))}; success in %\n")
    print(f"| | best of {n} | over {BESIDE} | by seed |\n|---|---|---|---|")
    for name, found in rows.items():
        mean, low, high = (100 * x for x in interval([table([tasks]) for tasks in found]))
        parts = [table([tasks], [other]) for tasks, other in zip(found, rows[BESIDE], strict=True)]
        gain, least, most = (100 * x for x in interval(parts))
        each = ", ".join(f"{100 * float(part.mean()):+.1f}" for part in parts)
        print(f"| {name} | {mean:.1f} [{low:.1f}, {high:.1f}] | {gain:+.1f} [{least:+.1f}, {most:+.1f}] | {each} |")
    knowledge(folders)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=30, help="length of this slice; a stage that has begun is finished")
    parser.add_argument("--folder", default="runs/second-tier")
    parser.add_argument("--base", default="runs/study-labels", help="folder of the study's runs")
    args = parser.parse_args()
    if args.do == "run":
        run(args.seeds, args.minutes, args.folder, ["evaluation"], recipe=str(HERE / "second_tier.yaml"), changes=changes_for(args.base))
    else:
        summary(args.seeds, args.folder, args.base)


if __name__ == "__main__":
    main()
