"""TextWorld as a text environment (needs `pip install openrlhf-agentprm[textworld]`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from ...core.cache import cache_folder
from ...core.errors import UserError, collecting
from ..base import task_of
from .engine import Engine
from .levels import DEFAULT, Level
from .library import FilesOfGames, Library, MadeGames

# Commands to the interpreter, which would leave the game or reach behind it; and several commands in one.
_META = re.compile(r"(?:restart|quit|q|save|restore|undo|oops|again|g|script|transcript|notify|version|verify|tw-.*)(?: .*)?")
_SEVERAL = re.compile(r"[.;]|,? then ")
_LONGEST = 190  # characters: of a longer command the interpreter would read the start alone
_NOT_TAKEN = "That is no command of this game."
_ONE = "One command at a time, please."


class TextWorldEnv(gymnasium.Env[str, str]):
    """One game an episode. Winning it is success and losing it failure; both end the episode.

    The reward is 1 at success and 0 before. With `graded` the outcome is the share of the game's points, and rewards are what was added to it.
    Use one object for many episodes; objects in several threads take turns.

    Args:
        levels: names of levels (see `levels.py`), as a list or divided by spaces; a task is a level and a seed.
        tasks_per_split: how many tasks each split lists.
        walkthrough: the objective tells every step, as TextWorld's does, not just the last one.
        games: files in place of generated games: a pattern such as `folder/*.z8`, or one for each split.
        graded: the outcome is the share of points, not success.
        cache_dir: where generated games are kept. Default: `openrlhf-agentprm/textworld` in the user's cache folder.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=100_000)
    action_space = gymnasium.spaces.Text(max_length=10_000)

    def __init__(
        self,
        levels: str | Sequence[str] | None = None,
        tasks_per_split: int = 1000,
        walkthrough: bool = False,
        games: str | Mapping[str, str] | None = None,
        graded: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        self._library = _open_library(levels, tasks_per_split, walkthrough, games, cache_dir)
        self.task_source = "TextWorld games from files" if games else "generated TextWorld games"
        self.reward_is_graded = graded
        self._engine: Engine | None = None
        self._loaded = ""
        self._over = True
        self._share = 0.0

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        self._over = True
        game = self._library.find(task_id)
        engine = self._engine = self._engine or Engine()
        if task_id != self._loaded:
            self._loaded = ""
            engine.load(game)
            self._loaded = task_id
        observation = engine.reset()
        self._over, self._share = False, engine.share
        return observation, {"instruction": engine.objective, "valid_action": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        engine = self._running("step()")
        told, valid = self._carry_out(engine, " ".join(action.split()).rstrip("."))
        success, self._over = engine.won, engine.won or engine.lost
        info: dict[str, Any] = {"valid_action": valid, "success": success}
        reward = float(success)
        if self.reward_is_graded:
            reward, self._share = engine.share - self._share, engine.share
            info["outcome"] = self._share
        return told, reward, self._over, False, info

    def _carry_out(self, engine: Engine, command: str) -> tuple[str, bool]:
        """(what is shown, whether something was done)."""
        if not command.isascii() or not command.isprintable() or len(command) > _LONGEST or _META.fullmatch(command.lower()):
            return _NOT_TAKEN, False
        if _SEVERAL.search(command.lower()):
            return _ONE, False
        return engine.step(command)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine, self._loaded, self._over = None, "", True

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return self._library.tasks(split)

    def admissible_actions(self) -> list[str]:
        return self._running("admissible_actions()").commands

    def expert_action(self) -> str:
        """The first command of the plan that the engine makes anew after every action."""
        plan = self._running("expert_action()").plan
        if not plan:
            raise RuntimeError(f"TextWorld knows no way to win the game {self._loaded!r} from this state")
        return plan[0]

    # --- helpers ---

    def _running(self, what: str) -> Engine:
        if self._engine is None or self._over:
            raise RuntimeError(f"{what} without a running episode; call reset() first")
        return self._engine


def _open_library(
    levels: str | Sequence[str] | None, count: int, walkthrough: bool, games: str | Mapping[str, str] | None, cache_dir: str | None
) -> Library:
    """The games that the arguments ask for."""
    if games is not None:
        if levels is not None or walkthrough or cache_dir is not None:
            raise UserError("games are read from files (games), so levels, walkthrough and cache_dir would be left unread; drop them")
        return FilesOfGames(games)
    problems: list[str] = []
    found: list[Level] = []
    for name in DEFAULT if levels is None else levels.split() if isinstance(levels, str) else levels:
        with collecting(problems):
            found.append(Level.parse(str(name)))
    if not found and not problems:
        problems.append("no TextWorld level given (levels)")
    if not isinstance(count, int) or not 1 <= count <= 100_000_000:
        problems.append(f"tasks_per_split is {count!r}; allowed: 1 to 100000000")
    if problems:
        raise UserError(problems)
    return MadeGames(found, count, walkthrough, Path(cache_dir).expanduser() if cache_dir else cache_folder("textworld"))
