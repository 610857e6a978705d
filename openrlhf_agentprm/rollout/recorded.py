"""Episodes that others recorded as text: AgentGym's trajectories, messages in OpenAI's format, the rollout folders of arXiv 2502.10325.

A reader turns a row into an `Episode` without tokens; `retell` gives it those of a tokenizer. What a row does not tell is asked for by a flag,
and a row that is not what it should be is named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..data.episode import Episode
from .recorded_rows import About, Row, RowError, agent_prm, agentgym, messages


def read_recorded(path: Path, kind: str, about: About) -> Iterator[tuple[str, Episode | RowError]]:
    """(where, an episode without tokens or what is wrong with the row), row by row.

    Raises:
        UserError: nothing can be read at `path`.
    """
    rows, reader = READERS[kind]
    samples: Counter[tuple[str, str]] = Counter()
    for where, row in rows(path):
        if isinstance(row, RowError):
            yield where, row
            continue
        try:
            episode = reader(row, where, about)
            yield where, replace(episode, sample=samples[episode.env, episode.task_id], episode_id="")
            samples[episode.env, episode.task_id] += 1
        except RowError as error:
            yield where, error


# --- rows of a file, files of a folder ---


def _json_rows(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    """A JSON list, or an object a line."""
    try:
        with path.open(encoding="utf-8") as file:
            if file.read(1) == "[":
                file.seek(0)
                for number, row in enumerate(json.load(file), 1):
                    yield f"row {number}", _an_object(row)
                return
            file.seek(0)
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", _object_of(line)
    except (OSError, ValueError) as error:  # of the whole file: not there, not UTF-8, a torn list
        raise UserError(f"{path} cannot be read: {error}") from error


def _json_files(folder: Path) -> Iterator[tuple[str, Row | RowError]]:
    """The folder's N.json, in the order of their numbers."""
    files = sorted(
        folder.glob("*.json"), key=lambda file: (not file.stem.isdigit(), int(file.stem) if file.stem.isdigit() else 0, file.stem)
    )
    if not files:
        raise UserError(f"{folder} is no folder with *.json files")
    for file in files:
        try:
            yield file.name, _object_of(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield file.name, RowError(str(error))


def _object_of(text: str) -> Row | RowError:
    try:
        return _an_object(json.loads(text))
    except (ValueError, RecursionError) as error:
        return RowError(f"it is not JSON ({error})")


def _an_object(row: Any) -> Row | RowError:
    return row if isinstance(row, dict) else RowError(f"it is {type(row).__name__}, not an object")


READERS: dict[str, tuple[Callable[[Path], Iterator[tuple[str, Row | RowError]]], Callable[[Row, str, About], Episode]]] = {
    "agentgym": (_json_rows, agentgym),
    "messages": (_json_rows, messages),
    "agent_prm": (_json_files, agent_prm),
}
