"""What docs/ reports as measured of advantage estimators: recipes/study-rl.yaml over seeds, in slices that resume, and their summary.

    python tests/benchmarks/rl_study.py run --seeds 0 1 2 --minutes 15
    python tests/benchmarks/rl_study.py summary --seeds 0 1 2
    python tests/benchmarks/rl_study.py plot --seeds 0 1 2 --output docs/study-rl.svg

Each seed has demonstrations, policy, PRMs and test tasks of its own. Every training step plays tasks that were not played before, so success in
training batches is success on fresh tasks; it is what the curves are made of. Two arms learn by supervised training from as many episodes, and
have no curve, and are played on request: `--arms outcome rft step_sft`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from itertools import accumulate
from pathlib import Path

from study import line, outcomes, run, table

ARMS = {
    "outcome": "outcome only",
    "host_gae": "the host's GAE, λ 0.95",
    "token_gae": "GAE over action tokens, λ 0.95",
    "turn_gae_critic": "turn GAE, critic",
    "turn_gae_prm": "turn GAE, AgentPRM",
    "progress": "progress alone",
    "pav": "PAV",
    "min_form": "PURE",
    "prime": "PRIME",
    "rft": "rejection sampling by AgentPRM",
    "step_sft": "turns of positive progress",
}
ON_REQUEST = ("rft", "step_sft")
WINDOW = 5  # steps whose mean is a point of a curve
Curve = dict[str, list[float]]


def changes(seed: int, folder: str) -> list[str]:
    """Tasks of one seed never meet those of another."""
    values = {
        "seed": seed,
        "run_dir": f"{folder}/seed{seed}",
        "vars.first_demonstration": 25_000 * seed + 10_000,
        "vars.first_train": 25_000 * seed,
        "vars.first_ppo": 25_000 * seed + 20_000,
        "vars.first_test": 20_000 + 1_000 * seed,
    }
    return [f"{k}={v}" for k, v in values.items()]


def curve(run_dir: Path, arm: str) -> Curve | None:
    """By training step: success of its episodes, turns played and minutes spent so far, turns an episode; None where the arm was not run."""
    from openrlhf_agentprm.report.curves import read_scalars

    scalars = read_scalars(run_dir / arm / "tensorboard")
    if "train/turns/outcome_mean" not in scalars:
        return None
    success, turns, seconds = (dict(scalars[f"train/{name}"]) for name in ("turns/outcome_mean", "turns/per_episode", "timing/step_total"))
    ended = [dict(scalars.get(f"train/status/{status}", [])) for status in ("success", "failure", "truncated")]
    played = [turns[step] * sum(counts.get(step, 0.0) for counts in ended) for step in success]
    return {
        "success": list(success.values()),
        "turns": list(turns.values()),
        "environment steps": list(accumulate(played)),
        "minutes": list(accumulate(seconds[step] / 60 for step in success)),
    }


def curves_of(folders: dict[int, Path], arms: list[str]) -> dict[int, dict[str, Curve]]:
    return {seed: {arm: c for arm in arms if (c := curve(path, arm)) is not None} for seed, path in folders.items()}


def smooth(values: list[float]) -> list[float]:
    """Means over the last WINDOW steps, from the first whole window on."""
    return [sum(values[n - WINDOW : n]) / WINDOW for n in range(WINDOW, len(values) + 1)]


def reached(values: list[float], goal: float) -> int | None:
    """The first step, from 1, whose window of steps has at least this mean."""
    return next((n + WINDOW for n, mean in enumerate(smooth(values)) if mean >= goal), None)


def folders_of(seeds: list[int], folder: str) -> dict[int, Path]:
    """Of the seeds that have begun."""
    return {seed: Path(folder) / f"seed{seed}" for seed in seeds if (Path(folder) / f"seed{seed}/test_start").is_dir()}


def summary(seeds: list[int], folder: str, arms: list[str]) -> None:
    """Success on fresh tasks, gains over outcome only task by task, curves, and the steps to outcome-only's end."""
    folders = folders_of(seeds, folder)
    print(f"{platform.machine()}, {os.cpu_count()} cores; seeds {', '.join(map(str, folders))}; success in %\n")
    found = {
        seed: {name: outcomes(path / f"test_{name}") for name in ("start", *arms) if (path / f"test_{name}").is_dir()}
        for seed, path in folders.items()
    }
    head = " | ".join(f"seed {s}" for s in found) + " | all | 95 % bootstrap | 95 % Student |\n|---|" + "---|" * (len(found) + 3)
    print(f"| fresh tasks, one sample | {head}")
    for name in ("start", *arms):
        parts = [table([rows[name]]) if name in rows else None for rows in found.values()]
        if any(part is not None for part in parts):
            print(line(ARMS.get(name, "before PPO"), parts))
    print(f"\n| gain in points, task by task | {head}")
    for old in ("start", "outcome", "host_gae"):
        for new in arms if old != "host_gae" else ("token_gae", "turn_gae_critic"):
            parts = [table([rows[new]], [rows[old]]) if {new, old} <= rows.keys() and new != old else None for rows in found.values()]
            if any(part is not None for part in parts):
                print(line(f"{ARMS[new]} over {ARMS.get(old, 'before PPO')}", parts, "+"))
    print_curves(curves_of(folders, arms))
    print_alarms(folders, arms)


def print_curves(curves: dict[int, dict[str, Curve]]) -> None:
    """Success by step, then by which step, environment step and minute each arm was where outcome-only ended."""
    longest = max((len(c["success"]) for by_arm in curves.values() for c in by_arm.values()), default=0)
    steps = range(WINDOW, longest + 1, WINDOW)
    if not steps:
        return
    heads = " | ".join([*(f"to step {n}" for n in steps), "turns, first and last"])
    print(f"\n| training batches, means of {WINDOW} steps and of the seeds | {heads} |")
    print("|---|" + "---|" * (len(steps) + 1))
    for arm, title in ARMS.items():
        parts = [by_arm[arm] for by_arm in curves.values() if arm in by_arm and len(by_arm[arm]["success"]) >= WINDOW]
        if parts:
            means = [[100 * smooth(c["success"])[n - WINDOW] for c in parts if len(c["success"]) >= n] for n in steps]
            cells = [f"{sum(m) / len(m):.1f}" if m else "–" for m in means]
            turns = [sum(c["turns"][at] for c in parts) / len(parts) for at in (0, -1)]
            print(f"| {title} | " + " | ".join(cells) + f" | {turns[0]:.1f}, {turns[1]:.1f} |")
    print_steps(curves)
    for axis in ("environment steps", "minutes"):
        print_by(axis, curves)
    print("\n| where outcome only ended, reached by | " + " | ".join(f"seed {s}: step, environment steps, minutes" for s in curves) + " |")
    print("|---|" + "---|" * len(curves))
    for arm, title in ARMS.items():
        cells = [_when(by_arm, arm) for by_arm in curves.values()]
        if any(cell != "–" for cell in cells):
            print(f"| {title} | " + " | ".join(cells) + " |")


def print_steps(curves: dict[int, dict[str, Curve]]) -> None:
    """Of the mean over seeds, which is less noisy than a seed: the best window, and by which step each arm was where outcome only was."""
    means = {}
    for arm in ARMS:
        parts = [by_arm[arm]["success"] for by_arm in curves.values() if arm in by_arm]
        mean = [sum(values) / len(values) for values in zip(*parts, strict=False)]
        if len(parts) == len(curves) and len(mean) >= WINDOW:
            means[arm] = mean
    if "outcome" not in means:
        return
    goals = smooth(means["outcome"])[-1], max(smooth(means["outcome"]))
    print(
        f"\n| mean of the seeds | best {WINDOW} steps, to step | where outcome only ended, by step | where it was best, by step |\n|---|---|---|---|"
    )
    for arm, mean in means.items():
        windows = smooth(mean)
        best = max(range(len(windows)), key=windows.__getitem__)
        cells = [f"{step}" if (step := reached(mean, goal)) else f"not in {len(mean)}" for goal in goals]
        print(f"| {ARMS[arm]} | {100 * windows[best]:.1f}, {best + WINDOW} | {cells[0]} | {cells[1]} |")


def print_by(axis: str, curves: dict[int, dict[str, Curve]]) -> None:
    """Success of the last window of steps within equal budgets, up to what the cheapest arm has spent."""
    every = [c for by_arm in curves.values() for c in by_arm.values() if len(c["success"]) >= WINDOW]
    if not every:
        return
    budgets = [min(c[axis][-1] for c in every) * part / 4 for part in range(1, 5)]
    print(
        f"\n| within {axis} | " + " | ".join(f"{b:,.0f}" if b >= 10 else f"{b:.1f}" for b in budgets) + " |\n|---|" + "---|" * len(budgets)
    )
    for arm, title in ARMS.items():
        parts = [by_arm[arm] for by_arm in curves.values() if arm in by_arm and len(by_arm[arm]["success"]) >= WINDOW]
        cells = [[x for c in parts if (x := within(c, axis, budget)) is not None] for budget in budgets]
        if parts:
            print(f"| {title} | " + " | ".join(f"{100 * sum(m) / len(m):.1f}" if m else "–" for m in cells) + " |")


def within(curve: Curve, axis: str, budget: float) -> float | None:
    """Mean success of the last WINDOW steps that a budget allows; None where it allows fewer."""
    steps = sum(spent <= budget for spent in curve[axis])
    return smooth(curve["success"])[steps - WINDOW] if steps >= WINDOW else None


def print_alarms(folders: dict[int, Path], arms: list[str]) -> None:
    """The first alarm of each arm that is watched, by step."""
    print("\n| the first alarm that the PRM is gamed | " + " | ".join(f"seed {s}" for s in folders) + " |\n|---|" + "---|" * len(folders))
    for arm in arms:
        files = [path / arm / "monitor.jsonl" for path in folders.values()]
        if any(file.is_file() for file in files):
            print(f"| {ARMS[arm]} | " + " | ".join(map(_first_alarm, files)) + " |")


def _first_alarm(file: Path) -> str:
    if not file.is_file():
        return "–"
    rows = [json.loads(row) for row in file.read_text(encoding="utf-8").splitlines()]
    return next((f"step {row['step']}" for row in rows if row["kind"] == "alarm"), "none")


def _when(by_arm: dict[str, Curve], arm: str) -> str:
    if arm not in by_arm or "outcome" not in by_arm or len(by_arm["outcome"]["success"]) < WINDOW:
        return "–"
    goal, ours = smooth(by_arm["outcome"]["success"])[-1], by_arm[arm]
    step = reached(ours["success"], goal)
    if step is None:
        return f"not in {len(ours['success'])}"
    return f"{step}, {ours['environment steps'][step - 1]:.0f}, {ours['minutes'][step - 1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "summary", "plot"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=15, help="length of this slice; a stage that has begun is finished")
    parser.add_argument("--folder", default="runs/study-rl")
    parser.add_argument("--arms", nargs="+", default=[arm for arm in ARMS if arm not in ON_REQUEST], choices=list(ARMS))
    parser.add_argument("--output", type=Path, default=Path("study-rl.svg"), help="plot: the picture's file")
    args = parser.parse_args()
    if args.do == "plot":
        from rl_plot import plot

        plot(curves_of(folders_of(args.seeds, args.folder), args.arms), ARMS, smooth, WINDOW, args.output)
    elif args.do == "run":
        run(
            args.seeds, args.minutes, args.folder, ["test_start", *(f"test_{arm}" for arm in args.arms)], recipe="study-rl", changes=changes
        )
    else:
        summary(args.seeds, args.folder, args.arms)


if __name__ == "__main__":
    main()
