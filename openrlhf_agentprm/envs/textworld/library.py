"""Where TextWorld's games come from: made from level and seed when they are first played, and kept; or files."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from ...core.errors import UserError, did_you_mean
from ..appearing import appearing_at_once
from ..base import SPLITS, SeededTasks
from .levels import Level
from .maker import GAME, make_game

# A maker that makes other games from the same ids needs another folder.
_GENERATION = "1"
_MAX_SEED = 300_000_000
_SHARES = {"train": range(0, 8), "validation": range(8, 9), "test": range(9, 10)}  # tenths of the files


class Library(Protocol):
    """Games by task id."""

    source: str

    def tasks(self, split: str) -> Sequence[str]: ...

    def find(self, task_id: str) -> Path:
        """The game's file."""
        ...


class MadeGames:
    """Tasks `LEVEL/SEED`, with seeds that differ by split.

    Args:
        levels: by their names.
        count: of the tasks that a split lists.
        walkthrough: the objective tells every step.
        cache: folder where games are kept.
    """

    source = "generated"

    def __init__(self, levels: Sequence[Level], count: int, walkthrough: bool, cache: Path) -> None:
        self._levels = list(levels)
        self._count = count
        self._walkthrough = walkthrough
        self.folder = cache / f"{_GENERATION}-textworld-{version('textworld')}" / ("steps" if walkthrough else "goal")

    def tasks(self, split: str) -> Sequence[str]:
        return SeededTasks([str(level) for level in self._levels], split, self._count)

    def find(self, task_id: str) -> Path:
        name, _, number = task_id.rpartition("/")
        if not number.isdecimal() or len(number) > 9 or int(number) >= _MAX_SEED:
            raise UserError(
                f"TextWorld task {task_id[:200]!r} is no 'LEVEL/SEED' with a seed below {_MAX_SEED}, such as {self.tasks('train')[0]!r}"
            )
        level, seed = Level.parse(name), int(number)
        folder = self.folder / str(level) / str(seed)
        if not (folder / GAME).is_file():
            split = next(s for s in reversed(SPLITS) if seed >= SeededTasks._FIRST_SEED[s])
            with appearing_at_once(folder, GAME) as draft:
                make_game(level, seed, split, self._walkthrough, draft)
        return folder / GAME


class FilesOfGames:
    """Games that TextWorld has made, `NAME.z8` with `NAME.json` beside it; the task id is the name.

    Args:
        games: a pattern of files, whose splits are divided by a digest of their names, eight tenths for training; or a pattern a split.
    """

    source = "files"

    def __init__(self, games: str | Mapping[str, str]) -> None:
        if isinstance(games, Mapping) and (unknown := [name for name in games if name not in SPLITS]):
            raise UserError([f"unknown split {n!r} in games{did_you_mean(str(n), SPLITS)} (known: {', '.join(SPLITS)})" for n in unknown])
        self._given = games
        self._paths: dict[str, Path] = {}
        self._listed: dict[str, list[str]] = {split: [] for split in SPLITS}
        for given, pattern in games.items() if isinstance(games, Mapping) else [("", games)]:
            for path in self._matching(pattern):
                if path.stem in self._paths:
                    raise UserError(f"two TextWorld games have the name {path.stem!r}: {self._paths[path.stem]} and {path}; rename one")
                self._paths[path.stem] = path
                self._listed[given or _split_of(path.stem)].append(path.stem)

    @staticmethod
    def _matching(pattern: str) -> list[Path]:
        found = sorted(Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True))
        if not found:
            raise UserError(f"no file matches games={pattern!r}; wanted a pattern such as 'folder/*.z8'")
        if problems := [f"{p}: a TextWorld game is NAME.z8 with NAME.json beside it" for p in found if not _is_game(p)]:
            raise UserError(problems)
        return found

    def tasks(self, split: str) -> Sequence[str]:
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}{did_you_mean(split, SPLITS)} (known: {', '.join(SPLITS)})")
        if not self._listed[split]:
            raise UserError(
                f"no game of games={self._given!r} is in the split {split!r}; give a pattern for each: {{'train': …, 'test': …}}"
            )
        return self._listed[split]

    def find(self, task_id: str) -> Path:
        if task_id not in self._paths:
            raise UserError(f"no TextWorld game {task_id[:200]!r} in games={self._given!r}{did_you_mean(task_id[:200], self._paths)}")
        return self._paths[task_id]


def _is_game(path: Path) -> bool:
    return path.suffix == ".z8" and path.with_suffix(".json").is_file()


def _split_of(name: str) -> str:
    tenth = hashlib.sha256(name.encode()).digest()[0] * 10 // 256
    return next(split for split, tenths in _SHARES.items() if tenth in tenths)
