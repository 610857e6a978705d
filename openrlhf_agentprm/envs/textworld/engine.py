"""TextWorld's engine, one game at a time: what it is told and what it answers, without its banner, prompts and status line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..textworld_memory import forget_propositions, one_at_a_time

try:
    import textworld
    from textworld.envs import JerichoEnv, TWInform7
except (ImportError, OSError) as error:
    raise UserError(
        f"the environment 'textworld' could not be loaded ({type(error).__name__}: {error}); it needs "
        "pip install 'openrlhf-agentprm[textworld]', which compiles a package (a C compiler and make must be present) and brings parts under the GPL"
    ) from error

_WANTED = textworld.EnvInfos(
    feedback=True,
    objective=True,
    admissible_commands=True,
    policy_commands=True,
    won=True,
    lost=True,
    score=True,
    max_score=True,
    moves=True,
)
_BANNER = re.compile(r"^[ >]*[$|\\/_][$|\\/_> ]*$\n?", re.M)  # lines of nothing but the marks that its letters are drawn with
_PROMPT = re.compile(r"\n>[^\n]*\Z")
_QUESTION = re.compile(r"\n\s*Would you like to RESTART.*\Z", re.S)
_GAPS = re.compile(r"\n\s*\n")


class Engine:
    """A running game. Load the next game into the same object; engines in several threads take turns."""

    @one_at_a_time
    def __init__(self) -> None:
        interpreter = JerichoEnv(_WANTED)
        interpreter.seed(1)  # jericho takes 0 for none
        self._env = TWInform7(interpreter)
        self._state: Any = None

    @one_at_a_time
    def load(self, game: Path) -> None:
        """Load a game.

        Raises:
            UserError: it is none.
        """
        self._state = None
        self._env.close()  # an interpreter that loads a second game keeps the memory of the first
        forget_propositions()
        try:
            self._env.load(str(game))
        except Exception as error:
            raise UserError(f"{game}: TextWorld could not load the game ({type(error).__name__}: {error})") from error

    @one_at_a_time
    def reset(self) -> str:
        """Start the loaded game; what is seen first, without the objective."""
        self._state = self._env.reset()
        text = _tidy(self._state["feedback"])
        return text.replace(self.objective, "", 1).strip() if self.objective else text

    @one_at_a_time
    def step(self, command: str) -> tuple[str, bool]:
        """(the game's answer, whether something was done)."""
        moves, listed = self._state["moves"], command in self.commands
        self._state, _, _ = self._env.step(command)
        return _tidy(self._state["feedback"]), listed or self._state["moves"] > moves

    @one_at_a_time
    def close(self) -> None:
        self._env.close()

    @property
    def objective(self) -> str:
        return str(self._state["objective"] or "").strip()

    @property
    def won(self) -> bool:
        return bool(self._state["won"])

    @property
    def lost(self) -> bool:
        return bool(self._state["lost"])

    @property
    def share(self) -> float:
        """Of the game's points, those that were earned."""
        return max(0.0, (self._state["score"] or 0) / (self._state["max_score"] or 1))

    @property
    def commands(self) -> list[str]:
        """The admissible commands, sorted."""
        return list(self._state["admissible_commands"])

    @property
    def plan(self) -> list[str]:
        """Commands that win the game from here; empty if the engine knows none."""
        return list(self._state["policy_commands"] or [])


def _tidy(text: str) -> str:
    text = _QUESTION.sub("", _PROMPT.sub("", _BANNER.sub("", text)))
    return _GAPS.sub("\n\n", "\n".join(line.strip() for line in text.split("\n"))).strip()
