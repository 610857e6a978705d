"""Errors that a user can mend, told all at once."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """Something the user can mend. Command-line tools print every problem and exit with code 2.

    Args:
        problems: one text or several; each says what was wrong, what came, what is allowed and what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[list[str]]]:
        return type(self), (self.problems,)


class NothingToLearn(UserError):
    """Episodes that an objective can learn nothing from, such as successes alone where two outcomes are compared."""


class StoppedError(RuntimeError):
    """A run had to end and no setting is at fault: says why, what is kept and how to go on. Command-line tools print it alone; exit code 1."""


@contextlib.contextmanager
def collecting(problems: list[str]) -> Iterator[None]:
    """Add a `UserError`'s problems to a list in place of raising it, so that all are told at once.

    >>> found = []
    >>> with collecting(found):
    ...     raise UserError("no such folder")
    >>> found
    ['no such folder']
    """
    try:
        yield
    except UserError as error:
        problems += error.problems


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest allowed word, or an empty text.

    >>> did_you_mean("turn_gea", ["turn_gae", "token_gae"])
    "; did you mean 'turn_gae'?"
    """
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
