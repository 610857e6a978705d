"""Crafting recipes: read from the data of the npm package `minecraft-data`, ordered by depth, and planned with.

An item is a *base* item if no recipe makes it, and can be fetched. Others have a depth: 1 + the least, over their recipes, of the deepest
ingredient; base items have 0. Items that only a cycle of recipes makes (ingot, nugget, block) have none, so the item of the rest that most of
its recipes use is declared a base item, and again, until every item has a depth.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError

Inventory = Mapping[str, int]


@dataclass(frozen=True)
class Recipe:
    """`count` of `item` out of the ingredients, each with its number."""

    item: str
    count: int
    ingredients: tuple[tuple[str, int], ...]

    def line(self, times: int = 1) -> str:
        """The command that carries it out so often."""
        used = ", ".join(f"{times * n} {name}" for name, n in self.ingredients)
        return f"craft {times * self.count} {self.item} using {used}"


class Book:
    """Recipes of one version of the game.

    Args:
        recipes: all of them.
    """

    def __init__(self, recipes: list[Recipe]) -> None:
        self.by_item: dict[str, list[Recipe]] = {}
        for recipe in sorted(set(recipes), key=lambda r: (r.item, r.ingredients, r.count)):
            self.by_item.setdefault(recipe.item, []).append(recipe)
        self.depth = self._depths()
        self.base = frozenset(item for item, depth in self.depth.items() if depth == 0)
        self.craftable = sorted(item for item, depth in self.depth.items() if depth)

    def best(self, item: str) -> Recipe:
        """The recipe of least depth, and of those the one with the fewest ingredients."""
        return min(self.by_item[item], key=lambda r: (self._depth_of(r, self.depth), sum(n for _, n in r.ingredients), r.ingredients))

    def plan(self, goal: str, inventory: Inventory = {}) -> list[str]:  # noqa: B006 (it is only read)
        """Commands that lead to one of the goal: what is lacking is fetched first, then crafted from the bottom up."""
        lacking, times = Counter({goal: 1}), dict[str, int]()
        for item in self._below(goal):
            lack = lacking[item] - inventory.get(item, 0) if item != goal else 1
            if lack <= 0:
                continue
            if item in self.base:
                times[item] = lack
                continue
            recipe = self.best(item)
            times[item] = math.ceil(lack / recipe.count)
            for name, n in recipe.ingredients:
                lacking[name] += n * times[item]
        order = sorted(times, key=lambda item: (self.depth[item], item))
        return [f"get {times[item]} {item}" if item in self.base else self.best(item).line(times[item]) for item in order]

    def needed(self, goal: str) -> list[Recipe]:
        """The recipes of its plan."""
        return [self.best(item) for item in self._below(goal) if item not in self.base]

    def _below(self, goal: str) -> list[str]:
        """The goal and all that its plan can use, the deepest first: nothing comes behind what it is made of."""
        found, waiting = {goal}, [goal]
        while waiting:
            item = waiting.pop()
            if item in self.base:
                continue
            new = {name for name, _ in self.best(item).ingredients} - found
            found |= new
            waiting += new
        return sorted(found, key=lambda item: (-self.depth[item], item))

    def _depths(self) -> dict[str, int]:
        used = Counter(name for recipes in self.by_item.values() for r in recipes for name, _ in r.ingredients)
        depth = {name: 0 for name in used if name not in self.by_item}
        while True:
            level = 1
            while new := {
                i: level for i in self.by_item if i not in depth and any(self._depth_of(r, depth) == level for r in self.by_item[i])
            }:
                depth |= new
                level += 1
            rest = [item for item in self.by_item if item not in depth]
            if not rest:
                return depth
            depth = {name: 0 for name, d in depth.items() if d == 0}
            depth[min(rest, key=lambda item: (-self._uses(item, rest), item))] = 0

    def _uses(self, item: str, rest: list[str]) -> int:
        return sum(any(name == item for name, _ in r.ingredients) for other in rest for r in self.by_item[other])

    @staticmethod
    def _depth_of(recipe: Recipe, depth: Mapping[str, int]) -> float:
        return 1 + max((depth.get(name, math.inf) for name, _ in recipe.ingredients), default=0)


@functools.lru_cache(maxsize=4)
def load_book(folder: Path) -> Book:
    """The recipes of a folder with `recipes.json` and `items.json`.

    Raises:
        UserError: they are not there, or are not what they should be.
    """
    try:
        names = {item["id"]: item["name"].replace("_", " ") for item in json.loads((folder / "items.json").read_text(encoding="utf-8"))}
        made = json.loads((folder / "recipes.json").read_text(encoding="utf-8"))
        return Book([_recipe(each, names) for recipes in made.values() for each in recipes])
    except FileNotFoundError as error:
        raise UserError(f"textcraft has no recipes at {folder}; agentprm env fetch textcraft brings them") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} does not hold recipes as minecraft-data has them ({type(error).__name__}: {error})") from error


def _recipe(found: dict, names: dict[int, str]) -> Recipe:
    cells = found["ingredients"] if "ingredients" in found else [cell for row in found["inShape"] for cell in row]
    used = Counter(names[cell] for cell in cells if cell is not None)
    return Recipe(names[found["result"]["id"]], int(found["result"]["count"]), tuple(sorted(used.items())))
