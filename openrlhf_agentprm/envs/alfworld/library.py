"""Where games come from: a folder of downloaded ones, or tasks that are generated when they are first played.

Both lay games out as `json_2.1.1/SPLIT/TASK/…`, with ALFWorld's split names; the task id is the path below the split's folder.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from alfworld.info import ALFWORLD_DATA

from ...core.cache import cache_folder
from ...core.errors import UserError, did_you_mean
from ..appearing import appearing_at_once
from ..base import SPLITS, LazyTasks
from .engine import Engine, read_game
from .generator import MARK, Task, make_game
from .household import SEEN_SCENES, TASK_TYPES, UNSEEN_SCENES, choices, sample_household

FOLDERS = {"train": "train", "validation": "valid_seen", "test": "valid_unseen"}
GAME, DESCRIPTION = "game.tw-pddl", "traj_data.json"
_ROOT = "json_2.1.1"
_SOURCES = ("auto", "download", "generated")
# A generator that makes other games from the same ids needs another folder.
_GENERATION = "1"
_FIRST_SEED = {"train": 0, "validation": 100_000_000, "test": 200_000_000}
_SEEDS_IN_GENERATION = 1_000_000


class Library(Protocol):
    """Games by task id."""

    source: str

    def tasks(self, split: str) -> Sequence[str]: ...

    def find(self, task_id: str, engine: Engine) -> Path:
        """The game's file; `engine` may be used for making it."""
        ...


def open_library(
    source: str, data_dir: str | None, cache_dir: str | None, task_types: Sequence[str], games: Mapping[str, int], seed: int
) -> Library:
    """The library that `AlfworldEnv`'s arguments ask for."""
    if source not in _SOURCES:
        raise UserError(f"source is {source!r}{did_you_mean(str(source), _SOURCES)} (allowed: {', '.join(_SOURCES)})")
    if source == "generated" and data_dir is not None:
        raise UserError(f"source is 'generated', so data_dir={data_dir!r} would be left unread; drop one of them")
    folder = Path(data_dir or ALFWORLD_DATA).expanduser()
    if data_dir is not None or source == "download" or (source == "auto" and holds_games(folder)):
        return FolderOfGames(folder, task_types)
    return GeneratedGames(Path(cache_dir).expanduser() if cache_dir else cache_folder("alfworld"), task_types, games, seed)


def holds_games(folder: Path) -> bool:
    """Whether a folder has at least one game where a download would have it."""
    return any((folder / _ROOT / name).is_dir() and _first_game(folder / _ROOT / name) for name in FOLDERS.values())


def _first_game(folder: Path) -> Path | None:
    return next(folder.glob(f"*/*/{GAME}"), None)


class FolderOfGames:
    """Games on disk, as `alfworld-download` lays them out. Unsolvable ones, and those with sliced or movable targets, are left out.

    `source` is "download", or "generated" if the games say that this package's generator made them.
    """

    def __init__(self, folder: Path, task_types: Sequence[str]) -> None:
        self.folder = folder if folder.name == _ROOT else folder / _ROOT
        first = next(filter(None, (_first_game(self.folder / name) for name in FOLDERS.values())), None)
        if first is None:
            raise UserError(
                f"no ALFWorld game in {str(folder)!r}: wanted {_ROOT}/{'|'.join(FOLDERS.values())}/TASK/TRIAL/{GAME}; "
                "run alfworld-download, or play generated tasks (source='generated', no data_dir)"
            )
        self._task_types = set(task_types)
        self._listed: dict[str, list[str]] = {}
        generated = _read_description(first).get("generator") == MARK
        self.source = "generated" if generated else "download"

    def tasks(self, split: str) -> Sequence[str]:
        if split not in self._listed:
            folder = self.folder / FOLDERS[split]
            found = [path.parent for path in sorted(folder.glob(f"*/*/{GAME}")) if self._playable(path)]
            if not found:
                raise UserError(f"no playable ALFWorld game of types {', '.join(sorted(self._task_types))} in {str(folder)!r}")
            self._listed[split] = [path.relative_to(folder).as_posix() for path in found]
        return self._listed[split]

    def _playable(self, game: Path) -> bool:
        if "movable" in game.parts[-3] or "Sliced" in game.parts[-3] or _read_description(game).get("task_type") not in self._task_types:
            return False
        return read_game(game).get("solvable") is True

    def find(self, task_id: str, engine: Engine) -> Path:
        if re.fullmatch(r"[\w-]+/[\w-]+", task_id):
            for name in FOLDERS.values():
                path = self.folder / name / task_id / GAME
                if path.is_file():
                    return path
        known = [task for split in SPLITS for task in self._listed.get(split, [])]
        raise UserError(f"no ALFWorld game {task_id[:200]!r} in {str(self.folder)!r}{did_you_mean(task_id[:200], known)}")


def _read_description(game: Path) -> dict[str, Any]:
    path = game.with_name(DESCRIPTION)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as the description of an ALFWorld game ({error})") from error
    return data if isinstance(data, dict) else {}


class GeneratedGames:
    """Tasks that can be listed without making them; a game is made when it is first played, and kept on disk.

    Training and validation tasks share scenes and differ in seeds; test tasks are in scenes that neither has (and differ in seeds).
    """

    source = "generated"

    def __init__(self, cache: Path, task_types: Sequence[str], games: Mapping[str, int], seed: int) -> None:
        problems = [f"unknown split {name!r} in games (known: {', '.join(SPLITS)})" for name in games if name not in SPLITS]
        problems += [
            f"games[{name!r}] is {count!r}; allowed: 1 to {_SEEDS_IN_GENERATION}"
            for name, count in games.items()
            if not isinstance(count, int) or not 1 <= count <= _SEEDS_IN_GENERATION
        ]
        if not isinstance(seed, int) or not 0 <= seed < 100:
            problems.append(f"seed is {seed!r}; allowed: 0 to 99")
        if problems:
            raise UserError(problems)
        self.folder = cache / f"generated-{_GENERATION}-alfworld-{version('alfworld')}" / _ROOT
        self._task_types = list(task_types)
        self._games = games
        self._seed = seed

    def tasks(self, split: str) -> Sequence[str]:
        return GeneratedTasks(self._task_types, split, self._games[split], self._seed)

    def find(self, task_id: str, engine: Engine) -> Path:
        task = Task.parse(task_id)
        path = self.folder / FOLDERS[_split_of(task)] / str(task) / GAME
        if not path.is_file():
            _write_folder(path.parent, make_game(task, engine))
        return path


class GeneratedTasks(LazyTasks):
    """Task ids of one split: the types in turn, a scene drawn for each, one seed each."""

    def __init__(self, task_types: Sequence[str], split: str, count: int, seed: int) -> None:
        super().__init__(count)
        self._scenes = [(name, scenes) for name in task_types if (scenes := scenes_for(name, split == "test"))]
        if not self._scenes:
            raise UserError(f"no scene of the split {split!r} has tasks of type {', '.join(task_types)}")
        self._first = _FIRST_SEED[split] + seed * _SEEDS_IN_GENERATION

    def task(self, index: int) -> str:
        task_type, scenes = self._scenes[index % len(self._scenes)]
        seed = self._first + index
        return str(Task(task_type, random.Random(f"scene/{seed}").choice(scenes), seed))


@functools.lru_cache(None)
def scenes_for(task_type: str, unseen: bool) -> tuple[int, ...]:
    """Scenes that have tasks of a type: those where one of three sampled households has."""
    scenes = UNSEEN_SCENES if unseen else SEEN_SCENES
    return tuple(n for n in scenes if any(choices(sample_household(n, random.Random(f"probe/{n}/{k}")), task_type) for k in range(3)))


def _split_of(task: Task) -> str:
    """The split that a task would be in, for its place on disk; any well-formed id can be played, listed or not."""
    if task.scene in UNSEEN_SCENES:
        return "test"
    return "validation" if task.seed >= _FIRST_SEED["validation"] else "train"


def _write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write a folder of files that appears at once."""
    with appearing_at_once(folder, GAME) as draft:
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")


def resolve_task_types(task_types: str | Sequence[str]) -> list[str]:
    """ "all", a comma-separated text or a list, as a list of ALFWorld's six task types."""
    if isinstance(task_types, str):
        task_types = TASK_TYPES if task_types == "all" else [name.strip() for name in task_types.split(",")]
    problems = [
        f"unknown ALFWorld task type {name!r}{did_you_mean(str(name), TASK_TYPES)} (known: all, {', '.join(TASK_TYPES)})"
        for name in task_types
        if name not in TASK_TYPES
    ]
    if problems or not task_types:
        raise UserError(problems or "no ALFWorld task type given")
    return list(dict.fromkeys(task_types))
