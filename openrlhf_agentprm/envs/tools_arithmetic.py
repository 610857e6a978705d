"""A purchase worked out by tools: look prices up, multiply, add, hand in the answer.

    observation   What do 3 lamps and 2 pens cost together?
    action        {"name": "lookup", "arguments": {"item": "lamp"}}
    observation   17

Prices are drawn from the task and the seed, so that they have to be looked up. A task is a list of items with how many of each; tasks are numbered
and a split is a part of the numbers. An action is a call as JSON; whatever else is answered by a message and changes nothing.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium

from ..core.errors import UserError
from .base import NumberedTasks, task_of

INSTRUCTION = (
    "Answer the question by calling one tool at a time. Look the price of each item up, work with the calculator, and hand the total in with "
    "submit_answer, which ends the task."
)
ITEMS = ("apple", "book", "brush", "candle", "chair", "clock", "cup", "hammer", "kettle", "lamp", "mirror", "pen")
_COUNTS = (2, 9)
_LARGEST = 10**12  # of a number that a tool takes
_TASK = re.compile(r"\d+ [a-z]+( \+ \d+ [a-z]+)*")
Call = tuple[str, tuple[Any, ...]]  # a tool's name and its arguments in order


def _number(what: str) -> dict[str, str]:
    return {"type": "integer", "description": what}


_TOOLS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "lookup": ("The price of one piece of an item.", {"item": {"type": "string", "description": "The item, in the singular."}}),
    "add": ("The sum of two numbers.", {"a": _number("A number."), "b": _number("Another number.")}),
    "multiply": ("The product of two numbers.", {"a": _number("A number."), "b": _number("Another number.")}),
    "submit_answer": ("Hand in the answer to the question. This ends the task.", {"value": _number("The answer.")}),
}


class ToolsArithmeticEnv(gymnasium.Env[str, str]):
    """One question an episode; the reward is 1 if the number that is handed in is right.

    Args:
        items: different items in a question; its shortest solution has three calls an item.
        largest: of the prices.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=10_000)
    action_space = gymnasium.spaces.Text(max_length=100_000)

    def __init__(self, items: int = 2, largest: int = 50) -> None:
        problems = []
        if not isinstance(items, int) or not 1 <= items <= 6:
            problems.append(f"items is {items!r}; wanted a whole number from 1 to 6")
        if not isinstance(largest, int) or not 2 <= largest <= 10_000:
            problems.append(f"largest is {largest!r}; wanted a whole number from 2 to 10000")
        if problems:
            raise UserError(problems)
        self.items = items
        self.largest = largest
        self._wanted: list[tuple[int, str]] | None = None
        self._prices: dict[str, int] = {}
        self._done: list[Call] = []

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        parts = [part.split(" ") for part in task_id.split(" + ")] if _TASK.fullmatch(task_id) else []
        if not parts or any(item not in ITEMS or len(count) > 3 for count, item in parts) or len({item for _, item in parts}) < len(parts):
            raise UserError(
                f"tools_arithmetic task {task_id!r} is no list of items such as {self.tasks('train')[0]!r} (items: {', '.join(ITEMS)})"
            )
        rng = random.Random(f"{task_id} {seed or 0}")
        self._wanted = [(int(count), item) for count, item in parts]
        self._prices = {item: rng.randint(2, self.largest) for item in ITEMS}
        self._done = []
        named = [f"{count} {_plural(item) if count != 1 else item}" for count, item in self._wanted]
        listed = " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
        return f"What do {listed} cost{' together' if len(named) > 1 else ''}?", {"instruction": INSTRUCTION, "valid_action": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._wanted is None:
            raise RuntimeError("step() without a running episode; call reset() first")
        call, problem = _read(action)
        if call is None:
            return problem, 0.0, False, False, {"valid_action": False, "success": False}
        told, valid = self._do(call)
        if call[0] != "submit_answer":
            return told, 0.0, False, False, {"valid_action": valid, "success": False}
        success = call[1][0] == self._answer()
        self._wanted = None
        return told, float(success), True, False, {"valid_action": True, "success": success}

    def _do(self, call: Call) -> tuple[str, bool]:
        """(what is shown, whether it was carried out)."""
        name, given = call
        if name == "lookup" and given[0] not in self._prices:
            return f"There is no item {_brief(given[0])}. The items are {', '.join(ITEMS)}.", False
        if name == "submit_answer":
            return "Handed in.", True
        self._done.append(call)
        return str(self._value(call)), True

    def _answer(self) -> int:
        assert self._wanted is not None
        return sum(count * self._prices[item] for count, item in self._wanted)

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return _Purchases(split, self.items)

    def tools(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": about,
                    "parameters": {"type": "object", "properties": takes, "required": list(takes)},
                },
            }
            for name, (about, takes) in _TOOLS.items()
        ]

    def expert_action(self) -> str:
        """The first call of the plan that was not made."""
        done = {_unordered(call) for call in self._done}
        return next(written(call) for call in self._plan() if _unordered(call) not in done)

    def admissible_actions(self) -> list[str]:
        """Prices of the items, what the plan does with those that are known; and for mistakes, sums that lead nowhere and a price handed in."""
        assert self._wanted is not None
        calls = [call for call in self._plan() if call[0] == "lookup" or self._known(call)]
        seen = [(count, self._prices[item]) for count, item in self._wanted if ("lookup", (item,)) in self._done]
        calls += [("add", pair) for pair in seen] + [("submit_answer", pair[1:]) for pair in seen[-1:]]
        return list(dict.fromkeys(map(written, calls)))

    def _known(self, call: Call) -> bool:
        """Whether the numbers of a planned call have been told by now."""
        assert self._wanted is not None
        told = {count for count, _ in self._wanted} | {self._value(done) for done in self._done}
        return all(number in told for number in call[1])

    def _value(self, call: Call) -> int:
        name, given = call
        return self._prices[given[0]] if name == "lookup" else given[0] + given[1] if name == "add" else given[0] * given[1]

    def _plan(self) -> Iterator[Call]:
        """Every price, then every product, the sums from left to right, and the answer."""
        assert self._wanted is not None
        yield from (("lookup", (item,)) for _, item in self._wanted)
        yield from (("multiply", (count, self._prices[item])) for count, item in self._wanted)
        total, *rest = [count * self._prices[item] for count, item in self._wanted]
        for product in rest:
            yield "add", (total, product)
            total += product
        yield "submit_answer", (total,)

    def snapshot(self) -> object:
        return None if self._wanted is None else tuple(self._wanted), dict(self._prices), tuple(self._done)

    def restore(self, state: Any) -> None:
        wanted, prices, done = state
        self._wanted, self._prices, self._done = None if wanted is None else list(wanted), dict(prices), list(done)


def written(call: Call) -> str:
    """A call as the action that it is."""
    name, given = call
    return json.dumps({"name": name, "arguments": dict(zip(_TOOLS[name][1], given, strict=True))})


def _read(action: str) -> tuple[Call | None, str]:
    """(the call, what is wrong with it)."""
    known = ", ".join(f"{name}({', '.join(takes)})" for name, (_, takes) in _TOOLS.items())
    try:
        value = json.loads(action)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("arguments"), dict):
        return None, f'No tool was called. Call one of {known} as {{"name": …, "arguments": {{…}}}}.'
    name, arguments = value.get("name"), value["arguments"]
    if not isinstance(name, str) or name not in _TOOLS:
        return None, f"There is no tool {_brief(name)}. Call one of {known}."
    takes = _TOOLS[name][1]
    if set(arguments) != set(takes):
        given_names = _short(", ".join(map(repr, arguments)) or "nothing")
        return None, f"{name} takes {', '.join(takes)}; it was given {given_names}."
    given = []
    for key, about in takes.items():
        part = arguments[key]
        if about["type"] == "string" and not isinstance(part, str):
            return None, f"{name}: {key} is {_brief(part)}; wanted text."
        if about["type"] == "integer":
            whole = isinstance(part, float) and part.is_integer()
            if isinstance(part, bool) or not (isinstance(part, int) or whole) or abs(part) > _LARGEST:
                return None, f"{name}: {key} is {_brief(part)}; wanted a whole number."
            part = int(part)
        given.append(part)
    return (name, tuple(given)), ""


def _unordered(call: Call) -> Call:
    name, given = call
    return (name, tuple(sorted(given))) if name in ("add", "multiply") else call


def _plural(item: str) -> str:
    return item + ("es" if item.endswith("sh") else "s")


def _brief(value: object) -> str:
    return _short(json.dumps(value) if not isinstance(value, str) else repr(value))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


class _Purchases(NumberedTasks):
    """`3 lamp + 2 pen`: every choice of different items, in the order of their names, with every count."""

    def __init__(self, split: str, items: int) -> None:
        self._chosen = list(itertools.combinations(ITEMS, items))
        self._counts = _COUNTS[1] - _COUNTS[0] + 1
        super().__init__(len(self._chosen) * self._counts**items, split)

    def task(self, index: int) -> str:
        number, chosen = divmod(self.number(index), len(self._chosen))
        parts = []
        for item in self._chosen[chosen]:
            number, count = divmod(number, self._counts)
            parts.append(f"{count + _COUNTS[0]} {item}")
        return " + ".join(parts)
