"""agentprm run RECIPE: all stages of a recipe, resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..core.arguments import Parser, parse
from .boundary import run_command

COMMANDS = (
    *("tiny_policy", "collect", "rationalise", "train_sft", "label", "train_prm", "ensemble", "train_ppo_ray", "train_dpo", "select"),
    *("evaluate", "search", "report"),
)
_HOSTS = ("train_sft", "train_ppo_ray", "train_dpo")


def parsers() -> dict[str, Callable[[], argparse.ArgumentParser]]:
    """Each stage command's parser, built when it is asked for."""

    def of(name: str) -> Callable[[], argparse.ArgumentParser]:
        if name in _HOSTS:
            return lambda: import_module("openrlhf_agentprm.host.parsers").host_parser(name)
        return lambda: import_module(f"openrlhf_agentprm.cli.{name}").build_parser()

    return {name: of(name) for name in COMMANDS}


def build_parser() -> Parser:
    parser = Parser(prog="agentprm run", description="Run a recipe's stages in order. The same command continues an interrupted run.")
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe of ours (agentprm list recipes)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="seed, run_dir, vars.NAME, STAGE.FLAG or STAGE-2.FLAG"
    )
    parser.add_argument("--from", dest="first", default=None, metavar="STAGE", help="run again from this stage on")
    parser.add_argument("--until", dest="last", default=None, metavar="STAGE", help="stop behind this stage")
    parser.add_argument("--dry-run", action="store_true", help="print the launch lines and run nothing")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parse(build_parser(), argv)
    from ..pipeline.recipe import load_recipe
    from ..pipeline.run import dry_run, run_recipe

    recipe = load_recipe(args.recipe, args.set, parsers())
    if args.dry_run:
        for stage, line in zip(recipe.stages, dry_run(recipe), strict=True):
            print(f"# {stage.name}{': ' + stage.title if stage.title else ''}\n{line}\n")
        return 0
    print(f"{recipe.name}: {len(recipe.stages)} stages in {recipe.run_dir}", flush=True)
    run_recipe(recipe, first=args.first, last=args.last, on_event=Display())
    report = recipe.run_dir / "report.html"
    if report.exists():
        print(f"report: {report}")
    return 0


class Display:
    """One line a stage; on a terminal the running stage's last line of output beside its time."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()

    def __call__(self, event: object) -> None:
        from ..pipeline.run import Event

        assert isinstance(event, Event)
        head = f"[{event.number}/{event.total}] {event.stage.name}"
        if event.kind == "skipped":
            self._line(f"{head}: done before ({clock(event.seconds)})")
        elif event.kind == "done":
            self._line(f"{head}: done in {clock(event.seconds)}, about {clock(event.left or 0)} left")
        elif self.live:
            import shutil

            width = shutil.get_terminal_size().columns
            text = f"{head} {clock(event.seconds)} (about {clock(event.left or 0)} left)  {event.line}"
            sys.stdout.write("\r\x1b[2K" + text[: width - 1])
            sys.stdout.flush()

    def _line(self, text: str) -> None:
        if self.live:
            sys.stdout.write("\r\x1b[2K")
        print(text, flush=True)


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


if __name__ == "__main__":
    run_command(main)
