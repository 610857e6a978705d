"""Reward models before they are loaded: whether they are what their name says, and what they tell of themselves.

An entry of the registry may have `check(path, policy) -> Record`; one without is checked by the scalar checkpoints that it is made of.
"""

from __future__ import annotations

from ..core.errors import UserError, collecting
from ..core.registry import REWARD_MODELS
from .ensemble import checkpoints_of
from .model import Record, check_checkpoint


def check_reward_model(name: str, path: str, policy: str | None = None) -> Record:
    """What the reward model tells of itself; reads configurations and tokenizers, and asks a remote scorer how it is.

    Args:
        name: registry entry.
        path: checkpoint, or the address of a remote one.
        policy: whose tokens it has to speak.

    Raises:
        UserError: all that is wrong with it.
    """
    check = getattr(REWARD_MODELS.load(name), "check", None)
    if check is not None:
        return check(path, policy)
    checkpoints = checkpoints_of(name, path)
    problems: list[str] = []
    for checkpoint in checkpoints:
        with collecting(problems):
            check_checkpoint(checkpoint, policy)
    if problems:
        raise UserError(problems)
    records = [Record.load(checkpoint) for checkpoint in checkpoints] or [Record.load(path)]
    return next((record for record in records if not record.value_trained), records[0])
