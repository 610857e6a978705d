"""python -m openrlhf_agentprm.cli.train_ppo_ray: the host's PPO with environments, process reward models and turn-level advantages.

Takes every flag of the host. With none of ours it computes what the host computes.
"""

from __future__ import annotations

from collections.abc import Sequence

from .boundary import run_command


def main(argv: Sequence[str]) -> int:
    from ..host.launch import check_flags, run_host

    check_flags("train_ppo_ray", argv)
    run_host("train_ppo_ray", argv)
    return 0


if __name__ == "__main__":
    run_command(main)
