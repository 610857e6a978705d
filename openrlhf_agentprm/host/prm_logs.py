"""Figures of a PRM's training for Weights & Biases or TensorBoard, by the host's flags and under the host's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TrainingLog:
    """`train/…` every `--logger.logging_steps` steps and `eval/…` whenever it is evaluated: to Weights & Biases where a key is given, else to
    TensorBoard where a folder is, else nowhere.

    Args:
        args: nested flags.
        chief: whether this process writes; one of all does.
    """

    def __init__(self, args: Any, chief: bool) -> None:
        flags = args.logger
        self.every = max(1, flags.logging_steps)
        self._wandb = _wandb(args) if chief and flags.wandb.key else None
        self._board: Any = None
        if chief and self._wandb is None and flags.tensorboard_dir:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(log_dir=str(Path(flags.tensorboard_dir, flags.wandb.run_name)))

    def row(self, row: Mapping[str, Any]) -> None:
        """A step of the history."""
        step = row["step"]
        held_out = {f"eval/{name.removeprefix('eval_')}": value for name, value in row.items() if name.startswith("eval_")}
        trained = {f"train/{name}": value for name, value in row.items() if name != "step" and not name.startswith("eval_")}
        for figures, axis in ((held_out, "eval"), (trained if step % self.every == 0 else {}, "train")):
            if figures and self._wandb is not None:
                self._wandb.log({**figures, f"{axis}/global_step": step})
            elif self._board is not None:
                for name, value in figures.items():
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._wandb is not None:
            self._wandb.finish()
        if self._board is not None:
            self._board.close()


def _wandb(args: Any) -> Any:
    """Weights & Biases, a run begun; it is told the flags but for the logger's, which hold the key."""
    import wandb

    flags = args.logger.wandb
    if not wandb.api.api_key:
        wandb.login(key=flags.key)
    told = {name: value for name, value in vars(args).items() if name != "logger"}
    wandb.init(entity=flags.org, project=flags.project, group=flags.group, name=flags.run_name, config=told, reinit=True)
    for axis in ("train", "eval"):
        wandb.define_metric(f"{axis}/global_step")
        wandb.define_metric(f"{axis}/*", step_metric=f"{axis}/global_step", step_sync=True)
    return wandb
