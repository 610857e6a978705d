"""Chains of sums with a written answer: an environment of one turn, whose steps are the lines of the response.

    observation   3 + 4 - 2 = ?
    action        3 + 4 = 7;
                  7 - 2 = 5

The last number is the answer, graded by rule; it needs nothing that is not here. Every right partial result stays between 0 and `largest`, so a
question is the path of its partial results v_0, v_1, …: any other number may follow, and there are (L + 1)·L^(n−1) questions of n terms for
L = `largest`. They are numbered, and a split is a part of the numbers: no question is in two splits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from ..core.errors import UserError
from .base import NumberedTasks, task_of

INSTRUCTION = "Work out the sum from left to right, one operation a line, with a semicolon between lines. The last number is the answer."
_CHAIN = re.compile(r"\d+([+-]\d+)+")


class ArithmeticEnv(gymnasium.Env[str, str]):
    """One question an episode, answered in one response; the reward is 1 if its last number is right.

    Args:
        terms: numbers in a question, one more than the steps of its answer.
        largest: of all numbers and right partial results.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    observation_space = gymnasium.spaces.Text(max_length=10_000)
    action_space = gymnasium.spaces.Text(max_length=100_000)

    def __init__(self, terms: int = 5, largest: int = 9) -> None:
        problems = []
        if not isinstance(terms, int) or not 2 <= terms <= 100:
            problems.append(f"terms is {terms!r}; wanted a whole number from 2 to 100")
        if not isinstance(largest, int) or largest < 2:
            problems.append(f"largest is {largest!r}; wanted a whole number of 2 or more")
        if problems:
            raise UserError(problems)
        self.terms = terms
        self.largest = largest
        self._numbers: list[int] | None = None

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = task_of(self, seed, options)
        if not _CHAIN.fullmatch(task_id):
            raise UserError(f"arithmetic task {task_id!r} is no chain of sums, such as '3+4-2'")
        self._numbers = [int(n) for n in re.findall(r"-?\d+", task_id)]  # 3, 4, −2
        question = task_id.replace("+", " + ").replace("-", " - ")
        return f"{question} = ?", {"instruction": INSTRUCTION, "valid_action": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._numbers is None:
            raise RuntimeError("step() without a running episode; call reset() first")
        answer = last_number(action)
        success = answer == sum(self._numbers)
        self._numbers = None
        return "", float(success), True, False, {"valid_action": answer is not None, "success": success}

    # --- abilities ---

    def tasks(self, split: str) -> Sequence[str]:
        return _Questions(split, self.terms, self.largest)

    def expert_action(self) -> str:
        return self._written(lambda right: right)

    def demonstrator(self, name: str, *, noise: float, seed: int) -> Callable[[], str]:
        """`slips`: each operation comes out wrong with the probability `noise`, and what follows goes on from the wrong result."""
        if name != "slips":
            raise UserError(f"arithmetic has no demonstrator {name!r} (known: expert, slips)")
        rng = random.Random(seed)
        wrong = lambda right: rng.choice([n for n in range(self.largest + 1) if n != right])  # noqa: E731
        return lambda: self._written(lambda right: wrong(right) if rng.random() < noise else right)

    def _written(self, result: Callable[[int], int]) -> str:
        """A response, each operation's result passed through `result`."""
        assert self._numbers is not None
        value, lines = self._numbers[0], []
        for number in self._numbers[1:]:
            came = result(value + number)
            lines.append(f"{value} {'+' if number >= 0 else '-'} {abs(number)} = {came}")
            value = came
        return ";\n".join(lines)


def last_number(text: str) -> int | None:
    """The last number of a text; digits that a word-level tokenizer writes apart are one, and a minus behind a number is no sign.

    >>> last_number("1 0 + 2 = 1 2;"), last_number("3 - 5 = - 2"), last_number("no idea")
    (12, -2, None)
    """
    close = re.sub(r"(?<=\d) +(?=\d)| +(?=-)|(?<=-) +", "", text)
    found = re.findall(r"(?:(?<!\d)-)?\d+", close)
    return int(found[-1]) if found else None


class _Questions(NumberedTasks):
    """The questions of a split, shuffled."""

    def __init__(self, split: str, terms: int, largest: int) -> None:
        super().__init__((largest + 1) * largest ** (terms - 1), split)
        self._terms, self._largest = terms, largest

    def task(self, index: int) -> str:
        number = self.number(index)
        number, value = divmod(number, self._largest + 1)
        text = str(value)
        for _ in range(self._terms - 1):
            number, step = divmod(number, self._largest)
            following = step if step < value else step + 1  # any but the same
            text += f"{following - value:+d}"
            value = following
        return text
