"""A resumed PPO run continues its policy and its critic from one step, wherever the last run ended."""

from __future__ import annotations

import itertools
import logging
import os
import re
from pathlib import Path
from typing import Any

from ..core.errors import UserError

logger = logging.getLogger(__name__)


def level_checkpoints(args: Any) -> None:
    """Let policy and critic begin at the newest checkpoint that both have finished.

    The host saves the two side by side, gives up old checkpoints before it writes a new one, and resumes each part from what its file `latest`
    names. A kill in between leaves two steps, or a name whose folder is gone. Newer checkpoints stay until they are written again. Where the
    policy has finished none, what is there is moved aside and the run begins anew.

    Raises:
        UserError: both have finished checkpoints, but none of the same step.
    """
    if not args.ckpt.load_enable:
        return
    finished = _finished_by_part(args)
    if not finished.get(_actor(args)):
        _move_aside(list(finished))
        return
    tag = newest_checkpoint(args)
    if tag is None:
        raise UserError(_nothing_in_common(finished))
    stale = {part: found for part in finished if (found := _latest(part)) != tag}
    for part in stale:
        half = part / "latest.tmp"
        half.write_text(tag)
        os.replace(half, part / "latest")
    for part in finished:
        os.utime(part / tag)  # the host makes room by giving up the oldest, which is to be the newer one that is no longer wanted
    if stale:
        said = ", ".join(f"{part.name} {found or 'nothing'}" for part, found in stale.items())
        logger.warning("the last run ended while it saved (latest: %s); every part goes on from %s", said, tag)


def newest_checkpoint(args: Any) -> str | None:
    """The tag that a resumed run would go on from; None where this node sees no finished checkpoint of all parts."""
    finished = _finished_by_part(args)
    if _actor(args) not in finished:
        return None
    return max(set.intersection(*finished.values()), key=_age, default=None)


def _actor(args: Any) -> Path:
    return Path(args.ckpt.path) / "_actor"


def _finished_by_part(args: Any) -> dict[Path, set[str]]:
    parts = [_actor(args), *([Path(args.ckpt.path) / "_critic"] if args.critic.model_name_or_path else [])]
    return {part: _finished(part) for part in parts if part.is_dir()}


def _finished(part: Path) -> set[str]:
    """Tags that were saved whole: the one that `latest` names, and older ones with the metric that the host writes last.

    What is newer than `latest` may be half a checkpoint: one of a run that began again at an older step is written over in place.
    """
    latest = _latest(part)
    tags = [folder.name for folder in part.iterdir() if folder.is_dir()]
    whole = [tag for tag in tags if tag == latest or (part / tag / "metric.json").is_file()]
    return {tag for tag in whole if not latest or _age(tag) <= _age(latest)}


def _latest(part: Path) -> str:
    """What the file says; empty where it is missing, or was cut off."""
    file = part / "latest"
    return file.read_text().strip() if file.is_file() else ""


def _age(tag: str) -> tuple[int, bool]:
    """`global_stepN`, and behind it `best_global_stepN`, which is saved after the step's evaluation."""
    return int(re.sub(r"\D", "", tag) or 0), tag.startswith("best")


def _move_aside(parts: list[Path]) -> None:
    for part in parts:
        names = (part.with_name(f"{part.name}.unfinished{number or ''}") for number in itertools.count())
        aside = next(name for name in names if not name.exists())
        part.rename(aside)
        logger.warning("%s has no finished checkpoint to go on from: the run begins anew, and %s is now %s", part.parent, part.name, aside)


def _nothing_in_common(finished: dict[Path, set[str]]) -> str:
    has = "; ".join(f"{part} has {', '.join(sorted(tags, key=_age)) or 'none'}" for part, tags in finished.items())
    return (
        f"--ckpt.load_enable: policy and critic have no finished checkpoint of the same step ({has}); move the critic's folder away to go on "
        "with the policy's newest and a critic that begins anew, or name another --ckpt.path to begin both anew. More of the last steps are "
        "kept with a higher --ckpt.max_num"
    )
