"""Reasoning Gym's data sets as environments of one question (needs `pip install 'openrlhf-agentprm[reasoning-gym]'`).

    --env.name reasoning_gym --env.args '{"dataset": "countdown", "options": {"max_numbers": 4}}'

A task is the seed of a set of one question, so that no two tasks share more than chance makes them share. The data set scores an answer from 0
to 1; some parse it as an expression (reasoning-gym 0.1.25), so a step can take as long as an expression does: leave it its time limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import UserError, did_you_mean
from .common import ANSWERS, NumberedEnv, OwnRandom, Step, answer_in, built, package

INSTALL = "pip install 'openrlhf-agentprm[reasoning-gym]'"
_TOLD = {
    "marked": "Put your answer between <answer> and </answer>.",
    "tags": "Put your answer between <answer> and </answer>.",
    "boxed": "Put your answer in \\boxed{}.",
    "whole": "Write the answer alone.",
}


class ReasoningGymEnv(NumberedEnv):
    r"""One question an episode; the reward is the score of the answer that ends it, the right one or the last.

    Args:
        dataset: name of a data set.
        options: its settings.
        answer: where the answer stands in a response: between `<answer>` and `</answer>` ("tags"), in `\boxed{}` ("boxed"), in the first of
            the two that is there ("marked"), or all of it ("whole"). The last one counts. A response without one is a wrong answer.
        tries: answers that may be given, each wrong one but the last answered with how many are left.
        graded: the outcome is the score; without it success, which is a score of 1.
        tasks_per_split: how many tasks each split lists.
    """

    def __init__(
        self,
        dataset: str,
        options: Mapping[str, Any] | None = None,
        answer: str = "marked",
        tries: int = 1,
        graded: bool = False,
        tasks_per_split: int = 10_000,
    ) -> None:
        problems = []
        if answer not in ANSWERS:
            problems.append(f"answer is {answer!r}{did_you_mean(str(answer), ANSWERS)} (allowed: {', '.join(ANSWERS)})")
        if not isinstance(tries, int) or tries < 1:
            problems.append(f"tries is {tries!r}; wanted a whole number of 1 or more")
        if taken := {"seed", "size"} & set(options or {}):
            problems.append(f"options has {', '.join(sorted(taken))}, which the task sets")
        if problems:
            raise UserError(problems)
        super().__init__(dataset, _TOLD[answer], graded, tasks_per_split)
        self.options = dict(options or {})
        self.answer = answer
        self.tries = tries
        self._left = 0
        self._random = OwnRandom()
        self._library = package("reasoning_gym", INSTALL, "reasoning_gym")
        known = self._library.factory.DATASETS
        if dataset not in known:
            raise UserError(f"reasoning_gym has no data set {dataset!r}{did_you_mean(dataset, known)} (known: {', '.join(sorted(known))})")
        self._data, self._entry = built(f"a question of {dataset} with the options {self.options}", lambda: self._ask(0))
        if isinstance(self._entry["answer"], str):  # some data sets have a check and no answer
            self.expert_action = self._own_answer

    def _ask(self, number: int) -> tuple[Any, dict[str, Any]]:
        with self._random(seed=number):
            data = self._library.create_dataset(self.name, seed=number, size=1, **self.options)
            return data, data[0]

    def _begin(self, number: int) -> str:
        self._data, self._entry = self._ask(number)
        self._left = self.tries
        return str(self._entry["question"])

    def _act(self, action: str) -> Step:
        self._left -= 1
        score = self._score(answer_in(action, self.answer))
        info = {"valid_action": score is not None, "success": score is not None and score >= 1.0}
        if info["success"] or not self._left:
            return "", score or 0.0, True, False, info
        wrong = "That is not right." if info["valid_action"] else f"No answer was found. {self.instruction}"
        return f"{wrong} Tries left: {self._left}.", 0.0, False, False, info

    def _score(self, given: str | None) -> float | None:
        """From 0 to 1; None where there is no answer, or none that the data set can read."""
        if given is None:
            return None
        try:
            with self._random():
                return float(self._data.score_answer(given, self._entry))
        except Exception:  # some data sets raise what their parser raises
            return None

    # --- abilities ---

    def _own_answer(self) -> str:
        """The entry's own answer, as a response."""
        own = self._entry["answer"]
        return {"boxed": f"\\boxed{{{own}}}", "whole": own}.get(self.answer, f"<answer>{own}</answer>")
