"""SFT on episode stores, inside the host's own trainer.

The host's dataset takes text, encodes prefixes again and replaces the last token; ours hands over the tokens of the episodes and a loss mask
on the positions that predict action tokens, or any token with `--model.pretrain_mode_enable`. A dataset that is no episode store goes the
host's own way.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import UserError, collecting

logger = logging.getLogger(__name__)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What we add to the host's SFT flags."""
    allow_float32(parser)
    group = parser.add_argument_group("episode stores (--data.dataset STORE)")
    group.add_argument(
        "--data.min_outcome",
        type=float,
        default=None,
        help="train on episodes whose outcome is at least this (all that have an outcome; failed demonstrations too)",
    )
    group.add_argument(
        "--data.selection",
        default=None,
        help="learn the turns that cli.label has selected (best_episodes, good_turns) and no others; folders divided by commas",
    )


def allow_float32(parser: argparse.ArgumentParser) -> None:
    """Let the host's `--ds.param_dtype` take fp32 too."""
    dtype = next(action for action in parser._actions if "--ds.param_dtype" in action.option_strings)
    dtype.choices = ["bf16", "fp16", "fp32"]
    dtype.help = "Model data type; fp32 is several times faster on a CPU"


def is_store(path: str) -> bool:
    """A folder with episode shards or journals."""
    return any(any(Path(path).glob(pattern)) for pattern in ("episodes-*.parquet", ".journal-*.jsonl"))


def store_paths(datasets: str) -> list[str]:
    return [path.strip() for path in datasets.split(",") if path.strip()]


def check_datasets(datasets: str, selection: str | None = None) -> None:
    """Refuse local paths that are not there or hold nothing, before a model is loaded for them; names of a hub and patterns pass.

    Args:
        selection: of turns, which only an episode store has.

    Raises:
        UserError: names every one of them.
    """
    from ..data.selection import read_selection

    problems: list[str] = []
    if selection:
        with collecting(problems):
            read_selection(selection)
        problems += [
            f"--data.selection is of turns of episode stores, and --data.dataset {text!r} is none"
            for text in store_paths(datasets)
            if not is_store(text)
        ]
    for text in store_paths(datasets):
        path = Path(text.partition("@")[0]).expanduser()
        if path.is_dir() and not any(path.rglob("*")):
            problems.append(f"--data.dataset {text!r} is an empty folder: it holds no episode and no text data")
        elif (path.is_absolute() or text.startswith(".")) and not re.search(r"[*?\[{]", text) and not path.exists():
            problems.append(f"--data.dataset {text!r} is not there; collect an episode store first, or check the path")
    if problems:
        raise UserError(problems)


def for_episodes(text_dataset: Any, blend: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The host's dataset class and loader, widened by episode stores."""

    def load(datasets: str, *args: Any, **kwargs: Any) -> Any:
        paths = store_paths(datasets)
        stores = [path for path in paths if is_store(path)]
        if stores and len(stores) < len(paths):
            raise UserError(f"--data.dataset {datasets!r} mixes episode stores with other data; train on one kind at a time")
        if stores:
            return _Rows(stores)
        try:
            return blend(datasets, *args, **kwargs)
        except (FileNotFoundError, ConnectionError) as error:  # the data library's, for folders and for names of a hub
            raise UserError(f"--data.dataset {datasets!r} is neither an episode store nor text data: {error}") from error

    def dataset(data: Any, tokenizer: Any, max_length: int, strategy: Any, **kwargs: Any) -> Any:
        if isinstance(data, _Rows):
            from ..prm.vocabulary import check_vocabulary

            check_vocabulary(strategy.args.model.model_name_or_path, data.path, data.episodes)
            options = strategy.args.data
            return EpisodeDataset(
                data, tokenizer, max_length, options.min_outcome, kwargs.get("pretrain_mode", False), selection=options.selection
            )
        return text_dataset(data, tokenizer, max_length, strategy, **kwargs)

    return dataset, load


class _Rows:
    """The episodes of one or more stores, with the two methods that the host calls on a dataset."""

    def __init__(self, paths: Sequence[str]) -> None:
        from ..data.store import EpisodeStore

        self.episodes = [e for path in paths for e in sorted(EpisodeStore(path).episodes(), key=lambda e: e.episode_id)]
        self.path = ",".join(paths)

    def __len__(self) -> int:
        return len(self.episodes)

    def select(self, indices: range) -> _Rows:
        self.episodes = [self.episodes[i] for i in indices]
        return self


class EpisodeDataset:
    """(input_ids, attention_mask, loss_mask) of each episode, as the host's `SFTTrainer` wants them.

    The loss mask is 1 at [start − 1, end − 1) of every action: the positions that predict its tokens. In pretrain mode it is 1 at every
    position that predicts a token.

    Args:
        rows: episodes.
        tokenizer: gives the padding token.
        max_length: longer episodes are left out, counted and told.
        min_outcome: leave out episodes below this outcome.
        pretrain_mode: learn what is observed too, as the host's `--model.pretrain_mode_enable` has it for text.
        selection: folder of the turns to learn (data/selection.py): the loss mask is 1 at their actions alone.

    Raises:
        UserError: nothing is left to train on, or an episode is unfit.
    """

    def __init__(
        self,
        rows: _Rows,
        tokenizer: Any,
        max_length: int,
        min_outcome: float | None,
        pretrain_mode: bool = False,
        *,
        selection: str | None = None,
    ) -> None:
        from ..data.episode import problems_of
        from ..data.selection import read_selection

        self.tokenizer = tokenizer
        self.pretrain_mode = pretrain_mode
        with_outcome = [e for e in rows.episodes if e.status.has_outcome]
        self.turns = read_selection(selection) if selection else None
        wanted = [e for e in with_outcome if min_outcome is None or e.reaches(min_outcome)]
        wanted = wanted if self.turns is None else [e for e in wanted if e.episode_id in self.turns]
        problems = [problem for episode in wanted for problem in problems_of(episode)]
        if problems:
            more = [f"… and {len(problems) - 10} more"] if len(problems) > 10 else []
            raise UserError([f"{rows.path}: {problem}" for problem in problems[:10]] + more)
        self.episodes = [e for e in wanted if len(e.token_ids) <= max_length]
        self.too_long = len(wanted) - len(self.episodes)
        if not self.episodes:
            raise UserError(
                f"no episode of {rows.path} can be trained on: {len(rows)} there, {len(with_outcome)} with an outcome, {len(wanted)} with "
                f"outcome ≥ {min_outcome}{' in --data.selection' if selection else ''}, {self.too_long} longer than --data.max_len {max_length}"
            )
        if self.too_long:
            logger.warning("%d of %d episodes are longer than --data.max_len %d and are left out", self.too_long, len(wanted), max_length)

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        import torch

        from ..data.layout import loss_mask, spans_of

        episode = self.episodes[index]
        ids = torch.tensor(episode.token_ids)[None]
        spans = [(1, ids.shape[1])] if self.pretrain_mode else spans_of(episode)
        if self.turns is not None:
            spans = [span for turn, span in enumerate(spans) if turn in self.turns[episode.episode_id]]
        return ids, torch.ones_like(ids), loss_mask(spans, ids.shape[1])[None]

    def collate_fn(self, items: list[tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
        import torch

        width = max(ids.shape[1] for ids, _, _ in items)
        fills = (self.tokenizer.pad_token_id, 0, 0)
        columns = zip(*items, strict=True)
        padded = [
            torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1]), value=fill) for x in column])
            for column, fill in zip(columns, fills, strict=True)
        ]
        return padded[0], padded[1], padded[2]
