"""Where recipes lie."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def recipes_folder() -> Path:
    """Inside the installed package, or at the top of a source checkout."""
    inside = Path(str(resources.files("openrlhf_agentprm"))) / "recipes"
    return inside if inside.is_dir() else inside.parent.parent / "recipes"
