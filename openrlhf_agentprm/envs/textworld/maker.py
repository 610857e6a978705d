"""Make one game, in a process of its own.

    python -m openrlhf_agentprm.envs.textworld.maker LEVEL SEED PART WALKTHROUGH FOLDER

TextWorld's generator goes through sets, so that a seed makes another game under another hash seed: `make_game` starts this module with hash seed 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ...core.errors import UserError
from .levels import Level

GAME = "game.z8"
_PARTS = {"train": "train", "validation": "valid", "test": "test"}  # TextWorld's names of splits
_ATTEMPTS = 20


def make_game(level: Level, seed: int, split: str, walkthrough: bool, folder: Path) -> None:
    """Write `game.z8` and `game.json` into a folder.

    Raises:
        UserError: TextWorld makes no such game.
    """
    line = [sys.executable, "-m", __name__, str(level), str(seed), split, str(int(walkthrough)), str(folder)]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(line, env=env, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode or not (folder / GAME).is_file():
        raise UserError(f"TextWorld made no game of level {str(level)!r} with seed {seed}: {done.stderr.strip()[-500:]}")


def main(level_name: str, seed: str, split: str, walkthrough: str, folder: str) -> None:
    import textworld
    from textworld.challenges import CHALLENGES
    from textworld.generator import QuestGenerationError, compile_game, make_game

    level = Level.parse(level_name)
    for attempt in range(_ATTEMPTS):
        options = textworld.GameOptions()
        options.seeds = (int(seed) + attempt * 1_000_003) % 2**32
        options.path = os.path.join(folder, GAME)
        options.grammar.only_last_action = walkthrough == "0"
        settings = level.settings
        try:
            if level.kind == "custom":
                options.nb_rooms, options.nb_objects, options.quest_length = (
                    int(settings[name]) for name in ("rooms", "objects", "length")
                )
                game = make_game(options)
            else:
                more = {"recipe_seed": options.seeds["quest"] + 1, "split": _PARTS[split], "test": split == "test"}
                game = CHALLENGES[f"tw-{level.kind}"][1](settings | more, options)
            break
        except QuestGenerationError:  # some maps have no quest of that length
            if attempt == _ATTEMPTS - 1:
                raise
    compile_game(game, options)
    Path(folder, GAME).with_suffix(".ni").unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
