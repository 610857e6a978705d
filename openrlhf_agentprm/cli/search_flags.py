"""The `--search.*` flags, and everything that can be wrong with them before anything heavy starts."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from typing import Any

from ..core.argument_types import non_negative_int, positive_int, seconds, temperature
from ..core.errors import UserError, collecting
from ..search.budget import Budget
from ..search.methods import TAKES, Method, parse_method, without_part
from ..search.options import PRIORS, RESTORE, RULES, Options
from .evaluate import margin

logger = logging.getLogger(__name__)
FLAG_OF = {"margin": "tie_margin", "exploration": "mcts_exploration"}
"""Flags whose names are not their option's."""


def share(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--search.*`."""
    default = Options()
    add = parser.add_argument_group("search").add_argument
    add("--search.output", required=True, help="JSON file to write; what it holds already is not searched again")
    add(
        "--search.methods",
        nargs="+",
        default=["1x4", "2x2"],
        help="1x4 (greedy by Q over 4 actions), 2x2 (beam), bon:8 (best of 8 episodes), lookahead:1x4x2 (2 turns ahead), mcts:8 (simulations)",
    )
    add("--search.temperature", type=temperature, default=0.7, help="of sampled actions (0.7 in arXiv 2511.08325)")
    add(
        "--search.tie_margin",
        type=margin,
        default=default.margin,
        help="scores at most this far below the highest count as equal to it: the policy's own choice, sampled first, stands",
    )
    add("--search.policy_margin", type=margin, default=default.policy_margin, help="what an action has to beat the one sampled most by")
    add(
        "--search.logprob_weight",
        type=margin,
        default=default.logprob_weight,
        help="of the action's mean log-probability, added to its score",
    )
    add("--search.pav_alpha", type=margin, default=0.0, help="α of Q + α·A^μ (0.5 in arXiv 2410.08146); 0 is Q alone")
    add(
        "--search.pav_best_of_k",
        type=positive_int,
        default=None,
        help="prover μ: best-of-K of the PRM's own promises (4 in arXiv 2410.08146)",
    )
    add("--search.prover", default=None, help="prover μ: another PRM, of the kind --prm.name")
    add("--search.mcts_rule", default=default.mcts_rule, choices=RULES, help="mcts: how an action is selected")
    add("--search.mcts_exploration", type=margin, default=default.exploration, help="mcts: c of the rule")
    add("--search.mcts_actions", type=positive_int, default=default.mcts_actions, help="mcts: actions sampled at a new state")
    add(
        "--search.mcts_prior",
        default=default.mcts_prior,
        choices=PRIORS,
        help="mcts, puct: how often an action was sampled, or its probability",
    )
    add(
        "--search.rollout_weight",
        type=share,
        default=default.rollout_weight,
        help="mcts: of a sampled episode's outcome beside the PRM's value",
    )
    add(
        "--search.lookahead_temperature",
        type=temperature,
        default=default.lookahead_temperature,
        help="lookahead: of the continuation; 0 is greedy",
    )
    add("--search.budget_tokens", type=positive_int, default=None, help="sampled tokens that a task may cost")
    add("--search.budget_turns", type=positive_int, default=None, help="environment steps that a task may cost")
    add(
        "--search.budget_seconds",
        type=seconds,
        default=None,
        help="seconds that a search over all its tasks may take before plain play ends it",
    )
    add("--search.restore", default=default.restore, choices=RESTORE, help="how a state is reached again")
    add("--search.seed", type=non_negative_int, default=0, help="of sampled actions, environments and random scores")
    add("--search.random_disable", action="store_true", help="leave out the same searches with random scores, the control of each")


def options_of(args: Any, method: Method, max_retries: int) -> Options:
    """The options that have a part in the method."""
    s = args.search
    own = {name: getattr(s, FLAG_OF.get(name, name)) for name in TAKES[method.kind] if name != "pav_alpha"}
    budget = Budget(s.budget_tokens, s.budget_turns, s.budget_seconds)
    steps = tuple(getattr(args.search, "step_tokens", ()))
    return Options(seed=s.seed, max_retries=max_retries, budget=budget, restore=s.restore, step_tokens=steps, **own)


def entry_of(args: Any, method: Method, *, control: bool) -> dict[str, Any]:
    """What tells a search's entry in the output file from another's: method, sizes and the options that have a part in it."""
    s, options = args.search, options_of(args, method, 0)
    entry: dict[str, Any] = {
        "method": method.name,
        "beams": method.beams or None,
        "actions": method.actions or None,
        "tie_margin": s.tie_margin,
    }
    if method.kind == "mcts":
        entry |= {"actions": options.mcts_actions, "tie_margin": 0.0}
    for name in sorted(TAKES[method.kind] - {"margin", "pav_alpha"}):
        entry[FLAG_OF.get(name, name)] = getattr(options, name)
    if "pav_alpha" in TAKES[method.kind]:
        prover = "" if control or s.prover is None else s.prover
        entry |= {"pav_alpha": 0.0 if control else s.pav_alpha, "pav_best_of_k": None if control else s.pav_best_of_k, "prover": prover}
    entry["step_tokens"] = list(options.step_tokens)
    return entry | {"budget_tokens": s.budget_tokens, "budget_turns": s.budget_turns, "budget_seconds": s.budget_seconds}


EARLIER: dict[str, Any] = {
    "tie_margin": 0.0,
    "policy_margin": 0.0,
    "logprob_weight": 0.0,
    "pav_alpha": 0.0,
    "pav_best_of_k": None,
    "prover": "",
}
EARLIER |= {"step_tokens": [], "budget_tokens": None, "budget_turns": None, "budget_seconds": None}
EARLIER |= {"invalid_action": "message", "invalid_penalty": 0.0}


def as_now(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of an earlier version with what it did not yet say."""
    return {**EARLIER, "method": f"{entry.get('beams')}x{entry.get('actions')}", **entry}


def step_tokens(args: Any, paths: Iterable[str]) -> tuple[int, ...]:
    """The tokens at which sampling stops to choose among steps: those of the flags, else those that the PRMs were trained with.

    Raises:
        UserError: no delimiter is a single token, at which an engine could stop.
    """
    from ..prm.steps import given_delimiters, settle, shown, trained_on

    given = given_delimiters(args.prm, args.policy.model_name_or_path)
    delimiters = settle(given, trained_on(args.prm.name, paths))
    single = tuple(d[0] for d in delimiters if len(d) == 1)
    if len(single) < len(delimiters) and not single:
        raise UserError(
            f"a search stops the engine at one token, and none of the {shown(delimiters)} is one; give --prm.step_delimiter with single ids, or "
            "none to search over whole responses"
        )
    if len(single) < len(delimiters):
        logger.warning("delimiters of several tokens end no step in a search: %s", shown(tuple(d for d in delimiters if len(d) > 1)))
    return single


def methods_of(args: Any, problems: list[str]) -> list[Method]:
    """The methods, and whatever is wrong with them or with their options."""
    methods = []
    for text in args.search.methods:
        with collecting(problems):
            methods.append(parse_method(text))
    s = args.search
    default = Options()
    given = [n for n in sorted(frozenset().union(*TAKES.values())) if getattr(s, FLAG_OF.get(n, n)) != getattr(default, n, 0.0)]
    if len(methods) == len(s.methods):
        names = ", ".join(method.name for method in methods)
        problems += [f"--search.{FLAG_OF.get(n, n)} has no part in {names}; leave it out" for n in without_part(methods, given)]
    for method in methods:
        if method.at_once(s.mcts_actions) > args.vllm.max_num_seqs:
            problems.append(
                f"search method {method.name!r} samples {method.at_once(s.mcts_actions)} actions of one task at once, but the engine runs "
                f"{args.vllm.max_num_seqs}; raise --vllm.max_num_seqs or take a smaller method"
            )
    if s.pav_alpha and (s.prover is None) == (s.pav_best_of_k is None):
        problems.append("--search.pav_alpha needs one prover: --search.prover PATH or --search.pav_best_of_k K, not both")
    if not s.pav_alpha and (s.prover is not None or s.pav_best_of_k is not None):
        problems.append("--search.prover and --search.pav_best_of_k have no part without --search.pav_alpha (0.5 in arXiv 2410.08146)")
    if s.pav_alpha and not args.prm.model_name_or_path:
        problems.append("--search.pav_alpha needs a PRM: give --prm.model_name_or_path")
    if s.temperature <= 0 and any(method.at_once(s.mcts_actions) > 1 for method in methods):
        problems.append(f"--search.temperature is {s.temperature:g}: all sampled actions would be alike; more than 0 is wanted")
    return methods


def check_scale(args: Any, path: str) -> None:
    """Refuse what reads scores as probabilities with a PRM whose scores are none.

    Raises:
        UserError: names the flags and the PRM.
    """
    from ..prm.kinds import records_of
    from ..prm.record import SCALES

    s = args.search
    flags = {"--search.rollout_weight": s.rollout_weight, "--search.pav_best_of_k": s.pav_best_of_k}
    given = [name for name, value in flags.items() if value]
    record = next((r for r in records_of(args.prm.name, path) if r.scale != "probability"), None) if given else None
    if record is not None:
        raise UserError(
            f"{' and '.join(given)} read{'s' * (len(given) == 1)} scores as probabilities of success, and of {path} "
            f"{SCALES[record.scale]}; leave it out, or take a PRM whose scores estimate the outcome"
        )


def check_scores(name: str, path: str) -> None:
    """Refuse a reward model that does not score turns.

    Raises:
        UserError: names it.
    """
    from ..prm.kinds import load_kind

    found = load_kind(name, path)
    missing = [m for m in ("load", "score") if not callable(getattr(found, m, None))]
    if missing:
        raise UserError(
            f"reward model {name!r} has no {' and no '.join(f'{m}()' for m in missing)}, so it cannot score actions in a search"
        )
