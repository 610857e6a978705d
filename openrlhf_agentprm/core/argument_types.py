"""What flags take, as argparse types: numbers within bounds, JSON objects."""

from __future__ import annotations

import argparse
import json
from typing import Any


def json_object(text: str) -> dict[str, Any]:
    """argparse type: a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}); write it as '{{\"key\": value}}'") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("a JSON object is wanted, such as '{\"declare\": true}'")
    return value


def positive_int(text: str) -> int:
    """argparse type: a whole number of 1 or more."""
    return _at_least(1, int(text))


def non_negative_int(text: str) -> int:
    """argparse type: a whole number of 0 or more."""
    return _at_least(0, int(text))


def _at_least(least: int, value: int) -> int:
    if value < least:
        raise argparse.ArgumentTypeError(f"{least} or more is allowed")
    return value


def seed(text: str) -> int:
    """argparse type: a whole number that generators take, NumPy's too."""
    return _within(0, int(text), 2**32 - 1)


def iteration(text: str) -> int:
    """argparse type: a whole number that the store takes."""
    return _within(0, int(text), 2**31 - 1)


def _within(least: int, value: int, most: int) -> int:
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{least} to {most} is allowed")
    return value


def temperature(text: str) -> float:
    """argparse type: what vLLM samples at; 0 is greedy."""
    value = float(text)
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError("0 to 2 is allowed")
    return value


def top_p(text: str) -> float:
    """argparse type: a share of the probability that tokens are sampled from."""
    return _above_0(float(text), 1)


def non_negative_float(text: str) -> float:
    """argparse type: a number of 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("a number of 0 or more is allowed")
    return value


def seconds(text: str) -> float:
    """argparse type: a time limit; the operating system takes no wait of more than some weeks."""
    return _above_0(float(text), 1_000_000)


def cpus(text: str) -> float:
    """argparse type: CPUs to reserve; Ray takes shares of one."""
    return _above_0(float(text), 10_000)


def gibibytes(text: str) -> float:
    """argparse type: an amount of memory."""
    return _above_0(float(text), 100_000)


def _above_0(value: float, most: int) -> float:
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"more than 0 is allowed, and at most {most}")
    return value
