"""Where turns stand among tokens, written once.

An action spans tokens [start, end). With causal hidden states h: Q is read at h[end − 1], V at h[start − 1]; reading V at `start` would
leak the action's first token. The host's per-token tensors index the predicting position: entry i belongs to token i + 1, so a turn's
entries are [start − 1, end − 1). Legend: B episodes, K turns, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .episode import Episode

Span = tuple[int, int]


def spans_of(episode: Episode) -> list[Span]:
    return [(turn.action_start, turn.action_end) for turn in episode.turns]


def loss_mask(spans: Sequence[Span], length: int) -> torch.Tensor:
    """(T,) float: 1 at positions that predict an action token, as the host's SFT trainer reads it."""
    mask = torch.zeros(length)
    for start, end in spans:
        mask[start - 1 : end - 1] = 1
    return mask


def turn_numbers(spans: Sequence[Span], length: int) -> torch.Tensor:
    """(T − 1,) int64 over predicting positions: turn index + 1, and 0 where no action token is predicted.

    Counting from 1 lets zero-padding, the host's way to batch, mean "no turn".
    """
    numbers = torch.zeros(length, dtype=torch.long)
    for index, (start, end) in enumerate(spans):
        numbers[start - 1 : end - 1] = index + 1
    return numbers[: max(length - 1, 0)]


@dataclass
class TurnPositions:
    """Token indices at which the scores of a padded batch are read."""

    q_BK: torch.Tensor  # int64, end − 1
    v_BK: torch.Tensor  # int64, start − 1
    mask_BK: torch.Tensor  # bool

    def to(self, device: torch.device) -> TurnPositions:
        return TurnPositions(self.q_BK.to(device), self.v_BK.to(device), self.mask_BK.to(device))


def turn_positions(spans: Sequence[Sequence[Span]]) -> TurnPositions:
    """Positions for a batch; masked entries point at token 0, which always exists."""
    width = max(1, max((len(s) for s in spans), default=1))
    q_BK, v_BK = (torch.zeros(len(spans), width, dtype=torch.long) for _ in range(2))
    mask_BK = torch.zeros(len(spans), width, dtype=torch.bool)
    for row, episode_spans in enumerate(spans):
        for k, (start, end) in enumerate(episode_spans):
            q_BK[row, k], v_BK[row, k], mask_BK[row, k] = end - 1, start - 1, True
    return TurnPositions(q_BK, v_BK, mask_BK)


def spans_from_turn_numbers(numbers_BT: torch.Tensor) -> list[list[Span]]:
    """Invert `turn_numbers` for a batch over predicting positions: the token spans of every turn.

    >>> spans_from_turn_numbers(turn_numbers([(2, 4), (4, 5)], 6)[None])
    [[(2, 4), (4, 5)]]
    """
    result = []
    for numbers in numbers_BT.tolist():
        spans: dict[int, Span] = {}
        for position, number in enumerate(numbers):
            if number > 0:
                start, _ = spans.get(number, (position + 1, 0))
                spans[number] = (start, position + 2)
        result.append([spans[n] for n in sorted(spans)])
    return result
