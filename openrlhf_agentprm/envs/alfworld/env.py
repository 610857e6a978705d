"""ALFWorld as a text environment (needs `pip install openrlhf-agentprm[alfworld]`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium

from ...core.errors import UserError, did_you_mean
from ..base import SPLITS, task_of
from .engine import NOTHING, Engine
from .library import open_library, resolve_task_types
from .oracle import Goal, shortest_plan
from .searcher import Searcher

_GAMES = {"train": 3000, "validation": 120, "test": 120}
_AGENTGYM_STEPS = 50
_ARRIVAL = re.compile(r"^You arrive at loc .*?\. ")
_TASK = "Your task is to: "
# A tokenizer with one token a digit may give "shelf 1 0" for "shelf 10"; no command has a number beside a number.
_SPLIT_NUMBER = re.compile(r"(?<=\d) (?=\d)")
# ALFWorld's releases before 0.4 put things "in/on"; later ones "move" them "to".
_SPELLINGS = (
    (re.compile(r"put (.+) (?:in/on|into|onto|in|on) (.+)"), r"move \1 to \2"),
    (re.compile(r"move (.+) to (.+)"), r"put \1 in/on \2"),
)


class AlfworldEnv(gymnasium.Env[str, str]):
    """One household task an episode. The reward is 1 at success and 0 before; success ends the episode.

    Games come from ALFWorld's download, or are generated for its engine. Generated games are "generated ALFWorld-engine tasks", and
    scores on them are not ALFWorld scores: `source` and `info["source"]` say which they are.

    | split | download | generated |
    |---|---|---|
    | train | train | 108 scenes |
    | validation | valid_seen | the same scenes, other seeds |
    | test | valid_unseen | ALFWorld's four unseen scenes |

    Task ids are folders below the split: `pick_heat_then_place_in_recep-Mug-None-Cabinet-12/trial_T…` in the download,
    `pick_heat_then_place_in_recep-scene12/7` (type, scene, seed) for generated games. Those are made when first played, and kept.
    Use one object for many episodes: each holds its own planner library; objects in several threads take turns.

    Args:
        source: "download", "generated", or "auto": the download if there is one, else generated tasks.
        data_dir: folder with a download, as `alfworld-download` fills it. Default: `$ALFWORLD_DATA`, else `~/.cache/alfworld`.
        task_types: "all", a comma-separated text, or a list of ALFWorld's six task types.
        games: how many generated tasks each split lists.
        seed: of the generated tasks; other seeds list other tasks.
        rules: "own", or "agentgym", as AgentGym's server plays: an action counts only as it is listed, "You arrive at loc 3." is not told, and
            the 50th action without success is the episode's last (truncated).
        cache_dir: where generated games are kept. Default: `openrlhf-agentprm/alfworld` in the user's cache folder.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=100_000)
    action_space = gymnasium.spaces.Text(max_length=10_000)

    def __init__(
        self,
        source: str = "auto",
        data_dir: str | None = None,
        task_types: str | Sequence[str] = "all",
        games: Mapping[str, int] | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
        rules: str = "own",
    ) -> None:
        if rules not in ("own", "agentgym"):
            raise UserError(f"rules is {rules!r}; allowed: 'own', 'agentgym'")
        self.rules = rules
        types = resolve_task_types(task_types)
        self._library = open_library(source, data_dir, cache_dir, types, {**_GAMES, **(games or {})}, seed)
        self.source = self._library.source
        self.task_source = "ALFWorld's own games" if self.source == "download" else "generated ALFWorld-engine tasks"
        self._engine: Engine | None = None
        self._loaded = ""
        self._over = True
        self._steps = 0

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        self._over = True
        engine = self._engine = self._engine or Engine()
        if task_id != self._loaded:
            self._loaded = ""
            engine.load(self._library.find(task_id, engine))
            self._loaded = task_id
        observation, instruction = _split_first_text(engine.reset())
        self._over, self._steps = False, 0
        return observation, {"instruction": instruction, "valid_action": True, "source": self.source}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        engine = self._running("step()")
        as_listed = action.strip() if action.strip() in engine.commands else ""
        command = as_listed if self.rules == "agentgym" else _spelled(action, engine.commands)
        observation = engine.step(command) if command else NOTHING
        success, limit = engine.won, False
        if self.rules == "agentgym":
            self._steps += 1
            observation, limit = _ARRIVAL.sub("", observation), not success and self._steps >= _AGENTGYM_STEPS
        self._over = success or limit
        return observation, float(success), success, limit, {"valid_action": bool(command), "success": success}

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine, self._loaded, self._over = None, "", True

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}{did_you_mean(split, SPLITS)} (known: {', '.join(SPLITS)})")
        return self._library.tasks(split)

    def admissible_actions(self) -> list[str]:
        return self._running("admissible_actions()").commands

    def expert_action(self) -> str:
        """The first command of a shortest plan from here, or of the engine's own planner where our search finds none."""
        engine = self._running("expert_action()")
        goal = Goal.read(engine.problem)
        plan = (shortest_plan(engine.facts(), goal) if goal else None) or engine.planner_commands()
        command = _spelled(plan[0], engine.commands) if plan else ""
        if not command:
            raise RuntimeError(f"no plan reaches the goal of ALFWorld task {self._loaded!r} from this state")
        return command

    def demonstrator(self, name: str, *, noise: float, seed: int) -> Callable[[], str]:
        """`searching`: one that does not know where things are (see `Searcher`)."""
        if name != "searching":
            raise UserError(f"ALFWorld has no demonstrator {name!r} (known: expert, careless, searching)")
        engine = self._running("demonstrator()")
        goal = Goal.read(engine.problem)
        if goal is None:
            raise UserError(f"the demonstrator 'searching' knows ALFWorld's six task types; {self._loaded!r} is of none of them")
        return Searcher(goal, engine, noise=noise, seed=seed).next_action

    def lexicon(self) -> Sequence[str]:
        return ["go to", "you see", "You arrive at", "You open the", "You pick up the", "Your task is to", "Nothing happens"]

    # --- helpers ---

    def _running(self, what: str) -> Engine:
        if self._engine is None or self._over:
            raise RuntimeError(f"{what} without a running episode; call reset() first")
        return self._engine


def _split_first_text(text: str) -> tuple[str, str]:
    """What is seen, and the task; the engine's first line, a greeting, is dropped."""
    before, found, task = text.partition(_TASK)
    if not found:
        raise UserError(f"the ALFWorld game tells no task: its first text has no {_TASK!r}")
    return before.split("=-", 1)[-1].strip(), (found + task).strip()


def _spelled(action: str, commands: Sequence[str]) -> str:
    """The admissible command that is meant, whatever the case, spacing and release's spelling; empty if there is none."""
    text = _SPLIT_NUMBER.sub("", " ".join(action.lower().split())).rstrip(" .")
    candidates = [text, *(pattern.sub(form, text) for pattern, form in _SPELLINGS if pattern.fullmatch(text))]
    return next((candidate for candidate in candidates if candidate in commands), "")
