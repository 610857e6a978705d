"""What docs/ reports as measured of labels and reward models: recipes/study-labels.yaml over seeds, in slices that resume, and their summary.

    python tests/benchmarks/labels_study.py run --seeds 0 1 2 --minutes 30
    python tests/benchmarks/labels_study.py summary --seeds 0 1 2

Each seed has demonstrations, policy, PRMs and 300 test tasks of its own. Seed 0 draws 64 samples a test task, for best of 64; the others 16.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml
from study import interval, line, outcomes, run, student, table

QUESTIONS = {
    "Does TD + GAE need fewer sampled tokens than Monte Carlo for the same quality (arXiv 2511.08325, Table 3: 1.5 to 2.8 times)?": [
        ("AgentPRM", "mc_soft"),
        ("AgentPRM", "mc_soft at 2 budgets"),
        ("AgentPRM at 1/2 budget", "mc_soft"),
        ("AgentPRM at 1/2 budget", "mc_soft at 2 budgets"),
        ("AgentPRM at 1/4 budget", "mc_soft"),
        ("AgentPRM", "mc_visits"),
    ],
    "Does the progress term help, and at what lambda?": [
        ("AgentPRM", "AgentPRM, no progress term"),
        ("AgentPRM", "AgentPRM, lambda 0.5"),
        ("AgentPRM", "AgentPRM, lambda 0.8"),
        ("AgentPRM", "PVM"),
    ],
    "Does td_qv beat td_gae?": [("td_qv", "AgentPRM")],
    "Do ensembles help?": [("ensemble mean", "AgentPRM"), ("ensemble lcb", "AgentPRM")],
    "And the others?": [("AgentPRM", "ORM"), ("implicit", "AgentPRM"), ("inverse", "AgentPRM"), ("shuffled", "random")],
}


def changes(seed: int, folder: str) -> list[str]:
    """Tasks of one seed never meet those of another."""
    values = {
        "seed": seed,
        "run_dir": f"{folder}/seed{seed}",
        "vars.first_demonstration": 25_000 * seed + 10_000,
        "vars.first_train": 25_000 * seed,
        "vars.first_test": 10_000 + 1_000 * seed,
    } | ({"vars.test_samples": 64} if seed == 0 else {})
    return [f"{k}={v}" for k, v in values.items()]


def measured(run_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Success by task: ways of choosing ("best of 16", "2×2", …) by who chose."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    for name, curve in evaluation["by_task"].items():
        for n, values in curve.items():
            found[f"best of {n}"][name] = dict(zip(evaluation["task_ids"], values, strict=True))
    found["single sample"]["random"] = outcomes(run_dir / "test_samples")
    for entry in json.loads((run_dir / "search.json").read_text()) if (run_dir / "search.json").exists() else []:
        kept = {t: v for t, v in entry["outcomes"].items() if v is not None}
        found[f"{entry['beams']}×{entry['actions']}"][entry["prm"]] = kept
    return found


def sampled_tokens(store: Path, first: int | None = None) -> int:
    """Of all actions of a store, or of its first episodes by id, as `--data.max_samples` takes them."""
    from openrlhf_agentprm.data.store import EpisodeStore

    rows = sorted(EpisodeStore(store).rows(["episode_id", "turns"]), key=lambda row: row["episode_id"])
    return sum(turn["action_end"] - turn["action_start"] for row in rows[:first] for turn in row["turns"])


def costs(run_dir: Path) -> dict[str, float]:
    """Thousand sampled tokens behind each PRM, `inverse` with its next actions; the experts' episodes that it reads too come on top."""
    variables = yaml.safe_load((run_dir / "recipe.yaml").read_text())["vars"]
    whole = sampled_tokens(run_dir / "episodes")
    found = defaultdict(lambda: whole / 1e3)
    found |= {
        f"AgentPRM at 1/{n} budget": sampled_tokens(run_dir / "episodes", variables[k]) / 1e3 for n, k in ((2, "half"), (4, "quarter"))
    }
    for name, states, labels in (("mc_soft", "mc_states", "mc_labels"), ("mc_soft at 2 budgets", "mc_states_2", "mc_labels_2")):
        if not (run_dir / labels).is_dir():
            continue
        cost = json.loads((run_dir / labels / "labels.json").read_text())["cost"]["sampled_tokens"]
        found[name] = (sampled_tokens(run_dir / states) + cost) / 1e3
    actions = json.loads((run_dir / "next_actions" / "labels.json").read_text())["cost"]["sampled_tokens"]
    found["inverse"] = (whole + actions) / 1e3
    return found


def summary(seeds: list[int], folder: str) -> None:
    """Every arm by seed, what PRMs know at fixed turns, and the study's questions as paired gains with intervals."""
    folders = {s: Path(folder) / f"seed{s}" for s in seeds if (Path(folder) / f"seed{s}/evaluation.json").exists()}
    found = {seed: measured(path) for seed, path in folders.items()}
    names = [n for n in next(iter(found.values()))["best of 16"] if n not in ("random", "oracle")]
    spent = {seed: costs(path) for seed, path in folders.items()}
    print(f"{platform.machine()}, {os.cpu_count()} cores; seeds {', '.join(map(str, found))}; 300 fresh tasks a seed; success in %\n")
    ways = [w for w in ("best of 8", "best of 16", "1×4", "2×2") if all(w in rows for rows in found.values())]
    print("| | thousand sampled tokens | " + " | ".join(ways) + " |\n|---|---|" + "---|" * len(ways))
    for name in ["random", "oracle", *names]:
        cells = []
        for way in ways:
            parts = [rows[way].get(name) for rows in found.values()]
            cells.append(_cell([table([p]) for p in parts if p is not None]) if any(parts) else "–")
        tokens = sum(s[name] for s in spent.values()) / len(spent)
        print(f"| {name} | {tokens:.0f} | " + " | ".join(cells) + " |")
    print("\nThe tokens of inverse are those of the policy's episodes and next actions; the experts' episodes come on top.")
    knowledge(folders)
    head = " | ".join(f"seed {s}" for s in found) + " | all | 95 % bootstrap | 95 % Student |\n|---|" + "---|" * (len(found) + 3)
    for question, pairs in QUESTIONS.items():
        print(f"\n{question}\n\n| gain in points, task by task | {head}")
        for new, old in pairs:
            for way in ways:
                parts = [table([rows[way][new]], [rows[way][old]]) if {new, old} <= rows[way].keys() else None for rows in found.values()]
                if any(part is not None for part in parts):
                    print(line(f"{way}: {new} over {old}", parts, "+"))
    if "best of 64" in found.get(0, {}):
        _of_64(found[0])


def _cell(parts: list[torch.Tensor | None]) -> str:
    there = [part for part in parts if part is not None]
    mean, low, high = interval(there)
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def knowledge(folders: dict[int, Path]) -> None:
    """AUC between samples of one task, at a fixed turn among those alive, and on the last turn."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in folders.values():
        for name, quality in json.loads((path / "evaluation.json").read_text())["prm_quality"].items():
            for turn in quality["by_turn"]:
                rows[name][f"turn {turn['turn']}"].append(turn["auc_within_task"])
            rows[name]["last turn"].append(quality["last"]["auc_within_task"])
            rows[name]["at equal length"].append(quality["last"]["auc_within_task_and_length"])
            rows[name]["calibration error"].append(quality["last"]["ece"])
    columns = [f"turn {n}" for n in range(1, 5)] + ["last turn", "at equal length", "calibration error"]
    print("\n| AUC between samples of one task | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, row in rows.items():
        cells: list[list[Any]] = [[v for v in row[c] if v is not None] for c in columns]
        print(f"| {name} | " + " | ".join(f"{sum(c) / len(c):.2f}" if c else "–" for c in cells) + " |")


def _of_64(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """Does AgentPRM reach ORM's best of 64 with 8 samples (arXiv 2511.08325)? One seed."""
    print("\n| best of N, seed 0 | " + " | ".join(f"{n}" for n in (1, 2, 4, 8, 16, 32, 64)) + " |\n|---|" + "---|" * 7)
    for name in ("AgentPRM", "td_qv", "PVM", "ORM", "implicit", "inverse", "shuffled", "oracle"):
        if name in rows["best of 64"]:
            cells = [table([rows[f"best of {n}"][name]]) for n in (1, 2, 4, 8, 16, 32, 64)]
            print(f"| {name} | " + " | ".join(f"{100 * float(c.mean()):.1f}" for c in cells if c is not None) + " |")
    part = table([rows["best of 8"]["AgentPRM"]], [rows["best of 64"]["ORM"]])
    assert part is not None
    mean, low, high = interval([part])
    print(
        f"\nAgentPRM's best of 8 less ORM's best of 64, seed 0: {100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] {student([part])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["run", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=30, help="length of this slice; a stage that has begun is finished")
    parser.add_argument("--folder", default="runs/study-labels")
    parser.add_argument(
        "--goals", nargs="+", default=["evaluation", "search", "report"], metavar="STAGE", help="stages to reach in all seeds"
    )
    args = parser.parse_args()
    if args.do == "run":
        run(args.seeds, args.minutes, args.folder, args.goals, recipe="study-labels", changes=changes)
    else:
        summary(args.seeds, args.folder)


if __name__ == "__main__":
    main()
