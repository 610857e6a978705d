"""What the stages of a run wrote: episode stores, evaluations, searches, training histories."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..core.errors import UserError
from ..data.episode import Status
from ..data.store import EpisodeStore
from .compare import Estimate, of_tasks
from .curves import Scalars, read_scalars
from .load import RunFolder, Stage
from .watched import Watched, read_monitor

T = TypeVar("T")
_COLUMNS = ("task_id", "status", "outcome", "split", "env", "sampling", "turns")


@dataclass
class Collected:
    """The episodes of a collect stage, without their tokens.

    Args:
        policy: flag of the policy as recorded; of a demonstrator its name.
        maker: the stage that trained the policy, if it is of this run.
        temperature: None where a demonstrator played.
        mean_turns: over episodes with an outcome.
        invalid: share of their actions that the environment could not read.
    """

    stage: Stage
    policy: str
    maker: Stage | None
    env: str
    env_args: str
    split: str
    temperature: float | None
    success: Estimate | None
    episodes: int
    samples: int
    mean_turns: float
    invalid: float
    statuses: dict[str, int]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.stage.state == "done"

    @property
    def tasks_of(self) -> str:
        """The environment, and whose its tasks are where it says so."""
        source = self.summary.get("task_source", "")
        return f"{self.env} ({source})" if source else self.env


@dataclass
class Evaluated:
    """An evaluate stage: its JSON, the store that it judged, and the PRM folders by name."""

    stage: Stage
    result: dict[str, Any]
    dataset: Path
    prms: dict[str, Path]


@dataclass
class Searched:
    """A search stage: its JSON list, and which tasks were played."""

    stage: Stage
    entries: list[dict[str, Any]]
    maker: Stage | None
    env: str
    env_args: str


@dataclass
class Trained:
    """A training stage with its curves: TensorBoard scalars of SFT and PPO, the history of a PRM."""

    stage: Stage
    scalars: Scalars


@dataclass
class Selected:
    """A select stage: what it says of the policy that it judged (cli/select.py), and which stages trained it, the next start and the best."""

    stage: Stage
    result: dict[str, Any]
    makers: dict[str, str]


@dataclass
class Artifacts:
    """Everything that could be read, in the order of the recipe; `problems` says in words what could not."""

    run: RunFolder
    collected: list[Collected] = field(default_factory=list)
    evaluated: list[Evaluated] = field(default_factory=list)
    searched: list[Searched] = field(default_factory=list)
    selected: list[Selected] = field(default_factory=list)
    sft: list[Trained] = field(default_factory=list)
    prms: list[Trained] = field(default_factory=list)
    ppo: list[Trained] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def gather(run: RunFolder) -> Artifacts:
    """Read what each stage left; a file that cannot be read becomes a problem, not a failure of the report."""
    found = Artifacts(run)

    def attempt(stage: Stage, read: Callable[[RunFolder, Stage], T | None], into: list[T]) -> None:
        try:
            value = read(run, stage)
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            found.problems.append(f"{stage.label}: what it wrote cannot be read ({type(error).__name__}: {error})")
            return
        if value is not None:
            into.append(value)

    for stage in run.started("collect"):
        attempt(stage, read_collected, found.collected)
    for stage in run.done("evaluate"):
        attempt(stage, read_evaluated, found.evaluated)
    for stage in run.done("search"):
        attempt(stage, read_searched, found.searched)
    for stage in run.done("select"):
        attempt(stage, read_selected, found.selected)
    for stage in run.done("train_prm"):
        attempt(stage, read_history, found.prms)
    for stage in run.started("train_ppo_ray"):
        attempt(stage, read_monitor, found.watched)
    for command, into in (("train_sft", found.sft), ("train_ppo_ray", found.ppo)):
        for stage in run.started(command):
            attempt(stage, read_tensorboard, into)
    return found


def read_collected(run: RunFolder, stage: Stage) -> Collected | None:
    """Success by task and statuses from the store itself: `.collect.json` tells of the stage's last process only."""
    if not stage.output.is_dir():
        return None
    outcomes: dict[str, list[float]] = defaultdict(list)
    per_task: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    turns = invalid = 0
    row: dict[str, Any] = {}
    for row in EpisodeStore(stage.output, allow_empty=True).rows(_COLUMNS):
        statuses[row["status"]] += 1
        per_task[row["task_id"]] += 1
        if Status(row["status"]).has_outcome:
            outcomes[row["task_id"]].append(row["outcome"])
            turns += len(row["turns"])
            invalid += sum(not turn["valid_action"] for turn in row["turns"])
    if not row:
        return None
    by_task = {task: sum(values) / len(values) for task, values in sorted(outcomes.items())}
    demonstrator = stage.flag("collect.demonstrator")
    policy = stage.flag("policy.model_name_or_path")
    temperature = stage.flag("collect.temperature") or json.loads(row["sampling"]).get("temperature", 1.0)
    summary = stage.output / ".collect.json"
    return Collected(
        stage=stage,
        policy=demonstrator or policy,
        maker=None if demonstrator else run.origin(policy),
        env=stage.flag("env.name", row["env"]),
        env_args=stage.flag("env.args"),
        split=stage.flag("env.split", row["split"]),
        temperature=None if demonstrator else float(temperature),
        success=of_tasks(by_task),
        episodes=sum(statuses.values()),
        samples=max(per_task.values()),
        mean_turns=turns / max(1, sum(map(len, outcomes.values()))),
        invalid=invalid / max(1, turns),
        statuses={s.value: statuses[s.value] for s in Status if statuses[s.value]},
        summary=json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {},
    )


def read_evaluated(run: RunFolder, stage: Stage) -> Evaluated:
    result = json.loads(stage.output.read_text(encoding="utf-8"))
    if not isinstance(result.get("best_of_n"), dict):
        raise UserError(f"{stage.output} has no best-of-N curves, so it is no evaluation")
    prms = {}
    for text in stage.flags.get("prm.model_name_or_path", []):
        name, eq, path = text.partition("=")
        prms[name if eq else Path(text).name] = run.locate(path if eq else text)
    return Evaluated(stage, result, run.locate(stage.flag("eval.dataset")), prms)


def read_searched(run: RunFolder, stage: Stage) -> Searched:
    entries = json.loads(stage.output.read_text(encoding="utf-8"))
    if not isinstance(entries, list) or not all("success" in entry and "outcomes" in entry for entry in entries):
        raise UserError(f"{stage.output} is no list of searches")
    maker = run.origin(stage.flag("policy.model_name_or_path"))
    return Searched(stage, entries, maker, stage.flag("env.name"), stage.flag("env.args"))


def read_selected(run: RunFolder, stage: Stage) -> Selected:
    result = json.loads((stage.output / "selection.json").read_text(encoding="utf-8"))
    makers = {}
    for name in ("judged", "next", "best"):
        policy = str(result[name]["policy"])
        maker = run.origin(policy)
        makers[name] = maker.label if maker else policy
    return Selected(stage, result, makers)


def read_history(run: RunFolder, stage: Stage) -> Trained:
    """A PRM's `history.jsonl` as curves over steps; evaluations stand at the steps that have them."""
    folder = run.checkpoint(stage)
    scalars: Scalars = defaultdict(list)
    for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name not in ("step", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                scalars[name].append((int(row["step"]), float(value)))
    return Trained(stage, dict(scalars))


def read_tensorboard(run: RunFolder, stage: Stage) -> Trained | None:
    folder = stage.flag("logger.tensorboard_dir")
    scalars = read_scalars(run.locate(folder)) if folder else {}
    return Trained(stage, scalars) if scalars else None
