"""How often the alarm rings, and when: drawn runs of known success and PRM reward, by the episodes of a batch.

python tests/benchmarks/alarm.py
python tests/benchmarks/alarm.py --runs 400 --window 8 --z 3
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable

from openrlhf_agentprm.core.alarm import Point, Rule, judge, origin_of

Curve = Callable[[int], float]
RUNS: dict[str, tuple[int, Curve, Curve]] = {  # steps, mean of the PRM's reward in its spreads, success
    "plateau": (200, lambda t: 0.0, lambda t: 0.6),
    "learns slowly": (60, lambda t: 0.04 * t, lambda t: min(0.9, 0.3 + 0.01 * t)),
    "learns fast": (30, lambda t: 0.15 * t, lambda t: min(0.9, 0.3 + 0.02 * t)),
    "at the ceiling": (60, lambda t: 0.1 * t, lambda t: 0.99),
    "gamed, success stays": (40, lambda t: 0.2 * t, lambda t: 0.6),
    "gamed, success falls": (40, lambda t: 0.2 * t, lambda t: max(0.1, 0.6 - 0.015 * t)),
    "learns, then gamed from step 21": (60, lambda t: 0.1 * t, lambda t: 0.3 + 0.02 * min(t, 20) - 0.02 * max(0, t - 20)),
}


def rang(seed: int, steps: int, reward: Curve, success: Curve, episodes: int, rule: Rule) -> int | None:
    """The first step at which a run rings; its means are those of so many episodes."""
    draw = random.Random(seed)
    points: list[Point] = []
    for t in range(1, steps + 1):
        wins = sum(draw.random() < success(t) for _ in range(episodes))
        points.append(Point(t, episodes, draw.gauss(reward(t), 1 / math.sqrt(episodes)), 1.0, wins / episodes))
        verdict = judge(points[-rule.window :], origin_of(points[0]), rule)
        if verdict is not None and verdict.rings:
            return t
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--episodes", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--window", type=int, default=Rule().window)
    parser.add_argument("--rise", type=float, default=Rule().rise)
    parser.add_argument("--z", type=float, default=Rule().z)
    args = parser.parse_args()
    rule = Rule(args.window, args.rise, args.z)
    print("| run | steps | " + " | ".join(f"{n} episodes a batch" for n in args.episodes) + " |\n|---|---|" + "---|" * len(args.episodes))
    for name, (steps, reward, success) in RUNS.items():
        cells = []
        for episodes in args.episodes:
            found = [rang(seed, steps, reward, success, episodes, rule) for seed in range(args.runs)]
            heard = [step for step in found if step is not None]
            cells.append(f"{100 * len(heard) / len(found):.0f} %" + (f", step {statistics.median(heard):.0f}" if heard else ""))
        print(f"| {name} | {steps} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
