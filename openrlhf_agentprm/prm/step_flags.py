"""The flags `--prm.step_delimiter` and `--prm.step_delimiter_text`, apart from what they come to, which needs torch and tokenizers."""

from __future__ import annotations

import argparse
from typing import Any


def add_step_flags(parser: Any) -> None:
    """Add `--prm.step_delimiter` and `--prm.step_delimiter_text` to a parser or a group."""
    add = parser.add_argument
    add(
        "--prm.step_delimiter",
        type=token_sequence,
        nargs="+",
        default=None,
        help="steps inside a response become turns: token ids that end one, such as 271; several ids in a row with commas (198,198); none: "
        "whole responses (as the PRM or the sidecar was made)",
    )
    add("--prm.step_delimiter_text", default=None, help=r"the same by text, such as \n\n: every token of the tokenizer that ends with it")


def token_sequence(text: str) -> tuple[int, ...]:
    """argparse type: token ids divided by commas, or `none`."""
    if text == "none":
        return ()
    ids = tuple(int(part) for part in text.split(","))
    if min(ids) < 0:
        raise argparse.ArgumentTypeError("0 or more is allowed")
    return ids
