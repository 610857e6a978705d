"""python -m openrlhf_agentprm.cli.train_dpo: the host's DPO, which also takes pairs of an episode store (--data.dataset, --data.pairs)."""

from __future__ import annotations

from collections.abc import Sequence

from .boundary import run_command


def main(argv: Sequence[str]) -> int:
    from ..host.dpo import check_pairs
    from ..host.launch import check_flags, run_host

    check_pairs(check_flags("train_dpo", argv))
    run_host("train_dpo", argv)
    return 0


if __name__ == "__main__":
    run_command(main)
