"""Episodes as training data for a PRM: what is taken, what is left out and told, and batches of like length."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..core.errors import UserError
from ..data.episode import Episode, Status, problems_of
from ..data.layout import TurnPositions, spans_of
from ..data.store import EpisodeStore
from .scoring import make_batch

logger = logging.getLogger(__name__)

Labels = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # by episode: target (NaN: no label) and weight of every turn


@dataclass
class PRMData:
    """Episodes fit for training, and how many were left out and why."""

    episodes: list[Episode]
    left_out: Counter[str] = field(default_factory=Counter)
    labels: Labels | None = None
    steps_per_turn: float | None = None  # where responses were divided

    def summary(self) -> dict[str, object]:
        return {
            "episodes": len(self.episodes),
            "turns": sum(len(e.turns) for e in self.episodes),
            **({} if self.steps_per_turn is None else {"steps_per_turn": round(self.steps_per_turn, 2)}),
            "tasks": len({e.task_id for e in self.episodes}),
            "mean_outcome": sum(e.outcome for e in self.episodes) / max(1, len(self.episodes)),
            "left_out": dict(self.left_out),
        }


def check_outcomes(episodes: Sequence[Episode], who: str, instead: str) -> None:
    """Cross-entropy has targets from 0 to 1.

    Raises:
        UserError: names the episodes whose outcome is none.
    """
    outside = [e for e in episodes if not 0 <= e.outcome <= 1]
    if outside:
        told = [f"{who}: the outcome of episode {e.episode_id} is {e.outcome:g}, outside [0, 1]" for e in outside[:10]]
        more = [f"… and {len(outside) - 10} more"] if len(outside) > 10 else []
        raise UserError([*told, *more, instead])


def load_data(paths: Sequence[str], *, max_len: int, max_samples: int | None = None) -> PRMData:
    """Read episodes in a fixed order. Where none says its iteration, a later store is a newer one.

    Left out and counted: episodes without an outcome (cut by the context, broken), and those longer than `max_len`.

    Raises:
        UserError: unfit episodes (all named), or none left.
    """
    data = PRMData([])
    problems: list[str] = []
    stores: list[int] = []
    for number, path in enumerate(paths):
        for episode in sorted(EpisodeStore(path).episodes(), key=lambda e: e.episode_id):
            if not episode.status.has_outcome:
                data.left_out[episode.status.value] += 1
            elif len(episode.token_ids) > max_len:
                data.left_out["longer than max_len"] += 1
            else:
                problems += [f"{path}: {problem}" for problem in problems_of(episode)]
                data.episodes.append(episode)
                stores.append(number)
    if len({e.iteration for e in data.episodes}) == 1:
        for episode, number in zip(data.episodes, stores, strict=True):
            episode.iteration += number
    if problems:
        raise UserError(problems[:10] + ([f"… and {len(problems) - 10} more"] if len(problems) > 10 else []))
    if max_samples is not None:
        kept = set(sorted(e.episode_id for e in data.episodes)[:max_samples])  # hashes: a sample of all stores
        data.episodes = [e for e in data.episodes if e.episode_id in kept]
    if not data.episodes:
        raise UserError(f"no episode of {', '.join(paths)} can be used (left out: {dict(data.left_out) or 'none was there'})")
    return data


def attach_labels(data: PRMData, labels: Labels) -> None:
    """Keep the episodes that have a label, and count the others.

    Raises:
        UserError: no episode has one, or an episode has labels for turns that it has not: they are of another store.
    """
    longer = [e for e in data.episodes if len(labels.get(e.episode_id, ([], []))[0]) > len(e.turns)]
    if longer:
        told = ", ".join(e.episode_id for e in longer[:5])
        raise UserError(
            f"--label.sidecar has labels behind the last turn of {len(longer)} episode(s) ({told}); was it made for another store?"
        )
    kept = [e for e in data.episodes if e.episode_id in labels and any(t == t for t in labels[e.episode_id][0])]
    data.left_out["no label"] += len(data.episodes) - len(kept)
    if not kept:
        raise UserError(f"none of the {len(data.episodes)} episodes has a label in --label.sidecar; was it made for another store?")
    data.episodes, data.labels = kept, labels


def shuffle_outcomes(episodes: Sequence[Episode], seed: int) -> None:
    """Deal the outcomes out again at random, in place: a PRM trained on them knows nothing, whatever else it was given."""
    outcomes = [e.outcome for e in episodes]
    random.Random(seed).shuffle(outcomes)
    for episode, outcome in zip(episodes, outcomes, strict=True):
        episode.outcome = outcome


def split_by_task(episodes: Sequence[Episode], share: float) -> tuple[list[Episode], list[Episode]]:
    """(training, held out): all episodes of a task fall on one side, chosen by a hash of the task, so no state of it leaks."""
    held_out = [int(hashlib.sha256(e.task_id.encode()).hexdigest()[:8], 16) / 2**32 < share for e in episodes]
    return (
        [e for e, held in zip(episodes, held_out, strict=True) if not held],
        [e for e, held in zip(episodes, held_out, strict=True) if held],
    )


def warn_of_leaks(source: str, training: Sequence[Episode], dataset: str) -> None:
    """Tasks of `--eval.dataset` that are trained on too: its figures then do not tell of new tasks.

    Args:
        source: the flag that the episodes are from.
        dataset: folders of stores, divided by commas.
    """
    held_out = {(row["env"], row["task_id"]) for path in dataset.split(",") for row in EpisodeStore(path).rows(["env", "task_id"])}
    if both := held_out & {(e.env, e.task_id) for e in training}:
        told = "%d of %d tasks of --eval.dataset %s are in %s too, so its figures do not tell of new tasks"
        logger.warning(told, len(both), len(held_out), dataset, source)


@dataclass
class PRMBatch:
    """Tensors of a training batch."""

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    positions: TurnPositions
    rewards_BK: torch.Tensor
    outcome_B: torch.Tensor
    terminated_B: torch.Tensor
    truncated_B: torch.Tensor
    targets_BK: torch.Tensor | None = None  # made beforehand; NaN: no label
    weights_BK: torch.Tensor | None = None

    def to(self, device: torch.device) -> PRMBatch:
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


def collate(episodes: Sequence[Episode], *, dense_rewards: bool = False, labels: Labels | None = None) -> PRMBatch:
    """Pad a batch. Rewards are the outcome at the last turn and 0 before it, or the environment's own if `dense_rewards`.

    Args:
        labels: targets that were made beforehand, for every episode of the batch.
    """
    spans = [spans_of(e) for e in episodes]
    batch = make_batch([e.token_ids for e in episodes], spans)
    rewards_BK = torch.zeros(batch.positions.mask_BK.shape)
    for row, episode in enumerate(episodes):
        if dense_rewards:
            rewards_BK[row, : len(episode.turns)] = torch.tensor([turn.reward for turn in episode.turns])
        else:
            rewards_BK[row, len(episode.turns) - 1] = episode.outcome
    return PRMBatch(
        batch.input_ids_BT,
        batch.attention_mask_BT,
        batch.positions,
        rewards_BK,
        torch.tensor([e.outcome for e in episodes]),
        torch.tensor([e.terminated for e in episodes]),
        torch.tensor([e.truncated or e.status is Status.TRUNCATED for e in episodes]),
        *_padded_labels(episodes, labels, rewards_BK.shape),
    )


def _padded_labels(episodes: Sequence[Episode], labels: Labels | None, shape: Sequence[int]) -> tuple[torch.Tensor, ...]:
    if labels is None:
        return ()
    targets_BK, weights_BK = torch.full(tuple(shape), math.nan), torch.zeros(tuple(shape))
    for row, episode in enumerate(episodes):
        for into, values in zip((targets_BK, weights_BK), labels[episode.episode_id], strict=True):
            into[row, : len(values)] = torch.tensor(values)
    return targets_BK, weights_BK


def batches_by_length(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """An epoch of batches of `size` items of like length, in random order; what does not fill a batch goes to the next epoch's draw."""
    generator = torch.Generator().manual_seed(seed)
    jitter = (torch.rand(len(lengths), generator=generator) * 0.2 + 0.9).tolist()
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * jitter[i])
    offset = int(torch.randint(len(order) % size + 1, (1,), generator=generator))
    groups = [order[i : i + size] for i in range(offset, len(order) - size + 1, size)]
    return [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]


def micro_batches(batch: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(batch), size):
        yield list(batch[start : start + size])


def micro_batches_of_tokens(
    shares: Sequence[Sequence[int]], lengths: Sequence[int], max_tokens: int, packed: bool
) -> list[list[list[int]]]:
    """Micro-batches of at most `max_tokens` tokens for each rank's share of a batch, the same number for all, since a pass may be a collective.

    Args:
        shares: items of each rank; one that has fewer than another has micro-batches may end with empty ones.
        lengths: tokens of every item; of an item of several rows, unless `packed`, with its rows padded to the longest.
        max_tokens: what a micro-batch holds, padding counted unless `packed`; a longer item is one of its own.
    """
    cuts = []
    for share in shares:
        parts: list[list[int]] = []
        for item in sorted(share, key=lambda i: (lengths[i], i)):  # in rising order the padded size is the last one's
            tokens = sum(lengths[i] for i in parts[-1]) + lengths[item] if packed and parts else 0
            if parts and (tokens if packed else lengths[item] * (len(parts[-1]) + 1)) <= max_tokens:
                parts[-1].append(item)
            else:
                parts.append([item])
        cuts.append(parts)
    number = max(len(parts) for parts in cuts)
    for parts in cuts:
        while len(parts) < number:
            largest = max(parts, key=len, default=[])
            half = -(-len(largest) // 2)
            parts.append(largest[half:])
            del largest[half:]
    return cuts
