"""agentprm: run recipes, look at episodes and environments, ask what is installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from ..core.errors import UserError, did_you_mean
from .boundary import run_command

COMMANDS = {
    "run": "run a recipe, resumable",
    "doctor": "what is installed and active, what is missing and the line that mends it",
    "list": "environments, labels, losses, advantages, reward models, recipes, patches",
    "env": "check an environment, or play it",
    "episodes": "what was collected: stats, show, export, copy, import",
    "serve": "a process reward model's scores over HTTP",
    "export": "a checkpoint for transformers and vLLM, with a model card",
    "report": "one self-contained HTML file of a run",
}
_MODULES = {
    "collect": "play episodes into a store",
    "rationalise": "a thought before each action, written by a model",
    "tiny_policy": "a tiny policy from scratch",
    "train_sft": "supervised warm start (deepspeed --module)",
    "label": "labels that need the whole store",
    "train_prm": "train a process reward model (deepspeed --module)",
    "ensemble": "several process reward models as one",
    "train_ppo_ray": "PPO on Ray, the host's command line and ours",
    "train_dpo": "DPO on pairs that a PRM ranked (deepspeed --module)",
    "select": "which policy the next iteration starts from, and the best on validation",
    "evaluate": "what PRMs know, best-of-N",
    "search": "greedy by Q, beams, best-of-N, look-ahead, MCTS",
}


def usage() -> str:
    lines = ["usage: agentprm COMMAND …", "", "commands:"]
    lines += [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    lines += ["", "stages, each usable alone as python -m openrlhf_agentprm.cli.NAME:"]
    lines += [f"  {name:<14} {text}" for name, text in _MODULES.items()]
    lines += ["", "every command takes --help, and --debug for stack traces"]
    return "\n".join(lines)


def dispatch(argv: Sequence[str]) -> int | None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(__version__)
        return 0
    name = argv[0]
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}{did_you_mean(name, COMMANDS)} (agentprm --help lists them)")
    module = import_module(f".{'list_' if name == 'list' else name}", __package__)
    return module.main(list(argv[1:]))


def main() -> None:
    run_command(dispatch, sys.argv[1:])


if __name__ == "__main__":
    main()
