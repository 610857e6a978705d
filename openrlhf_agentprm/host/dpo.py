"""DPO on pairs of an episode store, inside the host's own trainer.

The host's dataset takes a prompt and two answers as text, and everything behind the prompt is answer. Ours hands over two token sequences as the
engine sampled them, each with a mask on the positions that predict action tokens: of all turns for a pair of episodes, of one turn for a pair
of actions at one state. Observations between the turns are context, with no part in the loss

    L = −log σ(β [Σ_t m⁺_t log π(x⁺_t)/π_ref(x⁺_t) − Σ_t m⁻_t log π(x⁻_t)/π_ref(x⁻_t)])      (arXiv 2305.18290, Eq 7)

A dataset without `--data.pairs` goes the host's own way.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..core.errors import UserError, collecting
from ..data.episode import Episode
from .sft import allow_float32, check_datasets, is_store, store_paths

logger = logging.getLogger(__name__)


class _Side(NamedTuple):
    """An episode up to a token, and the turns that count in the loss."""

    episode: Episode
    end: int
    turns: range


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What we add to the host's DPO flags."""
    allow_float32(parser)
    group = parser.add_argument_group("episode stores (--data.dataset STORE --data.pairs FOLDER)")
    told = "pairs of the store's episodes (cli.label --label.name ranked_pairs) or of actions at one state (relabel); folders divided by commas"
    group.add_argument("--data.pairs", default=None, help=told)
    group.add_argument("--eval.pairs", default=None, help="the same for --eval.dataset")


def check_pairs(flags: argparse.Namespace) -> None:
    """Refuse what cannot be read before a model is loaded for it.

    Args:
        flags: by their dotted names.

    Raises:
        UserError: every problem.
    """
    from ..data.pairs import read_any_pairs

    problems: list[str] = []
    for of in ("data", "eval"):
        dataset, pairs = getattr(flags, f"{of}.dataset"), getattr(flags, f"{of}.pairs")
        with collecting(problems):
            check_datasets(dataset or "")
        others = [text for text in store_paths(dataset or "") if not is_store(text)]
        if pairs:
            with collecting(problems):
                read_any_pairs(pairs)
            problems += [
                f"--{of}.pairs is of episode stores, and --{of}.dataset {text!r} is none" for text in others or ([] if dataset else [""])
            ]
        elif dataset and not others:
            told = "make them with cli.label --label.name ranked_pairs or relabel"
            problems.append(f"--{of}.dataset {dataset!r} is an episode store, which has no pairs by itself: give --{of}.pairs; {told}")
    if problems:
        raise UserError(problems)


def for_pairs(
    text_dataset: Any, blend: Callable[..., Any], text_trainer: Any
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """The host's dataset class, loader and trainer, widened by pairs of episode stores."""

    def load(datasets: str, *args: Any, **kwargs: Any) -> Any:
        strategy = args[1]
        training = "max_count" in kwargs  # the host cuts its training data alone
        pairs = strategy.args.data.pairs if training else strategy.args.eval.pairs
        if not pairs:
            return blend(datasets, *args, **kwargs)
        rows = _Rows(datasets, pairs)
        rows.fill = strategy.args.train.batch_size if training else 1
        return rows

    def dataset(data: Any, tokenizer: Any, max_length: int, strategy: Any, **kwargs: Any) -> Any:
        if not isinstance(data, _Rows):
            return text_dataset(data, tokenizer, max_length, strategy, **kwargs)
        from ..prm.vocabulary import check_vocabulary

        check_vocabulary(strategy.args.model.model_name_or_path, data.path, data.episodes)
        return PairDataset(data, tokenizer, max_length)

    def trainer(**kwargs: Any) -> Any:
        of_pairs = isinstance(kwargs["train_dataloader"].dataset, PairDataset)
        return (_trainer_of_pairs(text_trainer) if of_pairs else text_trainer)(**kwargs)

    return dataset, load, trainer


class _Rows:
    """The pairs of one or more stores, with the two methods that the host calls on a dataset."""

    fill = 1  # pairs that a batch needs

    def __init__(self, stores: str, pairs: str) -> None:
        from ..data.pairs import EpisodePair, read_any_pairs
        from ..data.store import EpisodeStore

        self.path, self.folder = stores, pairs
        episodes = {e.episode_id: e for e in EpisodeStore(stores).episodes()}
        found = read_any_pairs(pairs)
        ids = [(p.chosen, p.rejected) if isinstance(p, EpisodePair) else (p.chosen_episode, p.rejected_episode) for p in found]
        if missing := [one for both in ids for one in both if one not in episodes]:
            raise UserError(
                f"{pairs} names {len(missing)} episodes (the first is {missing[0]}) that {stores} does not hold; was it made for another store?"
            )
        if any(getattr(p, "weight", 1.0) != 1.0 for p in found):
            raise UserError(f"the pairs of {pairs} have weights, and DPO counts all alike; make them with the option weight: pair")
        turns = [(None, None) if isinstance(p, EpisodePair) else (p.chosen_turn, p.rejected_turn) for p in found]
        self.pairs = [
            tuple(_side(episodes[one], turn) for one, turn in zip(both, of, strict=True)) for both, of in zip(ids, turns, strict=True)
        ]
        self.episodes = [side.episode for pair in self.pairs for side in pair]

    def __len__(self) -> int:
        return len(self.pairs)

    def select(self, indices: range) -> _Rows:
        self.pairs = [self.pairs[i] for i in indices]
        return self


def _side(episode: Episode, turn: int | None) -> _Side:
    """A whole episode, or one up to the action of a turn, which alone counts."""
    if turn is None:
        return _Side(episode, len(episode.token_ids), range(len(episode.turns)))
    if turn >= len(episode.turns):
        raise UserError(
            f"a pair names turn {turn} of episode {episode.episode_id}, which has {len(episode.turns)}; was it made for another store?"
        )
    return _Side(episode, episode.turns[turn].action_end, range(turn, turn + 1))


class PairDataset:
    """(chosen_ids, chosen_attention, rejected_ids, rejected_attention, (chosen_loss_mask, rejected_loss_mask)) of each pair.

    The loss masks are 1 at [start − 1, end − 1) of the actions that count: the positions that predict their tokens. The host's collation has a
    prompt's length in the last place, and so does its trainer; ours (`for_pairs`) reads the masks there.

    Args:
        rows: pairs.
        tokenizer: gives the padding token.
        max_length: pairs with a longer side are left out, counted and told.

    Raises:
        UserError: nothing is left to train on, or an episode is unfit.
    """

    def __init__(self, rows: _Rows, tokenizer: Any, max_length: int) -> None:
        from ..data.episode import problems_of

        self.tokenizer = tokenizer
        unfit = {e.episode_id: problems_of(e) for e in rows.episodes}
        if problems := [problem for found in unfit.values() for problem in found]:
            raise UserError([f"{rows.path}: {problem}" for problem in problems[:10]])
        self.pairs: list[Sequence[_Side]] = [pair for pair in rows.pairs if max(side.end for side in pair) <= max_length]
        self.too_long = len(rows) - len(self.pairs)
        if len(self.pairs) < rows.fill:
            raise UserError(
                f"{len(self.pairs)} pairs of {rows.folder} can be used, of {len(rows)} ({self.too_long} are longer than --data.max_len "
                f"{max_length}); they do not fill one batch of {rows.fill}"
            )
        if self.too_long:
            logger.warning("%d of %d pairs are longer than --data.max_len %d and are left out", self.too_long, len(rows), max_length)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        import torch

        from ..data.layout import loss_mask, spans_of

        found: list[Any] = []
        masks = []
        for episode, end, turns in self.pairs[index]:
            ids = torch.tensor(episode.token_ids[:end])[None]
            spans = spans_of(episode)
            found += [ids, torch.ones_like(ids)]
            masks.append(loss_mask([spans[k] for k in turns], end))
        return (*found, tuple(masks))

    def collate_fn(self, items: list[tuple[Any, ...]]) -> tuple[Any, ...]:
        import torch

        padded = []
        for column, fill in zip(list(zip(*items, strict=True))[:4], (self.tokenizer.pad_token_id, 0) * 2, strict=True):
            width = max(x.shape[1] for x in column)
            padded.append(torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1]), value=fill) for x in column]))
        return (*padded, [item[4] for item in items])


def _trainer_of_pairs(text_trainer: Any) -> Any:
    """The host's trainer, which takes the log-probabilities where the masks say, not of everything behind a prompt."""

    class PairTrainer(text_trainer):
        def concatenated_inputs(self, chosen_ids: Any, c_mask: Any, reject_ids: Any, r_mask: Any, masks: Any) -> tuple[Any, Any, Any]:
            ids, attention, _ = super().concatenated_inputs(chosen_ids, c_mask, reject_ids, r_mask, [])
            return ids, attention, [chosen for chosen, _ in masks] + [rejected for _, rejected in masks]

        def _get_batch_logps(self, per_token_logps: Any, attention_mask: Any, masks: Any) -> tuple[Any, Any]:
            counted = per_token_logps.new_zeros(per_token_logps.shape, dtype=bool)  # (B, T − 1), by predicting position
            for row, mask in enumerate(masks):
                counted[row, : len(mask) - 1] = mask[:-1].bool().to(counted.device)
            sums = per_token_logps.where(counted, 0).sum(-1)
            return sums, sums / counted.sum(-1)

    return PairTrainer
