"""What a pool and its environment workers send each other: a JSON object a line. A step may take a quarter of a millisecond, so this is msgspec."""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


def encode(message: dict[str, Any]) -> bytes:
    """One line.

    Raises:
        TypeError, ValueError: the message has what JSON cannot say.
    """
    return _encode(message) + b"\n"
