"""Run one of the host's command lines with our patches."""

from __future__ import annotations

import argparse
import os
import runpy
import socket
import sys
from collections.abc import Sequence

from ..core.arguments import problems_of
from ..core.errors import UserError
from .activate import activate
from .cpu import prepare_environment
from .parsers import host_parser


def check_flags(module: str, argv: Sequence[str]) -> argparse.Namespace:
    """The flags, by their dotted names; every problem with them is told before anything slow starts. `--help` prints and leaves."""
    parser = host_parser(module)
    parser.prog = f"python -m openrlhf_agentprm.cli.{module}"
    if problems := problems_of(parser, argv):
        raise UserError(problems)
    return parser.parse_args(list(argv))


def stand_alone() -> None:
    """torch.distributed's variables for a process that no launcher started: a world of one."""
    if any(name in os.environ for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")):
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def run_host(module: str, argv: Sequence[str]) -> None:
    """`python -m openrlhf.cli.<module> argv…`, patched, in this process."""
    prepare_environment(alone=not module.endswith("_ray"))
    if not module.endswith("_ray"):
        stand_alone()
    activate()
    sys.argv = [module, *argv]
    runpy.run_module(f"openrlhf.cli.{module}", run_name="__main__", alter_sys=True)
