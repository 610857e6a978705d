"""Where this package keeps, for one user of one machine, what it can make or bring again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """`$XDG_CACHE_HOME/openrlhf-agentprm/PARTS`, by default in `~/.cache`; it need not exist."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base.joinpath("openrlhf-agentprm", *parts)
