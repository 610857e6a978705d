"""Ray for a PPO run: the hook that patches workers, enough GPUs, and a probe that the hook ran."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from .activate import same_series
from .cpu import CPU_ENVIRONMENT, MODE_VARIABLE, has_cuda
from .turn_limits import ROLLOUT_VARIABLE

logger = logging.getLogger(__name__)
_NO_ANSWER = "no Ray cluster answers at {} ({}); start it, or unset RAY_ADDRESS and run `ray stop` for a Ray of this run alone"
_HOOK = "openrlhf_agentprm.host.activate.activate_in_worker"


def gpus_needed(args: Any) -> int:
    """GPUs that the host's placement will ask Ray for, real or logical."""

    def size(entity: Any) -> int:
        return entity.num_nodes * entity.num_gpus_per_node

    engines = (args.vllm.num_engines or 0) * args.vllm.tensor_parallel_size
    critic = bool(args.critic.model_name_or_path)
    prm = size(args.prm) if args.prm.model_name_or_path else 0
    if args.train.colocate_all:
        return size(args.actor) + (engines if args.train.async_enable else 0)
    total = engines + size(args.actor)
    if args.algo.kl.init_coef > 0 and not args.train.colocate_actor_ref:
        total += size(args.ref)
    reward = 0 if args.reward.remote_url or args.train.agent_func_path else size(args.reward)
    if args.train.colocate_critic_reward and critic:
        return total + size(args.critic)
    return total + (size(args.critic) if critic else 0) + reward + prm


def cpus_of_pools(args: Any) -> float:
    """CPUs that the environments' pools will ask Ray for."""
    return (args.vllm.num_engines or 0) * args.env.num_pools * (args.env.num_cpus or 0) if args.env.name else 0.0


def start_ray(args: Any, settings: dict[str, Any]) -> None:
    """Connect to Ray (or start it here), with our hook in every worker; a machine without CUDA gets logical GPUs.

    Raises:
        UserError: the run asks for more GPUs than the cluster has, or others keep them.
    """
    import ray

    wanted = gpus_needed(args)
    join_or_start(_runtime_env(settings), gpus=wanted, cpus=2 * wanted + 4 + math.ceil(cpus_of_pools(args)))
    there = int(ray.cluster_resources().get("GPU", 0))
    if wanted > there:
        ray.shutdown()
        raise UserError(
            f"the run asks for {wanted} GPUs (actor, reference, critic, PRM and vLLM engines as their flags say), but Ray has {there}; "
            "use fewer, colocate (--train.colocate_all), or add nodes"
        )
    if (pools := cpus_of_pools(args)) > (cpus := ray.cluster_resources().get("CPU", 0)):
        ray.shutdown()
        raise UserError(
            f"the environments' pools ask for {pools:g} CPUs (--vllm.num_engines x --env.num_pools x --env.num_cpus), but Ray has {cpus:g}; "
            "ask for fewer, or add nodes"
        )
    _await_free_gpus(wanted)
    _prove_active_in_ray()


def _await_free_gpus(wanted: int, patience: float = 600, quiet: float = 30) -> None:
    """Until so many GPUs are free: the host's placement would wait for them without a limit and without a word."""
    import ray

    began, told = time.monotonic(), False
    while (free := int(ray.available_resources().get("GPU", 0))) < wanted:
        waited = time.monotonic() - began
        if waited > patience:
            ray.shutdown()
            raise UserError(
                f"the run asks for {wanted} GPUs, but after {patience:g} s only {free} of the cluster's are free: other jobs hold the rest. "
                "`ray status` tells how many are in use; end those jobs, or use fewer GPUs"
            )
        if waited > quiet and not told:
            logger.warning("waiting for %d GPUs, of which %d are free; other jobs of this cluster hold the rest", wanted, free)
            told = True
        time.sleep(0.5)


def join_or_start(runtime_env: dict[str, Any], *, gpus: int, cpus: int) -> None:
    """Connect to the cluster that is named or runs here; without one start Ray, on a machine without CUDA with logical GPUs.

    Raises:
        UserError: no cluster answers, or it has GPUs and this machine has none.
    """
    import ray

    arguments: dict[str, Any] = {"runtime_env": runtime_env}
    joins = _named_cluster() or _running_cluster()
    if not joins:
        arguments["address"] = "local"
    if not joins and not has_cuda():
        arguments |= {"num_gpus": gpus, "num_cpus": max(cpus, os.cpu_count() or 1), "include_dashboard": False}
    try:
        ray.init(**arguments)
    except ConnectionError as error:
        raise UserError(_NO_ANSWER.format(os.environ.get("RAY_ADDRESS") or "the address that `ray start` left here", error)) from error
    if joins and not has_cuda():
        _refuse_cpu_mode_on_gpus()


def _runtime_env(settings: dict[str, Any]) -> dict[str, Any]:
    variables = {
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "true"),
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": os.environ.get("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1"),
        MODE_VARIABLE: os.environ[MODE_VARIABLE],
        ROLLOUT_VARIABLE: json.dumps(settings),
    }
    return worker_environment(variables) | {"worker_process_setup_hook": _HOOK}


def worker_environment(variables: dict[str, str]) -> dict[str, Any]:
    """A runtime environment with these variables and, without CUDA, the CPU's; a submitted job's own variables stand."""
    if not has_cuda():
        variables = variables | {name: os.environ.get(name, value) for name, value in CPU_ENVIRONMENT.items()}
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {})
    set_by_job = submitted.get("env_vars", {})
    return {"env_vars": {name: value for name, value in variables.items() if name not in set_by_job}}


def _refuse_cpu_mode_on_gpus() -> None:
    """A driver on a node without a GPU takes the run for one on CPUs; its cluster may know better."""
    import ray

    @ray.remote(num_cpus=0, num_gpus=1)
    def probe() -> bool:
        from openrlhf_agentprm.host.cpu import has_device

        return has_device()

    if ray.cluster_resources().get("GPU", 0) >= 1 and ray.get(probe.remote()):
        ray.shutdown()
        raise UserError(
            f"this node has no GPU, but its Ray cluster does: set {MODE_VARIABLE}=cuda for the driver (with ray job submit, in the runtime "
            "environment's env_vars), so that no change for CPUs is active anywhere"
        )


def _named_cluster(patience: float = 30) -> bool:
    """True when RAY_ADDRESS names a cluster; one at a plain host:port has to answer soon, as Ray itself waits for many minutes."""
    address = os.environ.get("RAY_ADDRESS", "")
    end = time.monotonic() + patience
    while re.fullmatch(r"[^/]+:\d+", address) and not _listens(address):
        if time.monotonic() > end:
            raise UserError(_NO_ANSWER.format(f"RAY_ADDRESS={address}", f"nothing listens there after {patience:g} s"))
        time.sleep(1)
    return bool(address)


def _running_cluster() -> bool:
    """True when `ray start` runs on this machine, which `ray.init` would connect to.

    A crash or a reboot leaves the address of a cluster that is gone; `ray.init` alone would wait for it and fail.
    """
    from ray._private.services import find_gcs_addresses
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    if address is None:
        return False
    if address in find_gcs_addresses() or _listens(address):
        return True
    logger.warning("the Ray cluster at %s, started here earlier, is gone; starting Ray for this run alone", address)
    return False


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def _prove_active_in_ray() -> None:
    """Ask a fresh worker on every node what it runs."""
    import ray

    @ray.remote(num_cpus=0)
    def probe() -> dict[str, Any]:
        from openrlhf_agentprm.host.activate import report

        return report()

    for node, found in _on_every_node(probe).items():
        if not same_series(found):
            ray.shutdown()
            raise UserError(
                f"the patch series is not active in Ray's workers on {node} (process {found['pid']} has "
                f"{found['patches']}); the run would not be ours. Is this version of openrlhf-agentprm installed there?"
            )


def check_on_every_node(paths: Mapping[str, str]) -> None:
    """Refuse folders and files that are not on every node of the cluster.

    Args:
        paths: whole paths, by what they are for.

    Raises:
        UserError: all that are missing, and where.
    """
    import ray

    @ray.remote(num_cpus=0)
    def missing(wanted: dict[str, str]) -> list[str]:
        return [name for name, path in wanted.items() if not os.path.exists(path)]

    problems = [
        f"{name} {paths[name]} is not on the cluster's node {node}; put it where all nodes see it, under the same path"
        for node, names in _on_every_node(missing, dict(paths)).items()
        for name in names
    ]
    if problems:
        ray.shutdown()
        raise UserError(problems)


def _on_every_node(probe: Any, *arguments: Any) -> dict[str, Any]:
    """What a remote function gives on each node that is alive, by the node's address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    there = (NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes)
    asked = [probe.options(scheduling_strategy=strategy).remote(*arguments) for strategy in there]
    return {node["NodeManagerAddress"]: found for node, found in zip(nodes, ray.get(asked), strict=True)}
