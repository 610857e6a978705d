"""The ALFWorld engine: textworld's PDDL environment with ALFWorld's names, made faster.

The stock engine translates a game's PDDL four times for each episode. Here a translation is kept for the next episodes, in memory
only: nothing is ever unpickled from disk. Texts and choices stay what the stock engine gives.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..textworld_memory import forget_propositions, one_at_a_time

try:
    import fast_downward
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    from .text import parse_template, prepare_text
except (ImportError, OSError) as error:
    raise UserError(
        f"the environment 'alfworld' could not be loaded ({type(error).__name__}: {error}); it needs "
        "pip install 'openrlhf-agentprm[alfworld]', which compiles two packages (a C++ compiler and make must be present) "
        "and brings parts under the GPL; in an installation put together by hand, keep tatsu==5.8.3"
    ) from error

Fact = tuple[str, tuple[str, ...]]

NOTHING = "Nothing happens."
# Engines given back, for the next caller: each has loaded a copy of the planner library, some 3 MB, and unloading it crashes.
_IDLE: list[Any] = []
# A big kitchen's translation takes some 10 MB, so few are kept: enough for the episodes of one group, played in turn.
_TRANSLATIONS_KEPT = 16


class Engine:
    """One engine, for one game at a time; load the next game into the same object, since each holds its own planner library.

    Engines in several threads take turns.
    """

    @one_at_a_time
    def __init__(self) -> None:
        prepare_text()
        self._pddl = _IDLE.pop() if _IDLE else PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True))
        self._env = AlfredDemangler(self._pddl, shuffle=False)
        self._state: Any = None
        self.close = weakref.finalize(self, _IDLE.append, self._pddl)

    @one_at_a_time
    def load(self, game: Path | Mapping[str, Any]) -> None:
        """Load a game, from its file or as the file's content.

        Raises:
            UserError: the file is missing, is not a game, or holds expressions that are refused.
        """
        self._state = None
        forget_propositions()
        data = read_game(game) if isinstance(game, Path) else game
        try:
            with _kept_translations():
                self._env.load(data)
                for action in self._pddl._logic.actions.values():
                    parse_template(action.template)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # the translator exits the process over a faulty problem
            where = f"the game {str(game)!r}" if isinstance(game, Path) else "the game"
            raise UserError(f"{where} could not be loaded: {type(error).__name__}: {error}") from error

    @one_at_a_time
    def reset(self) -> str:
        """Start the loaded game; the whole first text, with the task in its last paragraph."""
        with _kept_translations():
            self._state = self._env.reset()
        return str(self._state.feedback)

    @one_at_a_time
    def step(self, command: str) -> str:
        """Carry out an admissible command; any other changes nothing."""
        if command not in self._state["_valid_commands"]:
            return NOTHING
        self._state, _, _ = self._env.step(command)
        return str(self._state.feedback)

    @property
    def won(self) -> bool:
        return bool(self._state["won"])

    @property
    def commands(self) -> list[str]:
        """The admissible commands, sorted."""
        return list(self._state["admissible_commands"])

    @property
    def problem(self) -> str:
        """The loaded game's problem, as PDDL text."""
        return str(self._pddl._game_data["pddl_problem"])

    def facts(self) -> list[Fact]:
        """What holds now: predicate and arguments, by the names that commands use; sorted, so that plans do not hang on hashing."""
        names = {key: info.name.strip() for key, info in self._state["_entity_infos"].items()}
        return sorted((fact.name, tuple(names[v.name] for v in fact.arguments)) for fact in self._state["_facts"])

    @one_at_a_time
    def planner_commands(self) -> list[str]:
        """A plan from the present state by the engine's own planner; empty if it finds none. It may take seconds."""
        pddl_state = self._pddl._pddl_state
        _, sas = _translate(pddl_state._logic.domain, pddl_state.pddl_problem, optimize=True)
        pddl_state.downward_lib.load_sas_replan(sas.encode())
        return [str(command) for command in pddl_state.replan(self._pddl._entity_infos)]


def read_game(path: Path) -> dict[str, Any]:
    """The content of a `game.tw-pddl`, checked for its parts."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable ALFWorld game ({error})") from error
    missing = [key for key in ("pddl_domain", "grammar", "pddl_problem") if not isinstance(data, dict) or key not in data]
    if missing:
        raise UserError(f"{path}: not an ALFWorld game; missing: {', '.join(missing)}")
    return data


# --- translation ---

_stock_translate = fast_downward.pddl2sas


def _translate(domain: str, problem: str, optimize: bool) -> tuple[Any, str]:
    argv, collecting = sys.argv, gc.isenabled()
    gc.disable()  # it makes so many small objects that collecting garbage takes half of the time
    try:
        return _stock_translate(domain, problem, optimize=optimize)
    finally:
        sys.argv = argv  # the translator overwrites it
        if collecting:
            gc.enable()


@functools.lru_cache(_TRANSLATIONS_KEPT)
def _plain_translation(domain: str, problem: str) -> tuple[Any, str]:
    return _translate(domain, problem, optimize=False)


@contextlib.contextmanager
def _kept_translations() -> Iterator[None]:
    """Within the block textworld gets the kept translation, also for the optimised one, which only its planner uses."""

    def kept(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> tuple[Any, str]:
        return _plain_translation(domain, problem)

    before = fast_downward.pddl2sas
    fast_downward.pddl2sas = kept
    try:
        yield
    finally:
        fast_downward.pddl2sas = before
