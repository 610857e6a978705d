"""A fingerprint of a reward model: what scores alike has the same."""

from __future__ import annotations

from ...agents.digest import policy_digest
from . import is_remote
from .ensemble import checkpoints_of
from .remote import identity_of


def reward_model_digest(name: str, path: str) -> str:
    """Of the files of a reward model and of the checkpoints behind it; of a remote one its settings and the model that its server tells.

    Args:
        name: entry of the registry of reward models, or "auto".
    """
    if is_remote(name, path):
        return identity_of(path)
    return "+".join(map(policy_digest, dict.fromkeys([path, *checkpoints_of(name, path)])))
