"""What is wrong with a PPO command line, told before anything starts."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.arguments import plain
from ..core.errors import UserError
from ..data.steps import Delimiters
from .advantage_flags import advantage_problems, needs_critic
from .cpu import has_cuda

if TYPE_CHECKING:
    from ..prm.record import Record

logger = logging.getLogger(__name__)


def problems_of_run(args: Any, ours: bool) -> list[str]:
    """Contradictions between flags, and flags that would be accepted and not done."""
    found = []
    if not args.env.name and not args.train.agent_func_path and not args.reward.remote_url and not args.reward.model_name_or_path:
        found.append("no environment: give --env.name, or --train.agent_func_path with an agent of your own")
    if args.env.name and args.train.agent_func_path:
        found.append("--env.name brings its own executor; leave out --train.agent_func_path, or play your agent without --env.name")
    if not args.vllm.num_engines:
        found.append(
            "no engine: the host samples by vLLM alone, and --vllm.num_engines is "
            f"{'not given' if args.vllm.num_engines is None else args.vllm.num_engines}; give 1 or more"
        )
    if args.prm.model_name_or_path and args.ds.ring_attn_size > 1:
        found.append("a PRM cannot be sharded by --ds.ring_attn_size yet")
    if getattr(args.data, "max_images_per_prompt", 0):
        found.append("images in prompts are not supported together with turn-level advantages or a PRM")
    if _sees(args.actor.model_name_or_path):
        found.append(
            f"--actor.model_name_or_path {args.actor.model_name_or_path} is a vision-language model, which the host trains through a processor of "
            "its own; not supported together with turn-level advantages or a PRM, take its language model"
        )
    if args.ds.lora.rank:
        found.append(
            "--ds.lora.rank: the host sends adapters under names that vLLM does not know, and stops at the first update; leave it out"
        )
    asleep = [flag for flag, on in (("--vllm.enable_sleep", args.vllm.enable_sleep), ("--ds.enable_sleep", args.ds.enable_sleep)) if on]
    if asleep and not has_cuda():
        found.append(f"{' and '.join(asleep)}: only what is on a GPU can be put to sleep; leave it out")
    found += _packing_problems(args) + advantage_problems(args)
    if args.prm.model_name_or_path:
        found += _colocation_problems(args) + _prm_problems(args, ours)
    found += _prover_problems(args)
    return found + _critic_problems(args)


def environment_problems(args: Any) -> list[str]:
    """Flags of environments that nobody would read, in runs with and without our other flags."""
    return _placement_problems(args.env) + _spare_problems(args)


def _placement_problems(env: Any) -> list[str]:
    """Pools of environments that nobody would place, or that would be empty."""
    found = []
    if env.num_pools > 1 and not env.num_cpus:
        found.append("--env.num_pools divides what Ray places; give --env.num_cpus, the CPUs of each pool")
    if env.num_cpus and not env.name:
        found.append("--env.num_cpus places the environments of --env.name; an agent of your own has none that could be placed")
    if env.num_pools > env.num_workers:
        found.append(f"--env.num_pools {env.num_pools} is more than --env.num_workers {env.num_workers}: some pools would be empty")
    return found


def _spare_problems(args: Any) -> list[str]:
    """Spare prompts that nobody could give up, or that would change what a seed gives."""
    if not args.env.spare_prompts:
        return []
    found = [] if args.env.name else ["--env.spare_prompts gives up episodes of --env.name; an agent of your own would play on"]
    if args.train.full_determinism_enable:
        found.append(
            "--env.spare_prompts keeps what happens to be ready first, so --train.full_determinism_enable cannot hold; leave one out"
        )
    return found


def _sees(path: str | None) -> bool:
    """Whether the host would take the model for a vision-language one."""
    from ..prm.vocabulary import read_config

    return path is not None and path != "" and Path(path).is_dir() and hasattr(read_config(path), "vision_config")


def _packing_problems(args: Any) -> list[str]:
    """The host packs sequences by flash attention alone, and says so when the models are there."""
    asked = [
        f
        for f, on in (("--ds.packing_samples", args.ds.packing_samples), ("--train.dynamic_batch_enable", args.train.dynamic_batch_enable))
        if on
    ]
    if not asked or importlib.util.find_spec("flash_attn") is not None:
        return []
    return [f"{' and '.join(asked)} needs flash-attn, which is not installed (it runs on GPUs only); leave it out"]


def unread_delimiters(args: Any, ours: bool) -> list[str]:
    """Step delimiters of a run in which nothing reads turns."""
    given = args.prm.step_delimiter is not None or args.prm.step_delimiter_text is not None
    if not given or ours or args.prm.model_name_or_path:
        return []
    return [
        f"--prm.step_delimiter is given, but nothing reads steps: --algo.advantage.estimator {args.algo.advantage.estimator} is the host's, and "
        "there is no --prm.model_name_or_path"
    ]


def step_delimiters(args: Any) -> Delimiters:
    """What ends a step of a rollout: the flags' delimiters, else those that the PRM was trained with."""
    from ..prm.steps import given_delimiters, settle, trained_on

    path = args.prm.model_name_or_path
    return settle(given_delimiters(args.prm, args.actor.model_name_or_path), trained_on(args.prm.name, [path] if path else []))


def _critic_problems(args: Any) -> list[str]:
    """What a PRM's record tells of a critic that starts from it; values that were never trained are a warning, as PPO trains them."""
    from ..prm.model import is_prm
    from ..prm.record import SCALES, Record
    from ..prm.vocabulary import read_config

    path = args.critic.model_name_or_path
    if not (path and _has_critic(args) and Path(path).is_dir() and is_prm(path)):
        return []
    record = Record.load(path)
    if (labels := read_config(path).num_labels) != 1:
        return [f"--critic.model_name_or_path {path} has {labels} heads (kind {record.kind}), and a critic reads one; take a scalar PRM"]
    if record.output != "linear":
        return [
            f"--critic.model_name_or_path {path} has a {record.output} output, which the critic would not apply; train with --loss.kind mse"
        ]
    if not record.value_trained:
        logger.warning("--critic.model_name_or_path %s: its V(s) was not trained at the states, so the critic starts from noise", path)
    elif record.scale != "probability":
        logger.warning(
            "--critic.model_name_or_path %s is no value (%s), so the critic starts from another unit", path, SCALES[record.scale]
        )
    return []


def offload_problems(args: Any) -> list[str]:
    """`--prm.offload` where nothing is won by it."""
    if not args.prm.offload:
        return []
    if not args.prm.model_name_or_path:
        return ["--prm.offload: there is no PRM (--prm.model_name_or_path)"]
    shares = args.train.colocate_all or (args.train.colocate_critic_reward and _has_critic(args))
    return (
        []
        if shares
        else ["--prm.offload: the PRM has GPUs of its own, on which its weights are in nobody's way; leave it out, or colocate"]
    )


def _has_critic(args: Any) -> bool:
    return needs_critic(args) or args.algo.advantage.estimator == "gae"


def _colocation_problems(args: Any) -> list[str]:
    """What Ray would wait for without an end: each model takes 0.2 of a GPU of the actor's bundles, or of the critic's."""
    critic = _has_critic(args)
    actors, critics, prms = (x.num_nodes * x.num_gpus_per_node for x in (args.actor, args.critic, args.prm))
    size = f"but --prm.num_nodes × --prm.num_gpus_per_node is {prms}"
    if not args.train.colocate_all:
        shared = args.train.colocate_critic_reward and critic
        return [f"--train.colocate_critic_reward puts the PRM on the critic's {critics} GPUs, {size}"] if shared and prms > critics else []
    found = [f"--train.colocate_all puts the PRM on the actor's {actors} GPUs, {size}"] if prms > actors else []
    reward = args.reward.model_name_or_path and not (args.env.name or args.train.agent_func_path or args.reward.remote_url)
    if reward and critic and args.algo.kl.init_coef > 0:
        found.append("actor, reference, critic, reward model, vLLM and PRM do not fit one GPU's five places under --train.colocate_all")
    return found


def _prm_problems(args: Any, ours: bool) -> list[str]:
    """What the checkpoints themselves tell."""
    from ..prm.kinds import check_reward_model, records_of

    path = args.prm.model_name_or_path
    try:
        check_reward_model(args.prm.name, path, args.actor.model_name_or_path)
        records = records_of(args.prm.name, path)
    except UserError as error:
        return error.problems
    return [problem for record in records for problem in _value_problems(path, record, args, ours)][:1]


def _prover_problems(args: Any) -> list[str]:
    from ..prm.kinds import check_reward_model

    path, estimator = args.prm.prover_model_name_or_path, args.algo.advantage.estimator
    if not path:
        return []
    if estimator != "pav":
        return [f"--prm.prover_model_name_or_path is given, but --algo.advantage.estimator {estimator} does not read it (pav does)"]
    try:
        check_reward_model(args.prm.prover_name, path, args.actor.model_name_or_path)
    except UserError as error:
        return error.problems
    return []


def _value_problems(path: str, record: Record, args: Any, ours: bool) -> list[str]:
    from ..prm.record import SCALES

    a = args.algo.advantage
    reads = {**vars(a), **plain(getattr(a, "options", {}))} if ours else {}
    values = ours and (a.estimator == "potential" or (a.estimator == "turn_gae" and reads["values"] == "prm"))
    if values and record.scale != "probability":
        return [
            f"{path} (kind {record.kind}) cannot give values: {SCALES[record.scale]}; take --algo.advantage.values critic, or a PRM whose scores "
            "estimate the outcome (scalar with --loss.kind mse or soft_bce, two_head, heads, hierarchical, on labels that do)"
        ]
    if ours and a.estimator == "pav" and record.scale != "probability":
        tries = reads.get("best_of") or (1 if args.prm.prover_model_name_or_path else 4)
        if tries > 1 and not args.prm.prover_model_name_or_path:
            return [
                f"{path} (kind {record.kind}) gives no probability of success ({SCALES[record.scale]}), of which pav's best of {tries} is made; take "
                "another PRM, name a prover's by --prm.prover_model_name_or_path, or give --algo.advantage.options '{\"best_of\": 1}'"
            ]
    if ours and record.scale == "order":
        logger.warning("%s: %s, so the unit of its process rewards is arbitrary; choose their weight with care", path, SCALES["order"])
    if values and not record.value_trained:
        return [
            f"{path}: its V(s) was not trained at the states (method {record.method!r}), so it cannot give values; "
            "train with --loss.value_coef 1, or take --algo.advantage.values critic"
        ]
    if ours and not record.value_trained and {"progress", "pav", "spa"} & {a.estimator, reads.get("process_reward")}:
        logger.warning("%s: its V(s) was not trained, so the progress of every first turn is noise", path)
    return []
