"""python -m openrlhf_agentprm.cli.train_sft: the host's SFT, which also takes an episode store as --data.dataset."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import UserError
from .boundary import run_command


def main(argv: Sequence[str]) -> int:
    from ..host.launch import check_flags, run_host
    from ..host.sft import check_datasets

    flags = check_flags("train_sft", argv)
    if getattr(flags, "data.selection") and getattr(flags, "model.pretrain_mode_enable"):
        raise UserError("--model.pretrain_mode_enable learns every token, and --data.selection says which turns; give one of them")
    if datasets := getattr(flags, "data.dataset"):
        check_datasets(datasets, getattr(flags, "data.selection"))
    run_host("train_sft", argv)
    return 0


if __name__ == "__main__":
    run_command(main)
