"""`--algo.advantage.*`: which estimator gets which option, what it needs of the run, and what is wrong with a command line."""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..core.argument_types import json_object
from ..core.arguments import plain, unknown_options
from ..core.batches import TurnBatch
from ..core.estimators.shared import KL_PLACEMENTS, WHITENINGS, needs_of
from ..core.groups import BASELINES
from ..core.process_rewards import BOUNDS, KINDS, SCALINGS
from ..core.registry import ADVANTAGES

logger = logging.getLogger(__name__)

READ_BY_HOST = {  # flags that shape the batch itself, and those of our estimators that look at what they shape
    "reward": ("turn_gae", "token_gae", "bi_level", "gigpo", "potential"),
    "novelty_coef": ("turn_gae", "token_gae", "bi_level", "gigpo", "potential"),
    "anchor": ("turn_gae", "token_gae", "bi_level", "gigpo", "potential"),
}


def add_advantage_flags(parser: argparse.ArgumentParser) -> None:
    """Options of our estimators; where one is not given, the estimator's own default holds."""
    own = parser.add_argument_group("turn-level advantages (agentprm list advantages; docs/advantages)")

    def add(name: str, text: str, **kwargs: Any) -> None:
        own.add_argument(f"--algo.advantage.{name}", default=kwargs.pop("default", None), help=text, **kwargs)

    add("values", "turn_gae: whose V(s) is read where a turn begins", choices=["critic", "prm"])
    add("bootstrap_enable", "turn_gae with values prm: Q of the last turn stands behind episodes that a limit cut", action="store_true")
    add(
        "reward",
        "the outcome at the last turn, or each turn's reward from the environment",
        default="outcome",
        choices=["outcome", "environment"],
    )
    add("novelty_coef", "bonus of a turn that leads to a state that few of the prompt's samples come to: c / √N", default=0.0, type=float)
    add("baseline", "outcome: what it is compared with in its group", choices=list(BASELINES))
    add("process_reward", "what the PRM's scores pay a turn", choices=["none", *KINDS])
    add("process_weight", "its weight", type=float)
    add("process_options", 'options of the process reward, as a JSON object, such as {"eta": 0.6}', type=json_object)
    add("outcome_weight", "weight of the outcome, less its group's mean, beside what the PRM pays", type=float)
    add("bound", "par: process rewards as preferences over the prompt's other samples, in [0, 1]", choices=list(BOUNDS))
    add("scaling", "process rewards divided by their running standard deviation, or standardised", choices=list(SCALINGS))
    add("process_clip", "process rewards are kept within ± this", type=float)
    add("kl_placement", "KL inside the rewards, or outside the returns", choices=list(KL_PLACEMENTS))
    add("whiten", "what advantages are normalised over (outcome: host, as the host does for its baseline)", choices=[*WHITENINGS, "host"])
    add("length_correction", "turn: every turn weighs the same in the loss, however many tokens it has", choices=["none", "turn"])
    add("value_positions", "turn_gae: where the critic's loss counts", choices=["turn_start", "all"])
    add("anchor", "gigpo: turns are in one state after equal observations, or after equal histories", default="observation",
        choices=["observation", "history"])  # fmt: skip
    add("options", "further options of the estimator, as a JSON object", default={}, type=json_object)
    add("force_enable", "turn_gae: allow progress as a reward on top of the PRM's values (counted twice)", action="store_true")


_OF_FLAGS = {"bootstrap_enable": "bootstrap", "force_enable": "force"}


_OF_PROCESS = ("process_weight", "process_options", "bound", "scaling", "process_clip")


@functools.cache
def _defaults() -> dict[str, Any]:
    """Of our flags, by their names behind `--algo.advantage.`."""
    parser = argparse.ArgumentParser()
    add_advantage_flags(parser)
    return {a.dest.removeprefix("algo.advantage."): a.default for a in parser._actions if a.dest.startswith("algo.")}


def estimators() -> list[str]:
    """Names of the registry's advantage estimators."""
    return ADVANTAGES.names()


def handles(args: Any) -> bool:
    """True when the estimator is one of the registry's."""
    return args.algo.advantage.estimator in estimators()


def estimator_options(args: Any, kl_coef: float) -> dict[str, Any]:
    """Keyword options of the estimator: the host's flags and ours that were given, as its signature names them, and `--algo.advantage.options`."""
    a = args.algo.advantage
    takes = inspect.signature(ADVANTAGES.load(a.estimator)).parameters
    of_host = {"gamma": a.gamma, "lambd": a.lambd, "kl_coef": 0.0 if args.algo.kl.use_loss else kl_coef}
    given = {_OF_FLAGS.get(name, name): value for name, value in _given(a).items() if name not in ("options", *READ_BY_HOST)}
    return {name: value for name, value in (of_host | given).items() if name in takes} | plain(a.options)


def all_options(args: Any) -> dict[str, Any]:
    """`estimator_options` of one of our estimators, with the defaults of what was not given; empty for others."""
    if not handles(args) or not hasattr(function := ADVANTAGES.load(args.algo.advantage.estimator), "needs"):
        return {}
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.default is not p.empty}
    return defaults | estimator_options(args, 0.0)


def mute(args: Any) -> None:
    """Take from the PRM its say in the advantages, where its scores are 0 from now on."""
    a, has = args.algo.advantage, all_options(args)
    weights: dict[str, Any] = dict.fromkeys({"process_weight", "alpha"} & has.keys(), 0.0)
    a.options = plain(a.options) | (weights or dict.fromkeys({"bound", "scaling"} & has.keys(), "none"))


def needs(args: Any) -> set[str]:
    """What the chosen estimator needs of the run (`core.estimators.shared.NEEDS`); another package's gets states, and a critic if one is named."""
    if not handles(args):
        return set()
    function = ADVANTAGES.load(args.algo.advantage.estimator)
    if not hasattr(function, "needs"):
        return {"states", *(["critic"] if args.critic.model_name_or_path else [])}
    return needs_of(function, estimator_options(args, 0.0))


def warn_of_unread_scores(args: Any) -> None:
    """A PRM whose scores enter no advantage is paid for in vain, if nobody wanted it to be watched alone."""
    a, path = args.algo.advantage, args.prm.model_name_or_path
    of_others = handles(args) and not hasattr(ADVANTAGES.load(a.estimator), "needs")  # who do not say what they read
    if path and not of_others and not needs(args) & {"prm", "implicit"}:
        how = [f"--algo.advantage.{flag}" for flag in ("values prm", "process_reward") if _reads(a.estimator, flag.split()[0])]
        instead = f"give {' or '.join(how)}" if how else "choose one of ours (agentprm list advantages)"
        logger.warning("%s scores every turn, but no advantage reads it by --algo.advantage.estimator %s; %s", path, a.estimator, instead)


def needs_critic(args: Any) -> bool:
    """True for estimators of the registry that read a critic."""
    return "critic" in needs(args)


def advantage_problems(args: Any) -> list[str]:
    """Flags that would not be read, options that are wrong, and needs that the run does not meet."""
    a = args.algo.advantage
    if not handles(args):
        return _unread_flags(a)
    function = ADVANTAGES.load(a.estimator)
    found = _unread_flags(a) + unknown_options("--algo.advantage.options", plain(a.options), function)
    if getattr(a, "no_std_norm", False):
        found.append(
            f"--algo.advantage.no_std_norm is not what {a.estimator} normalises by; choose --algo.advantage.whiten {'|'.join(WHITENINGS)}"
        )
    if found or (found := _idle_flags(args)):
        return found
    if wrong := _tried(function, estimator_options(args, 0.1)):
        return [f"--algo.advantage.estimator {a.estimator}: {wrong}"]
    return _unmet(args, needs(args))


def _unmet(args: Any, needed: set[str]) -> list[str]:
    name, found = args.algo.advantage.estimator, []
    if needed & {"prm", "implicit"} and not args.prm.model_name_or_path:
        found.append("values or process rewards of a PRM are asked for, but --prm.model_name_or_path is not given")
    elif "implicit" in needed:
        from ..prm.kinds import AUTO, kind_of

        kind = kind_of(args.prm.model_name_or_path) if args.prm.name == AUTO else args.prm.name
        if kind != "implicit":
            found.append(f"{name} pays single tokens by a PRM of kind implicit, but {args.prm.model_name_or_path} is of kind {kind}")
    if "groups" in needed and args.rollout.n_samples_per_prompt < 2:
        found.append(f"{name} compares a prompt's samples with each other; give --rollout.n_samples_per_prompt 2 or more")
    if "valid" in needed and not args.env.name:
        found.append(f"{name} pays for valid actions, which only environments of --env.name tell")
    return found


def _given(a: Any) -> dict[str, Any]:
    return {name: value for name, default in _defaults().items() if (value := plain(getattr(a, name))) != default}


def _unread_flags(a: Any) -> list[str]:
    """Flags that were given and that the chosen estimator does not read."""
    found = []
    for name in _given(a):
        if not _reads(a.estimator, name):
            able = [n for n in estimators() if _reads(n, name) and hasattr(ADVANTAGES.load(n), "needs")]
            does = f"{', '.join(able)} do{'es' * (len(able) == 1)}"
            found.append(f"--algo.advantage.{name} is given, but --algo.advantage.estimator {a.estimator} does not read it ({does})")
    return found


def _idle_flags(args: Any) -> list[str]:
    """Flags of a process reward that is not asked for, and of a critic that is not there."""
    a, options = args.algo.advantage, all_options(args)
    given = _given(a)
    found = []
    if options.get("process_reward") == "none" and (idle := [f"--algo.advantage.{name}" for name in _OF_PROCESS if name in given]):
        found.append(f"{', '.join(idle)} is given, but nothing is paid by the PRM; give --algo.advantage.process_reward")
    if "anchor" in given and a.estimator != "gigpo" and not a.novelty_coef:
        found.append("--algo.advantage.anchor is given, but nothing asks which state a turn begins in; give --algo.advantage.novelty_coef")
    if options.get("values") == "prm" and "value_positions" in given:
        found.append("--algo.advantage.value_positions is given, but --algo.advantage.values prm trains no critic")
    return found


def _reads(estimator: str, name: str) -> bool:
    if estimator not in estimators():
        return False
    function = ADVANTAGES.load(estimator)
    if name == "options" or (name in READ_BY_HOST and not hasattr(function, "needs")):
        return True
    return estimator in READ_BY_HOST.get(name, ()) or _OF_FLAGS.get(name, name) in inspect.signature(function).parameters


def _tried(function: Callable[..., Any], options: Mapping[str, Any]) -> str | None:
    """What the estimator says of its options, asked on two episodes of a turn each; another package's is not run. None if nothing."""
    one_BK, one_BT = torch.full((2, 1), 0.5), torch.full((2, 2), 0.5)
    yes_BK, ids_BT, zero_B = torch.ones(2, 1, dtype=torch.bool), torch.tensor([[-1, 0], [-1, 0]]), torch.zeros(2, dtype=torch.long)
    batch = TurnBatch(
        rewards_BK=one_BK, mask_BK=yes_BK, turn_ids_BT=ids_BT, action_mask_BT=ids_BT >= 0, q_BK=one_BK, v_BK=one_BK, values_BT=one_BT,
        kl_BT=one_BT, process_logratio_BT=one_BT, outcome_B=torch.tensor([0.0, 1.0]), terminated_B=yes_BK[:, 0], truncated_B=~yes_BK[:, 0],
        group_B=zero_B, sample_B=torch.arange(2), state_key_BK=zero_B[:, None], valid_BK=yes_BK, prover_q_BK=one_BK, prover_v_BK=one_BK,
        running={},
    )  # fmt: skip
    try:
        inspect.signature(function).bind(batch, **options)
        if hasattr(function, "needs"):
            function(batch, **options)
    except (TypeError, ValueError) as error:
        return str(error)
    return None
