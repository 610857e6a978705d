"""Early stop: training ends when held-out figures stay behind their best, and goes back to the weights that gave it."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..core.errors import UserError
from ..prm.record import Record

logger = logging.getLogger(__name__)
_WHOLE = "whole"  # a file in a state's folder: every process has written its part
METRICS = {"brier_last": -1, "auc_last": 1, "auc_first": 1, "auc_last_within_task": 1}
"""What `--eval.metric` may name: figures of the held-out episodes, and 1 where more is better."""


def best_of(history: Sequence[dict[str, Any]], metric: str) -> tuple[int, int]:
    """(step of the best evaluation, the earliest of equals; evaluations since), or (0, 0) before the first; rows marked `lost` are passed over."""
    found = [(METRICS[metric] * row[f"eval_{metric}"], row["step"]) for row in history if f"eval_{metric}" in row and not row.get("lost")]
    if not found:
        return 0, 0
    place = max(range(len(found)), key=lambda i: (found[i][0], -i))
    return found[place][1], len(found) - 1 - place


class BestWeights:
    """Keeps the engine's state of the best evaluation in a folder beside the finished checkpoint. Off without `--eval.patience`.

    Which evaluation is best follows from the history alone, which every rank has, and a resumed training too.
    """

    def __init__(self, strategy: Any, engine: Any, args: Any) -> None:
        self.strategy = strategy
        self.engine = engine
        self.ckpt = args.ckpt
        self.patience = args.eval.patience
        self.metric = args.eval.metric
        self.folder = Path(args.ckpt.output_dir) / ".best"

    def keep(self, history: Sequence[dict[str, Any]]) -> None:
        """Save the weights if the last row is the best evaluation so far.

        Raises:
            UserError: the figure does not exist on these episodes.
        """
        row = history[-1]
        if self.patience is None or not any(name.startswith("eval_") for name in row):
            return
        if math.isnan(row.get(f"eval_{self.metric}", math.nan)):  # a kind whose scores are no probabilities has no Brier score
            raise UserError(
                f"--eval.metric {self.metric} has no value on the held-out episodes (AUC wants successes and failures, within a task both "
                "of one task; a Brier score wants probabilities); hold out more with --eval.share, or take another --eval.metric"
            )
        row["best"] = best_of(history, self.metric)[0] == row["step"]
        if row["best"]:  # the host keeps one state whose name begins so
            tag = f"best_step{row['step']}"
            whole = self.folder / tag / _WHOLE
            whole.unlink(missing_ok=True)
            self.strategy.save_ckpt(self.engine, str(self.folder), tag, self.ckpt.max_num, self.ckpt.max_mem, {}, save_latest=False)
            if _together():
                dist.barrier()
            whole.touch()

    def resume(self, history: Sequence[dict[str, Any]]) -> bool:
        """False where this training has finished before, so that nothing is left to do.

        Raises:
            UserError: it has, by another patience or metric, and would only put later weights in the place of its best ones.
        """
        as_before = _of_rank_0(self._finished_as_before(history))
        if as_before is False:
            raise UserError(
                f"this training has finished: {self.folder.parent} has the weights of its best evaluation, step "
                f"{best_of(history, self.metric)[0]}. To train on from them give that folder as --model.model_name_or_path and another "
                "--ckpt.output_dir; to train anew leave out --ckpt.load_enable"
            )
        if as_before:
            self.forget()  # what a kill left of it
            return False
        self.drop_lost(history)
        return True

    def _finished_as_before(self, history: Sequence[dict[str, Any]]) -> bool | None:
        """None where the finished checkpoint is not there or another training's; else whether its patience and metric were these."""
        folder, (step, _) = self.folder.parent, best_of(history, self.metric)
        if self.patience is None or self.folder.is_dir() or not (folder / "history.jsonl").is_file():
            return None
        finished = [_written(json.loads(line)) for line in (folder / "history.jsonl").read_text().splitlines()]
        if not any(row["step"] == step and _written(row) <= other for row in history for other in finished):
            return None
        told = Record.load(folder).options
        return (told.get("patience"), told.get("metric")) == (self.patience, self.metric)

    def drop_lost(self, history: Sequence[dict[str, Any]]) -> None:
        """Mark the evaluations so far as lost if the best one's weights are gone, so that training looks for the best of those to come.

        They are where a better one that came behind the state that is resumed took their place, and where the training was killed as they were
        written.
        """
        step, _ = best_of(history, self.metric)
        if self.patience is None or not step or _on_all((self.folder / f"best_step{step}" / _WHOLE).is_file()):
            return
        logger.warning("the weights of step %d, the best so far, are not in %s; the evaluations up to here do not count", step, self.folder)
        for row in history:
            if any(name.startswith("eval_") for name in row):
                row["lost"] = True

    def patience_is_over(self, history: Sequence[dict[str, Any]]) -> bool:
        return self.patience is not None and best_of(history, self.metric)[1] >= self.patience

    def restore(self, history: Sequence[dict[str, Any]]) -> None:
        """Go back to the best evaluation's weights, if a later step was trained; without them, the last ones stay."""
        if self.patience is None:
            return
        self.drop_lost(history)
        step, since = best_of(history, self.metric)
        if since:
            self.strategy.load_ckpt(self.engine, str(self.folder), tag=f"best_step{step}")

    def told(self, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the checkpoint's record says of it."""
        if self.patience is None:
            return {}
        return {"metric": self.metric, "patience": self.patience, "best_step": best_of(history, self.metric)[0], "steps": len(history)}

    def forget(self) -> None:
        """Remove the folder, at once: the finished checkpoint has those weights, and half a folder would be taken for lost ones."""
        if self.strategy.is_rank_0():
            gone = self.folder.with_name(".best.gone")
            shutil.rmtree(gone, ignore_errors=True)
            if self.folder.is_dir():
                shutil.rmtree(self.folder.rename(gone), ignore_errors=True)


def _written(row: dict[str, Any]) -> Set[tuple[str, str]]:
    """A row as it is in a file, where a figure that does not exist equals itself."""
    return {(name, json.dumps(value)) for name, value in row.items()}


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_rank_0(found: bool | None) -> bool | None:
    """What rank 0 found, on every process: the finished checkpoint is on its disk alone."""
    if not _together():
        return found
    told = [found]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def _on_all(there: bool) -> bool:
    """Whether it is so on every process: each node may have a disk of its own."""
    if not _together():
        return there
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, there)
    return all(found)
