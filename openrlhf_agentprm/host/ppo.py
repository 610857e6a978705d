"""What the PPO command line gains: flags, their checks, prompt datasets made of tasks, the PRM's worker group, and proof of activation."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..core.argument_types import non_negative_int
from ..core.errors import UserError
from ..core.registry import REWARD_MODELS
from ..envs import mixture
from ..prm.step_flags import add_step_flags
from ..rollout.config import EnvConfig
from ..rollout.flags import add_env_flags, add_placement_flags
from . import watchdog
from .advantage_flags import add_advantage_flags, handles, warn_of_unread_scores
from .advantage_flags import estimators as estimators  # these two are called from the patched command line
from .advantage_flags import needs_critic as needs_critic
from .held_out import OVER_ALL_PARTS
from .monitor_flags import add_monitor_flags, monitor_problems, settle_monitors
from .online_flags import add_online_flags, is_online, online_problems, settle_online
from .ppo_checks import environment_problems, offload_problems, problems_of_run, step_delimiters, unread_delimiters
from .prompts import write_datasets
from .resume import level_checkpoints


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--env.*`, `--prm.*` and the options of our estimators to the host's parser."""
    add_env_flags(parser, required=False)
    parser.add_argument("--env.eval_split", default="validation", choices=["train", "validation", "test"], help="tasks of the evaluation")
    parser.add_argument("--env.eval_tasks", type=int, default=0, help="tasks in the evaluation (0: none)")
    add_placement_flags(parser)
    parser.add_argument(
        "--env.spare_prompts",
        type=non_negative_int,
        default=0,
        help="prompts begun beyond a batch; those still in play when the batch is there are given up and begun again (docs/ppo.md)",
    )
    prm = parser.add_argument_group("process reward model")
    prm.add_argument("--prm.model_name_or_path", default=None, help="checkpoint of cli.train_prm; scores every turn of every rollout")
    prm.add_argument(
        "--prm.name", default="auto", choices=["auto", *REWARD_MODELS.names()], help="kind of reward model (auto: as the checkpoint says)"
    )
    prm.add_argument("--prm.num_nodes", type=int, default=1, help="nodes of its worker group")
    prm.add_argument("--prm.num_gpus_per_node", type=int, default=1, help="GPUs a node of its worker group")
    prm.add_argument("--prm.param_dtype", default="bf16", choices=["bf16", "fp16", "fp32"], help="dtype of its backbone; the head is fp32")
    prm.add_argument(
        "--prm.offload",
        action="store_true",
        default=False,
        help="keep its weights in CPU memory while it does not score, where it shares GPUs",
    )
    prm.add_argument("--prm.prover_model_name_or_path", default=None, help="a second PRM, of another policy, that the estimator pav reads")
    prm.add_argument("--prm.prover_name", default="auto", choices=["auto", *REWARD_MODELS.names()], help="kind of the second PRM")
    add_step_flags(prm)
    add_online_flags(parser.add_argument_group("online PRM"))
    add_monitor_flags(parser.add_argument_group("monitors"))
    add_advantage_flags(parser)
    watchdog.add_watch_flags(parser)


def prepare(args: Any) -> None:
    """Check our flags together with the host's, and turn them into what the host understands. Without our flags nothing changes."""
    ours = handles(args)
    args.agentprm = SimpleNamespace(on=bool(ours or args.env.name or args.prm.model_name_or_path))
    problems = problems_of_run(args, ours) if args.agentprm.on else []
    problems += environment_problems(args)
    if problems := problems + unread_delimiters(args, ours) + offload_problems(args) + monitor_problems(args, ours) + online_problems(args):
        raise UserError(problems)
    if not args.agentprm.on:
        return
    warn_of_unread_scores(args)
    args.agentprm.step_delimiters = step_delimiters(args)
    if args.env.name:
        args.train.agent_func_path = str(Path(__file__).with_name("executor.py"))
        write_datasets(args)
        if args.env.name == mixture.NAME and not args.ckpt.best_metric_key:
            args.ckpt.best_metric_key = OVER_ALL_PARTS
    settle_monitors(args)
    settle_online(args)


def rollout_settings(args: Any) -> dict[str, Any]:
    """What the rollout actors are told."""
    settings: dict[str, Any] = {
        "max_tokens_per_turn": args.env.max_tokens_per_turn,
        "stop_token_ids": list(args.env.stop_token_ids),
    }
    if args.env.name:
        settings |= {"env": asdict(EnvConfig.from_namespace(args.env)), "policy": args.actor.model_name_or_path}
    return settings


def start_ray(args: Any) -> None:
    """Ray with our hook in every worker, before the host would start it."""
    from .cluster import start_ray as start

    level_checkpoints(args)
    limited = args.env.max_tokens_per_turn is not None or args.env.stop_token_ids
    start(args, rollout_settings(args) if args.agentprm.on or limited else {})


def start_prm(args: Any, strategy: Any, trainer: Any, placement_group: Any) -> tuple[list[Any], Any]:
    """Start the PRM's worker group where the host would start its reward model, and hand it to the trainer.

    Returns:
        the loading's references, and the group; none without a PRM.
    """
    if not args.prm.model_name_or_path:
        return [], None
    from openrlhf.trainer.ray.launcher import RayActorGroup

    from .prm_worker import PRMModelActor

    group = RayActorGroup(
        args.prm.num_nodes,
        args.prm.num_gpus_per_node,
        PRMModelActor,
        pg=placement_group,
        num_gpus_per_actor=0.2 if placement_group else 1,
        duplicate_actors=args.ds.ring_attn_size * args.ds.tensor_parallel_size,
    )
    watchdog.get(trainer.attach_prm.remote(group), args, ())
    return group.async_init_model_from_pretrained(strategy, args.prm.model_name_or_path), group


def save_prm(args: Any, group: Any) -> None:
    """A PRM that was trained meanwhile, as a checkpoint beside the policy's."""
    if is_online(args):
        saved = group.async_run_method("save_finished", str(Path(args.ckpt.output_dir).absolute() / "prm"))
        watchdog.get(saved, args, ())


def prove_active_in_vllm(args: Any, engines: list[Any]) -> None:
    """Stop the run unless every rollout actor and every vLLM worker runs this series."""
    from openrlhf.utils.logging_utils import init_logger
    from ray.exceptions import RayTaskError

    from .activate import report, same_series

    for number, engine in enumerate(engines):
        try:
            reports = watchdog.get(engine.agentprm_report.remote(), args, ())
        except RayTaskError as error:
            if "agentprm_report" not in str(error.cause):  # an engine that did not start, for one
                raise
            raise UserError(  # a worker that was not patched knows no such question
                f"the patch series is not active in the vLLM workers of engine {number}; is VLLM_PLUGINS set, and without openrlhf_agentprm? "
                f"({str(error).strip().splitlines()[-1]})"
            ) from error
        for place, found in zip(("rollout actor", *[f"vLLM worker {k}" for k in range(len(reports) - 1)]), reports, strict=True):
            if not same_series(found):
                raise UserError(
                    f"the patch series is not active in the {place} of engine {number} (process {found['pid']}): {found['patches']}"
                )
    told = "openrlhf-agentprm: %d patches active in the driver, %d rollout actor(s) and their vLLM workers"
    init_logger(__name__).info(told, len(report()["patches"]), len(engines))
