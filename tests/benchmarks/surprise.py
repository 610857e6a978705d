"""Does td_qv, which reads values at states, beat td_gae where observations surprise: surprise.yaml over seeds, and its summary.

python tests/benchmarks/surprise.py run --seeds 0 1 2 --minutes 30
python tests/benchmarks/surprise.py summary --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from labels_study import changes as of_labels
from labels_study import knowledge, measured
from study import HERE, interval, line, run, table

NAMES = ("random", "td_gae", "td_qv", "AgentPRM")
PAIRS = (("td_qv", "td_gae"), ("td_qv", "AgentPRM"), ("AgentPRM", "td_gae"))


def changes(seed: int, folder: str) -> list[str]:
    return [change for change in of_labels(seed, folder) if not change.startswith("vars.test_samples")]


def summary(seeds: list[int], folder: str) -> None:
    """Every PRM over all seeds, what it knows at fixed turns, and the differences task by task."""
    folders = {s: Path(folder) / f"seed{s}" for s in seeds if (Path(folder) / f"seed{s}/evaluation.json").exists()}
    found = {seed: measured(path) for seed, path in folders.items()}
    ways = [w for w in ("best of 8", "best of 16", "1×4", "2×2") if all(w in rows for rows in found.values())]
    print(f"{platform.machine()}, {os.cpu_count()} cores; seeds {', '.join(map(str, found))}; 300 fresh tasks a seed; success in %\n")
    print("| | " + " | ".join(ways) + " |\n|---|" + "---|" * len(ways))
    for name in NAMES:
        each = [[table([rows[way][name]]) for rows in found.values()] for way in ways]
        cells = [tuple(100 * x for x in interval([part for part in parts if part is not None])) for parts in each]
        print(f"| {name} | " + " | ".join(f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in cells) + " |")
    knowledge(folders)
    heads = " | ".join([*(f"seed {s}" for s in found), "all", "95 % bootstrap", "95 % Student"])
    print(f"\n| gain in points, task by task | {heads} |\n|---|" + "---|" * (len(found) + 3))
    for new, old in PAIRS:
        for way in ways:
            print(line(f"{way}: {new} over {old}", [table([rows[way][new]], [rows[way][old]]) for rows in found.values()], "+"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=30, help="length of this slice; a stage that has begun is finished")
    parser.add_argument("--folder", default="runs/surprise")
    args = parser.parse_args()
    if args.do == "run":
        run(args.seeds, args.minutes, args.folder, ["evaluation", "search"], recipe=str(HERE / "surprise.yaml"), changes=changes)
    else:
        summary(args.seeds, args.folder)


if __name__ == "__main__":
    main()
