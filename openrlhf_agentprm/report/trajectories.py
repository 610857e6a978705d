"""A few episodes turn by turn, as the PRMs of the run see them.

The choice is not random: it prefers tasks that one policy both solved and failed, because there a PRM has something to tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..agents.chat import load_tokenizer
from ..core.advantages import turn_gae
from ..core.errors import UserError
from ..data.episode import Episode
from ..data.layout import spans_of
from ..data.steps import in_steps
from ..data.store import EpisodeStore
from ..prm.kinds import records_of
from ..prm.record import ENDS_AS_OUTCOME, SCALES, Record
from ..prm.scoring import load_reward_model, score_all
from ..prm.steps import shown as shown_delimiters
from .artifacts import Artifacts, Collected
from .board import Board
from .charts import prm_name

TASKS = 4
EPISODES_A_TASK = 3
_LARGEST = 8 * 2**30  # bytes of weights; a larger PRM is not loaded on the CPU for a report


@dataclass(frozen=True)
class TurnScores:
    """One PRM's reading of one turn; None where the PRM was not trained to tell."""

    promise: float
    value: float | None
    progress: float | None
    advantage: float | None


@dataclass
class Shown:
    """An episode with each PRM's scores of its turns."""

    episode: Episode
    scores: dict[str, list[TurnScores]] = field(default_factory=dict)

    def last(self, prm: str) -> float:
        return self.scores[prm][-1].promise


@dataclass
class Viewer:
    """What the trajectory section shows.

    Args:
        groups: episodes task by task, the task with the largest spread of last promises first.
        notes: what could not be scored or must be known to read it.
        span: largest size of any progress or advantage, for the bars.
    """

    collected: Collected
    groups: list[tuple[str, list[Shown]]]
    prms: list[str]
    lambd: float
    gamma: float
    notes: list[str]
    span: float


def make_viewer(found: Artifacts, boards: list[Board]) -> Viewer | None:
    """Choose and score; None where no finished collection of a policy holds an episode with an outcome."""
    collected = _source(found, boards)
    if collected is None:
        return None
    split, notes = _splitter([found.run.checkpoint(trained.stage) for trained in found.prms])
    chosen = choose(EpisodeStore(collected.stage.output).episodes())
    groups = [(task, [Shown(split(e)) for e in episodes]) for task, episodes in chosen]
    shown = [s for _, members in groups for s in members]
    if not shown:
        return None
    lambd, gamma = _discounts(found)
    prms = []
    for trained in found.prms:
        name = prm_name(found, trained)
        folder = found.run.checkpoint(trained.stage)
        try:
            notes += _score(shown, name, folder, lambd, gamma)
        except (ValueError, OSError, RuntimeError, TypeError, KeyError) as error:
            notes.append(f"{name} could not score these episodes ({type(error).__name__}: {error})")
        else:
            prms.append(name)
    if not found.prms:
        notes.append("No process reward model of this run is finished, so the episodes stand without scores.")
    if prms:
        groups.sort(key=lambda group: max(_spread(group[1], prm) for prm in prms), reverse=True)
    return Viewer(collected, groups, prms, lambd, gamma, notes, _span(shown))


def choose(episodes: Iterable[Episode]) -> list[tuple[str, list[Episode]]]:
    """Up to `TASKS` tasks with up to `EPISODES_A_TASK` episodes each, no two with the same actions.

    First come tasks with successes and failures, those nearest to half and half; of each a success, a failure, and one more of the rarer
    kind. Tasks with one kind only fill up what is left, solved and failed ones in turn.
    """
    by_task: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.status.has_outcome and episode.turns:
            by_task[episode.task_id].append(episode)
    for members in by_task.values():
        members.sort(key=lambda e: (e.sample, e.episode_id))

    def rate(task: str) -> float:
        return sum(e.outcome > 0.5 for e in by_task[task]) / len(by_task[task])

    mixed = sorted((t for t in by_task if 0 < rate(t) < 1), key=lambda t: (abs(rate(t) - 0.5), t))
    solved, failed = (sorted(t for t in by_task if rate(t) == r) for r in (1, 0))
    pure = [task for n in range(max(len(solved), len(failed))) for task in (*solved[n : n + 1], *failed[n : n + 1])]
    return [(task, _of_task(by_task[task])) for task in [*mixed, *pure][:TASKS]]


def _of_task(members: list[Episode]) -> list[Episode]:
    """Distinct episodes, success and failure in turn, as far as there are."""
    distinct = list({tuple(turn.action for turn in e.turns): e for e in reversed(members)}.values())[::-1]
    good = [e for e in distinct if e.outcome > 0.5]
    bad = [e for e in distinct if e.outcome <= 0.5]
    turns = [e for n in range(len(distinct)) for e in (*good[n : n + 1], *bad[n : n + 1])]
    return turns[:EPISODES_A_TASK]


def _source(found: Artifacts, boards: list[Board]) -> Collected | None:
    """The store that the first board compares with; else the policy's collection with the most samples a task."""
    for board in boards:
        if board.reference is not None and board.reference.collected is not None and board.reference.collected.samples > 1:
            return board.reference.collected
    ours = [c for c in found.collected if c.finished and c.temperature is not None]
    return max(ours, key=lambda c: (c.split != "train", c.samples), default=None)


def _discounts(found: Artifacts) -> tuple[float, float]:
    """λ and γ of the run's PPO stages; 0.95 and 1 where it has none or does not set them."""
    stages = [s for s in found.run.stages if s.command == "train_ppo_ray"]
    lambd = next((s.flag("algo.advantage.lambd") for s in stages if s.flag("algo.advantage.lambd")), "0.95")
    gamma = next((s.flag("algo.advantage.gamma") for s in stages if s.flag("algo.advantage.gamma")), "1")
    return float(lambd), float(gamma)


def _splitter(folders: list[Path]) -> tuple[Callable[[Episode], Episode], list[str]]:
    """What makes an episode's turns those that the PRMs were trained on, steps of responses if all have the same; and what a reader must know."""
    trained = {Record.load(folder).delimiters for folder in folders}
    if len(trained) > 1:
        return lambda e: e, ["The PRMs were trained on turns of different kinds (steps and whole responses); shown are whole responses."]
    delimiters = next(iter(trained), ())
    if not delimiters:
        return lambda e: e, []
    try:
        text = load_tokenizer(str(folders[0])).decode
    except UserError as error:
        return lambda e: e, [f"Whole responses are shown, as no tokenizer reads their steps: {error}"]
    return lambda e: in_steps(e, delimiters, text), [f"Turns are {shown_delimiters(delimiters)}."]


def _score(shown: list[Shown], name: str, folder: Path, lambd: float, gamma: float) -> list[str]:
    """Add one PRM's scores to every episode; what a reader must know about them."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size > _LARGEST:
        raise ValueError(f"its weights of {size / 2**30:.0f} GiB are too large to load for a report")
    prm, record = load_reward_model("auto", str(folder)), records_of("auto", str(folder))[0]
    episodes = [s.episode for s in shown]
    for item, (q_K, v_K) in zip(shown, score_all(prm, [e.token_ids for e in episodes], [spans_of(e) for e in episodes]), strict=True):
        item.scores[name] = turn_scores(q_K, v_K, item.episode.outcome, record, lambd=lambd, gamma=gamma)
    if record.scale not in ENDS_AS_OUTCOME:
        return [f"{name}: {SCALES[record.scale]}; so no value, progress or advantage."]
    if record.value_trained:
        return []
    if record.values == "state":
        return [f"{name} was trained without values: no value, progress or advantage."]
    return [f"{name} was trained without values, so its first turn has no value, progress or advantage."]


def turn_scores(q_K: torch.Tensor, v_K: torch.Tensor, outcome: float, record: Record, *, lambd: float, gamma: float) -> list[TurnScores]:
    """Progress Q − V, and GAE over turns with the outcome as the last turn's reward and V from the PRM.

    A_t needs V_t, V_{t+1}, …; where V(s_0) was not trained only the first turn lacks it ("previous_q"), else every turn ("state"), and so
    do all turns of scores that do not estimate the outcome.
    """
    rewards_K = torch.zeros_like(q_K)
    rewards_K[-1] = outcome
    advantages_BK, _ = turn_gae(rewards_K[None], v_K[None], torch.ones(1, len(q_K), dtype=torch.bool), gamma=gamma, lambd=lambd)
    rows = []
    for k, (q, v, a) in enumerate(zip(q_K.tolist(), v_K.tolist(), advantages_BK[0].tolist(), strict=True)):
        known = record.scale in ENDS_AS_OUTCOME and (record.value_trained or (record.values == "previous_q" and k > 0))
        rows.append(TurnScores(q, v, q - v, a) if known else TurnScores(q, None, None, None))
    return rows


def _spread(members: list[Shown], prm: str) -> float:
    last = [s.last(prm) for s in members]
    return max(last) - min(last)


def _span(shown: list[Shown]) -> float:
    found = [abs(x) for s in shown for rows in s.scores.values() for t in rows for x in (t.progress, t.advantage) if x is not None]
    return max(found, default=1.0) or 1.0
