"""Flags of the monitors of a PPO run, and what is wrong with them."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.alarm import LEAST, Rule
from ..core.argument_types import non_negative_int
from .advantage_flags import all_options, needs

EARLY_STOPS = ("none", "best", "stop", "outcome")
_ALARM = ("alarm_window", "alarm_rise", "alarm_z", "early_stop")


def add_monitor_flags(group: argparse._ArgumentGroup) -> None:
    """Add `--prm.monitor_every`, `--prm.alarm_*` and `--prm.early_stop`."""
    add, rule = group.add_argument, Rule()
    add(
        "--prm.monitor_every",
        type=non_negative_int,
        default=0,
        help="watch for a policy that games the PRM: figures of every batch, and held-out tasks every so many steps (0: off)",
    )
    add("--prm.alarm_window", type=int, default=rule.window, help="points over which slopes are read: batches, or held-out evaluations")
    add("--prm.alarm_rise", type=float, default=rule.rise, help="least rise of the PRM's reward in a window, in its spreads over episodes")
    add("--prm.alarm_z", type=float, default=rule.z, help="standard errors by which the rise and the missing success must be certain")
    add(
        "--prm.early_stop",
        default="none",
        choices=EARLY_STOPS,
        help="at the alarm: go on (none), end with the best held-out checkpoint (best), end (stop), or go on by outcomes alone (outcome)",
    )


def monitor_problems(args: Any, ours: bool) -> list[str]:
    """Flags that contradict each other, or that nothing would read."""
    prm, found = args.prm, []
    if not prm.monitor_every:
        parser = argparse.ArgumentParser()
        add_monitor_flags(parser.add_argument_group())
        given = [name for name in _ALARM if getattr(prm, name) != parser.get_default(f"prm.{name}")]
        return [f"--prm.{name} is given, but nothing is watched; give --prm.monitor_every" for name in given]
    if not prm.model_name_or_path:
        found.append("--prm.monitor_every watches a PRM's reward, but --prm.model_name_or_path is not given")
    if prm.alarm_window < LEAST:
        found.append(f"--prm.alarm_window is {prm.alarm_window}; wanted {LEAST} or more")
    for name in ("alarm_rise", "alarm_z"):
        if not getattr(prm, name) > 0:
            found.append(f"--prm.{name} is {getattr(prm, name)}; wanted a number above 0")
    if args.eval.steps not in (-1, prm.monitor_every):
        found.append(
            f"--prm.monitor_every {prm.monitor_every} and --eval.steps {args.eval.steps}: held-out tasks are played once for both; "
            "leave out --eval.steps"
        )
    return found + _stop_problems(args, ours)


def holds_out(args: Any) -> bool:
    """Whether the run has tasks to evaluate on."""
    return bool(args.env.eval_tasks or args.eval.dataset)


def _stop_problems(args: Any, ours: bool) -> list[str]:
    prm, a, found = args.prm, args.algo.advantage, []
    if prm.early_stop == "best":
        if not holds_out(args):
            found.append("--prm.early_stop best keeps the best of the held-out evaluations; give --env.eval_tasks")
        if args.ckpt.disable_ds:
            found.append("--prm.early_stop best goes back to a checkpoint, and --ckpt.disable_ds keeps none")
        if args.ckpt.best_metric_key == "none":
            found.append("--prm.early_stop best needs to know what is best; leave out --ckpt.best_metric_key none")
    if prm.early_stop == "best" and args.train.enable_ema:
        found.append("--prm.early_stop best goes back to the actor's weights, and --train.enable_ema saves the mean of them; leave one out")
    if prm.early_stop == "outcome":
        options = all_options(args)
        if not (ours and needs(args) & {"prm", "implicit"}):
            found.append(f"--prm.early_stop outcome: --algo.advantage.estimator {a.estimator} takes nothing from the PRM to begin with")
        elif not options.get("outcome_weight", 1.0) or options.get("base") == "prm":
            found.append(
                f"--prm.early_stop outcome: --algo.advantage.estimator {a.estimator} has no outcome to fall back on; give "
                "--algo.advantage.outcome_weight (pav: base outcome)"
            )
    return found


def settle_monitors(args: Any) -> None:
    """The host's evaluation every so many steps, and the PRM's own distribution of scores, read where the checkpoint surely is."""
    from ..prm.kinds import records_of

    if not args.prm.monitor_every:
        return
    records = records_of(args.prm.name, args.prm.model_name_or_path)
    args.agentprm.score_reference = records[0].reference if len(records) == 1 else {}
    if holds_out(args):
        args.eval.steps = args.prm.monitor_every
