"""A resumed PPO run continues its policy and its critic from the same step."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def level_checkpoints(args: Any) -> None:
    """Where a kill came between the policy's checkpoint of a step and the critic's, let both begin at the older one, which both have.

    The host saves the two side by side and resumes each from what its file `latest` names. The newer checkpoint stays until it is written again.
    """
    if not args.ckpt.load_enable or not args.critic.model_name_or_path:
        return
    latest = [Path(args.ckpt.path) / part / "latest" for part in ("_actor", "_critic")]
    if not all(file.is_file() for file in latest):
        return
    tags = [file.read_text().strip() for file in latest]
    older = min(tags, key=_step)
    if _step(tags[0]) == _step(tags[1]) or not all((file.parent / older).is_dir() for file in latest):
        return
    for file, tag in zip(latest, tags, strict=True):
        if tag != older:
            half = file.with_suffix(".tmp")
            half.write_text(older)
            os.replace(half, file)
    logger.warning("the last run ended between two checkpoints, %s and %s, of policy and critic; both go on from %s", *tags, older)


def _step(tag: str) -> int:
    return int(re.sub(r"\D", "", tag) or 0)
