"""TextArena's games for one player in text (needs `pip install 'openrlhf-agentprm[textarena]'`).

    --env.name textarena --env.args '{"id": "TowerOfHanoi-v0-raw"}'

Facts of the library (0.7.4) that this rests on: a `-raw` id gives messages, not a text of the whole history; the first of two wrong moves
in a row is forgiven and the second ends the game; the reward comes when a game is closed; a game that has ended goes on when it is
stepped; and it draws from the process's `random`. A limit on turns is a rule of the game, told at the start, and ends it as a loss does.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ...core.errors import UserError
from ..base import is_finite_number
from .common import NumberedEnv, OwnRandom, Step, built, package

INSTALL = "pip install 'openrlhf-agentprm[textarena]'"


class TextArenaEnv(NumberedEnv):
    """One game an episode; a task is a seed.

    Args:
        id: of a game for one player, with `-raw` at its end.
        kwargs: for `textarena.make`, in place of those of the id.
        success: an episode has succeeded if its reward is at least this. Most games pay a part of 1 for what was done by a loss.
        graded: the outcome is the reward, not success.
        instruction: what the agent is told about the task; the first observation has the rules.
        tasks_per_split: how many tasks each split lists.
    """

    def __init__(
        self,
        id: str,
        kwargs: Mapping[str, Any] | None = None,
        success: float = 1.0,
        graded: bool = False,
        instruction: str = "",
        tasks_per_split: int = 10_000,
    ) -> None:
        super().__init__(id, instruction, graded, tasks_per_split)
        self.success = success
        self._random = OwnRandom()
        self._library = package("textarena", INSTALL, "textarena")
        self._check(id)
        with self._random():
            self._game = built(f"textarena.make({id!r})", lambda: self._library.make(id, **dict(kwargs or {})))
            built(f"a game of {id}", lambda: self._game.reset(num_players=1, seed=0))
        if not isinstance(self._game.state, self._library.SinglePlayerState):
            raise UserError(f"{id} keeps a {type(self._game.state).__name__}; this environment plays games for one player alone")

    def _check(self, id: str) -> None:
        known = [name for name in self._library.envs.registration.ENV_REGISTRY if name.endswith("-raw")]
        if id not in known:
            near = get_close_matches(id, known, n=3, cutoff=0.5)
            raise UserError(f"textarena has no id {id!r} with '-raw' at its end{'; near ones: ' + ', '.join(near) if near else ''}")

    def _begin(self, number: int) -> str:
        with self._random(seed=number):
            self._game.reset(num_players=1, seed=number)
            return self._new_messages()

    def _act(self, action: str) -> Step:
        with self._random():
            ended, _ = self._game.step(action)
            shown = self._new_messages()
            rewards, told = self._game.close()  # which only reads them
        forfeited = bool(told[0].get("invalid_move", False))
        valid = not forfeited and self._game.state.error_count == 0  # it counts the wrong moves that stand in a row
        if not ended:
            return shown, 0.0, False, False, {"valid_action": valid, "success": False}
        reward = float(rewards[0]) if is_finite_number(rewards[0]) else 0.0  # some games forfeit with the reason in its place
        shown = "\n\n".join(part for part in (shown, str(told[0].get("reason") or "")) if part)
        return shown, reward, True, False, {"valid_action": valid, "success": not forfeited and reward >= self.success}

    def _new_messages(self) -> str:
        """What the game has said since it was asked last, without the player's own words."""
        own = self._library.ObservationType.PLAYER_ACTION  # some games give it in the sender's place
        _, messages = self._game.get_observation()
        return "\n\n".join(str(text) for sender, text, kind in messages if own not in (sender, kind))
