"""TextCraft as a text environment: `get`, `craft … using …`, `inventory`."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium

from ...core.errors import UserError
from ..base import SPLITS, LazyTasks, task_of
from .fetch import VERSIONS, data_folder, fetch
from .recipes import Book, Recipe, load_book

INSTRUCTION = (
    "You are given commands that craft items. Fetch what nothing crafts with 'get 2 oak log', craft by the commands that are listed, several times "
    "at once if you like, and look at what you have with 'inventory'."
)
_GET = re.compile(r"get (\d{1,6}) (.+)")
_CRAFT = re.compile(r"craft (\d{1,6}) (.+?) using (.+)")
_DISTRACTORS = 10
_SHARES = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}  # tenths of the goals


class TextCraftEnv(gymnasium.Env[str, str]):
    """One goal an episode; the reward is 1 when it is crafted.

    The rules are AgentGym's: the commands that the goal needs are listed among up to ten others; a base item can be fetched in any number; a
    command that does not fit is answered with a message and ends nothing. Ours is that a command may be carried out several times at once.

    Args:
        depths: of the goals, from 1 to 4: how many levels of crafting lie between a goal and base items.
        version: of the game whose recipes are taken.
        data_dir: folder with `recipes.json` and `items.json` in place of those that `agentprm env fetch textcraft` brings.
        variants: tasks of one goal, which differ in the other commands that are listed.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=100_000)
    action_space = gymnasium.spaces.Text(max_length=10_000)
    fetch = staticmethod(fetch)

    def __init__(
        self, depths: Sequence[int] = (1, 2, 3, 4), version: str = VERSIONS[0], data_dir: str | None = None, variants: int = 100
    ) -> None:
        problems = []
        if not isinstance(depths, Sequence) or not depths or not all(isinstance(d, int) and d >= 1 for d in depths):
            problems.append(f"depths is {depths!r}; wanted a list of whole numbers of 1 or more")
        if data_dir is None and version not in VERSIONS:
            problems.append(f"version is {version!r} (allowed: {', '.join(VERSIONS)})")
        if not isinstance(variants, int) or variants < 1:
            problems.append(f"variants is {variants!r}; wanted a whole number of 1 or more")
        if problems:
            raise UserError(problems)
        self.book: Book = load_book(Path(data_dir) if data_dir else data_folder(version))
        self.depths = tuple(depths)
        self.variants = variants
        self._inventory: Counter[str] | None = None
        self._goal = ""
        self._listed: list[Recipe] = []

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        goal, _, variant = task_id.partition("/")
        if self.book.depth.get(goal, 0) < 1 or not variant.isdigit():
            raise UserError(
                f"textcraft task {task_id!r} is no 'ITEM/NUMBER' with an item that can be crafted, such as {self.tasks('train')[0]!r}"
            )
        self._goal, self._inventory = goal, Counter()
        needed = self.book.needed(goal)
        rng = random.Random(f"{task_id} {seed or 0}")
        others = [r for item in self.book.craftable for r in self.book.by_item[item] if r not in needed and item != goal]
        self._listed = needed + rng.sample(others, min(_DISTRACTORS, len(others)))
        rng.shuffle(self._listed)
        lines = "\n".join(recipe.line() for recipe in self._listed)
        return f"Crafting commands:\n{lines}\n\nGoal: craft {goal}.", {"instruction": INSTRUCTION, "valid_action": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._inventory is None:
            raise RuntimeError("step() without a running episode; call reset() first")
        text = " ".join(action.lower().split()).rstrip(".")
        told, valid = self._do(text)
        success = self._inventory[self._goal] > 0
        if success:
            self._inventory = None
        return told, float(success), success, False, {"valid_action": valid, "success": success}

    def _do(self, text: str) -> tuple[str, bool]:
        """(what is shown, whether it was carried out)."""
        assert self._inventory is not None
        if text == "inventory":
            held = ", ".join(f"{n} {item}" for item, n in sorted(self._inventory.items()) if n)
            return f"Inventory: {held or 'nothing'}", True
        if match := _GET.fullmatch(text):
            return self._get(int(match[1]), match[2])
        if match := _CRAFT.fullmatch(text):
            return self._craft(int(match[1]), match[2], match[3])
        return f"Could not understand {_brief(text)}", False

    def _get(self, count: int, item: str) -> tuple[str, bool]:
        assert self._inventory is not None
        if item not in self.book.base or not count:
            return f"Could not find {_brief(item)}", False
        self._inventory[item] += count
        return f"Got {count} {item}", True

    def _craft(self, count: int, item: str, used: str) -> tuple[str, bool]:
        assert self._inventory is not None
        given = _parts(used)
        for recipe in self.book.by_item.get(item, ()):
            times, rest = divmod(count, recipe.count)
            if times and not rest and given == {name: times * n for name, n in recipe.ingredients}:
                break
        else:
            return f"Could not find a recipe for {count} {_brief(item)} using {_brief(used)}", False
        if short := [name for name, n in given.items() if self._inventory[name] < n]:
            return f"Could not find enough items to craft {item}: {', '.join(short)}", False
        self._inventory.subtract(given)
        self._inventory[item] += count
        return f"Crafted {count} {item}", True

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return _Goals(self.book, self.depths, split, self.variants)

    def expert_action(self) -> str:
        """The first command of a plan from what is there."""
        assert self._inventory is not None
        return self.book.plan(self._goal, self._inventory)[0]

    def admissible_actions(self) -> list[str]:
        """One of each base item that is used, and the listed commands that can be carried out now."""
        assert self._inventory is not None
        used = dict.fromkeys(name for recipe in self._listed for name, _ in recipe.ingredients if name in self.book.base)
        can = [r.line() for r in self._listed if all(self._inventory[name] >= n for name, n in r.ingredients)]
        return [*(f"get 1 {name}" for name in used), *can, "inventory"]

    def snapshot(self) -> object:
        return self._goal, None if self._inventory is None else dict(self._inventory), tuple(self._listed)

    def restore(self, state: Any) -> None:
        self._goal, held, listed = state
        self._inventory, self._listed = None if held is None else Counter(held), list(listed)

    def lexicon(self) -> Sequence[str]:
        return sorted({*self.book.depth})


def _parts(text: str) -> dict[str, int] | None:
    """`2 oak planks, 1 stick` as numbers by name; None if it is something else."""
    found: Counter[str] = Counter()
    for part in text.split(","):
        number, _, name = part.strip().partition(" ")
        if not number.isdigit() or len(number) > 6 or not name:
            return None
        found[name] += int(number)
    return dict(found)


def _brief(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


class _Goals(LazyTasks):
    """`ITEM/NUMBER`: the goals of a split in turn, each with its first variant, then its second, …

    A goal belongs to one split by its digest, so that no version and no choice of depths moves it to another.
    """

    def __init__(self, book: Book, depths: Sequence[int], split: str, variants: int) -> None:
        if split not in _SHARES:
            raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
        low, high = _SHARES[split]
        digests = {item: hashlib.sha256(item.encode()).digest() for item in book.craftable if book.depth[item] in depths}
        self._goals = sorted((item for item, d in digests.items() if low <= d[0] * 10 // 256 < high), key=digests.__getitem__)
        super().__init__(len(self._goals) * variants)

    def task(self, index: int) -> str:
        return f"{self._goals[index % len(self._goals)]}/{index // len(self._goals)}"
