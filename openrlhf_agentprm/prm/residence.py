"""Where a reward model's weights are: on its device, or in CPU memory while others have need of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def modules_of(reward_model: Any) -> Iterator[torch.nn.Module]:
    """The models that it holds, those of an ensemble's members among them; none where it is served elsewhere."""
    for value in vars(reward_model).values():
        if isinstance(value, torch.nn.Module):
            yield value
        elif isinstance(value, list | tuple):
            for member in value:
                if hasattr(member, "score"):
                    yield from modules_of(member)


def move(reward_model: Any, device: torch.device | str) -> None:
    """Have all its weights there; parameters stay the same objects, so that an optimizer keeps them."""
    for module in modules_of(reward_model):
        module.to(device)
