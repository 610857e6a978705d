"""BabyAI as a text environment (needs `pip install openrlhf-agentprm[babyai]`)."""

from __future__ import annotations

import contextlib
import copy
import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from ...core.errors import UserError

try:
    import minigrid  # noqa: F401
except ImportError as error:
    raise UserError("the environment 'babyai' needs minigrid: pip install 'openrlhf-agentprm[babyai]'") from error

from ..base import SeededTasks, task_of
from . import actions, agentgym, experts, goals
from .levels import level_ids, resolve_levels
from .view import OBJECTS, Memory, View, describe_compact, describe_full, look

_NO_LIMIT = 10**9
_COLORS = ("red", "green", "blue", "purple", "yellow", "grey")


class BabyAIEnv(gymnasium.Env[str, str]):
    """One BabyAI mission an episode, observed and played in words.

    The reward is 1 − 0.9·n/max at success, n and max in minigrid's own moves: it tells the episode's length, so the outcome is
    `info["success"]`, not this reward. Under `declare` the reward is the success.

    Args:
        levels: a group ("declare", "reliable", "agentgym"), a comma-separated text, or a list of level names.
        action_level: "high" (`go to red ball 1`) or "low" (`turn left`, `move forward`, …).
        observation: "compact" (a line for small models) or "full" (AgentGym's manner, with distances).
        memory: objects keep their number for the episode and can be named once they have been seen; without it an action can name only
            what is in sight, numbered by distance in every view, as in AgentGym.
        declare: only the action `done` ends an episode, and only then is the mission checked on the state. Without it an episode ends
            on success, so that failures are long and successes short: length alone then tells the outcome.
        slip: chance that another admissible action is carried out in place of the one that was given; what is seen then tells. It is drawn from
            the seed, the task and all actions so far, so that the same actions meet the same luck and a replay shows what was seen.
        rules: "own", or "agentgym": observations, actions, plans and rewards are to the letter those of AgentGym's server (see `agentgym.py`),
            and a success ends the episode however late it comes. `action_level`, `observation`, `memory`, `declare` and `slip` are refused beside it.
        tasks_per_split: how many tasks each split lists.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=100_000)
    action_space = gymnasium.spaces.Text(max_length=10_000)

    def __init__(
        self,
        levels: str | Sequence[str] = "declare",
        action_level: str = "high",
        observation: str = "compact",
        memory: bool = False,
        declare: bool = False,
        slip: float = 0.0,
        rules: str = "own",
        tasks_per_split: int = 100_000,
    ) -> None:
        problems = []
        if action_level not in ("high", "low"):
            problems.append(f"action_level is {action_level!r}; allowed: 'high', 'low'")
        if observation not in ("compact", "full"):
            problems.append(f"observation is {observation!r}; allowed: 'compact', 'full'")
        if not (isinstance(slip, int | float) and 0 <= slip < 1):
            problems.append(f"slip is {slip!r}; allowed: a chance from 0 to less than 1")
        if rules not in ("own", "agentgym"):
            problems.append(f"rules is {rules!r}; allowed: 'own', 'agentgym'")
        if rules == "agentgym" and (action_level, observation, memory, declare, slip) != ("high", "compact", False, False, 0):
            problems.append("rules is 'agentgym', which leaves action_level, observation, memory, declare and slip no say; drop them")
        if problems:
            raise UserError(problems)
        self.levels = resolve_levels(levels)
        self.action_level = action_level
        self.memory = memory
        self.declare = declare
        self.slip = slip
        self.rules = rules
        self.tasks_per_split = tasks_per_split
        self._describe = describe_compact if observation == "compact" else describe_full
        self._ids = level_ids()
        self._built: dict[str, Any] = {}
        self.grid_env: Any = None
        self.view: View

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        level, level_seed = self._parse(task_id)
        self.grid_env, view = self._start(level, level_seed)
        if self.declare and not goals.can_be_declared(self.grid_env.instrs):
            raise UserError(f"BabyAI level {level!r} has a mission of several parts, which `declare` cannot check on a state")
        self._task = (level, level_seed)
        self._over = False
        self._luck = f"{seed}:{task_id}"
        self._moves: list[Any] = []
        self._expert: Any = None
        self._seen = Memory() if self.memory else None
        self._server: agentgym.Server | None = None
        if self.rules == "agentgym":
            self._server = agentgym.Server(_Recorder(self.grid_env, self._moves), view)
            return self._server.first(), {"instruction": f"Your goal: {self._server.goal}", "valid_action": True}
        return self._observe(), {"instruction": f"goal: {self.grid_env.mission}", "valid_action": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.grid_env is None or self._over:
            raise RuntimeError("step() without a running episode; call reset() first")
        if self._server is not None:
            return self._step_as_agentgym(self._server, action)
        text = actions.normalise(action)
        if self.declare and text == "done":
            success = goals.fulfilled(self.grid_env)
            self._over = True
            return "", float(success), True, False, {"valid_action": True, "success": success}
        if text == "check available actions" and self.action_level == "high":
            listed = "You can take the following actions: " + ", ".join(self.admissible_actions())
            return listed, 0.0, False, False, {"valid_action": True, "success": False}
        if self.slip:
            text = self._slipped(text)
        recorder = _Recorder(self.grid_env, self._moves)
        done = actions.carry_out(text, recorder, self.view, self.action_level, stop_at_end=not self.declare)
        observation = self._observe() if done.valid else f"failed, {done.why}. {self._observe()}"
        self._over = done.terminated
        reward = 1 - 0.9 * min(1.0, self.grid_env.step_count / self._move_limit) if done.success else 0.0
        return observation, reward, done.terminated, False, {"valid_action": done.valid, "success": done.success}

    def _step_as_agentgym(self, server: agentgym.Server, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        told = server.step(action)
        self._over = told.rewarded
        reward = 1 - 0.9 * self.grid_env.step_count / self._move_limit if told.rewarded else 0.0  # below 0 if it comes very late
        return told.text, reward, told.rewarded, False, {"valid_action": told.listed, "success": told.rewarded}

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return SeededTasks(self.levels, split, self.tasks_per_split)

    def admissible_actions(self) -> list[str]:
        if self._server is not None:
            return list(self._server.plans)
        return actions.admissible(self.grid_env, self.view, self.action_level) + (["done"] if self.declare else [])

    def expert_action(self) -> str:
        if self.declare and goals.fulfilled(self.grid_env):
            return "done"
        if self.declare and self.action_level == "high":
            self._expert = self._expert or experts.ScriptedExpert(self.grid_env)
            return self._expert.action(self.view)
        if self._expert is None:
            self._expert = experts.BotExpert(self._start(*self._task, fresh=True)[0])
            self._told = 0
        for move in self._moves[self._told :]:
            self._expert.observe(move)
        self._told = len(self._moves)
        action = self._expert.action()
        if self._server is not None:
            return (self._server.facing_pickup() or "turn left") if action == "pickup" else action
        return self._named_pickup() if action == "pickup" and self.action_level == "high" else action

    def demonstrator(self, name: str, *, noise: float, seed: int) -> Callable[[], str]:
        if name != "short_sighted":
            raise UserError(f"BabyAI has no demonstrator {name!r} (known: expert, careless, short_sighted)")
        if not self.declare or self.action_level != "high":
            raise UserError("the demonstrator 'short_sighted' needs declare=true and action_level='high'")
        return experts.short_sighted(self, noise=noise, seed=seed)

    def lexicon(self) -> Sequence[str]:
        verbs = ["go to", "go through", "toggle and go through", "drop next to", "turn left", "turn right", "move forward"]
        return [f"{color} {kind}" for color in _COLORS for kind in OBJECTS] + verbs

    def snapshot(self) -> object:
        view = None if self._server else self.view
        parts = (self.grid_env, self._task, self._over, self._moves, self._seen, view, self._move_limit, self._luck, self._server)
        return copy.deepcopy(parts)

    def restore(self, state: object) -> None:
        parts: Any = copy.deepcopy(state)
        self.grid_env, self._task, self._over, self._moves, self._seen, self.view, self._move_limit, self._luck, self._server = parts
        self._expert = None

    # --- helpers ---

    def _observe(self) -> str:
        self.view = look(self.grid_env, self._seen)
        return self._describe(self.view, self.grid_env)

    def _slipped(self, text: str) -> str:
        """The action that is carried out."""
        self._luck += f"|{text}"
        draw = random.Random(self._luck)
        others = [action for action in actions.admissible(self.grid_env, self.view, self.action_level) if action != text]
        return draw.choice(others) if others and draw.random() < self.slip else text

    def _parse(self, task_id: str) -> tuple[str, int]:
        level, _, seed = str(task_id).partition("/")
        if level not in self._ids or not seed.isdigit():
            raise UserError(f"BabyAI task {task_id!r} is not LEVEL/SEED with a known level, such as 'GoToLocalS6N3/7'")
        return level, int(seed)

    def _start(self, level: str, seed: int, fresh: bool = False) -> tuple[Any, Any]:
        """minigrid's environment of the level, reset, and the view that this gave; kept for the next episode unless `fresh`."""
        with contextlib.redirect_stdout(io.StringIO()):  # minigrid prints while it samples
            grid_env: Any = None if fresh else self._built.get(level)
            if grid_env is None:
                named = agentgym.LEVEL_IDS.get(level, level) if self.rules == "agentgym" else level
                grid_env = gymnasium.make(self._ids[named], disable_env_checker=True).unwrapped
                if not fresh:
                    self._built[level] = grid_env
            observed, _ = grid_env.reset(seed=seed)
        self._move_limit = grid_env.max_steps
        grid_env.max_steps = _NO_LIMIT
        return grid_env, observed["image"]

    def _named_pickup(self) -> str:
        faced = self.grid_env.grid.get(*self.grid_env.front_pos)
        seen = next((s for s in self.view.sightings if s.thing is faced), None)
        return f"pickup {seen.name}" if seen else "turn left"


class _Recorder:
    """minigrid's environment, with every move noted for the bot."""

    def __init__(self, grid_env: Any, moves: list[Any]) -> None:
        self._grid_env = grid_env
        self._moves = moves

    def step(self, move: Any) -> Any:
        self._moves.append(move)
        return self._grid_env.step(move)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # such as a copy asks for before it has attributes
            raise AttributeError(name)
        return getattr(self._grid_env, name)
