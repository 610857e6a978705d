"""A PRM that pays for repeating an action, in sum and in bounded forms, and what the alarm does about it: longer runs than the test's.

python tests/benchmarks/hacking.py run --seeds 0 1 2 --steps 40 --minutes 15     # again, until nothing is left to do
python tests/benchmarks/hacking.py summary --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "plugins")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS / "plugins"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])

from gaming import PAYS, gamed, imitate, rows_of, success  # noqa: E402
from launching import module  # noqa: E402

ARMS = PAYS | {f"sum, {stop}": [*PAYS["sum"], "--prm.early_stop", stop] for stop in ("stop", "best", "outcome")}


def policy(folder: Path) -> Path:
    """One that counts rightly more often than not."""
    if not (folder / "learnt/config.json").is_file():
        game = ["--env.name", "thirdparty_count"]
        module("tiny_policy", *game, "--env.num_tasks", 20, "--tiny.output", folder / "tiny", "--tiny.layers", 2)
        demonstrations = ["--collect.demonstrator", "careless", "--collect.noise", 0.5, "--collect.n_samples_per_task", 1]
        where = ["--policy.model_name_or_path", folder / "tiny", "--collect.output", folder / "store"]
        module("collect", *game, "--env.num_tasks", 96, "--env.max_turns", 6, "--data.max_len", 128, *where, *demonstrations)
        imitate(folder / "tiny", folder / "store", folder / "learnt")
    return folder / "learnt"


def run(args: argparse.Namespace) -> None:
    """Each arm and seed in turn; one that has begun is finished."""
    began = time.monotonic()
    start = policy(args.folder)
    for seed in args.seeds:
        for arm, flags in ARMS.items():
            folder = args.folder / f"{arm.replace(', ', '_')}-{seed}"
            if (folder / "config.json").is_file():
                continue
            if time.monotonic() - began > 60 * args.minutes:
                return
            shutil.rmtree(folder, ignore_errors=True)
            watch = ["--prm.monitor_every", 5, "--env.eval_tasks", 64, "--eval.n_samples_per_prompt", 4, "--eval.temperature", 1.0]
            gamed(start, folder, *flags, *watch, "--actor.adam.lr", args.rate, "--train.seed", seed, steps=args.steps)
            print(f"{arm}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


def summary(args: argparse.Namespace) -> None:
    print("| PRM pays | seed | success at the start | alarm at step | success there | at the end | steps | PRM's reward |\n" + "|---|" * 8)
    for arm in ARMS:
        for seed in args.seeds:
            folder = args.folder / f"{arm.replace(', ', '_')}-{seed}"
            if not (folder / "config.json").is_file():
                continue
            rows = rows_of(folder)
            training, last = rows["training"], rows["training"][-1]["step"]
            rang = rows["alarm"][0]["step"] if rows["alarm"] else None
            there = f"{100 * success(rows, rang):.0f} %" if rang else ""
            ends = [100 * success(rows, 2), 100 * success(rows, last - 1)]
            paid = f"{training[0]['prm_reward']:.2f} → {training[-1]['prm_reward']:.2f}"
            print(f"| {arm} | {seed} | {ends[0]:.0f} % | {rang or 'none'} | {there} | {ends[1]:.0f} % | {last} | {paid} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--folder", type=Path, default=Path("runs/hacking"))
    args = parser.parse_args()
    (run if args.do == "run" else summary)(args)


if __name__ == "__main__":
    main()
