"""The policy of `cli.label --label.name next_actions`: asked for actions at the states of a store, in its episodes' format and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.errors import UserError

if TYPE_CHECKING:
    from ..annotate.next_actions import Actor


def actor(args: Any, first: Any) -> Actor:
    """The policy as an `Actor`.

    Args:
        args: nested flags of `cli.label`.
        first: an episode that stands for all of the store.
    """
    from ..annotate.next_actions import Actor
    from ..host.engine import VLLMEngine
    from ..rollout.config import EnvConfig
    from ..rollout.digest import policy_digest
    from ..rollout.engine import Sampling

    how, model, vllm = first.sampling, args.policy.model_name_or_path, args.vllm
    problems = [] if model else ["--policy.model_name_or_path is required by next_actions: the last policy, π_(i−1)"]
    if args.completions.num_engines or args.completions.store:
        problems.append("next_actions plays no completions: leave out --completions.num_engines and --completions.store")
    if problems:
        raise UserError(problems)
    args.env.name = first.env
    env = EnvConfig.from_namespace(args.env).played_as(how, first.split)
    chat = env.chat(model)
    env.check_format(chat, how)
    temperature = how.get("temperature", 1.0) if args.completions.temperature is None else args.completions.temperature
    sampling = Sampling(temperature, how.get("top_p", 1.0), how.get("top_k", -1))
    digest = policy_digest(model)
    return Actor(
        args.label.output,
        lambda seed: VLLMEngine(
            model,
            max_model_len=how["max_len"],
            seed=seed,
            gpu_memory_utilization=vllm.gpu_memory_utilization,
            tensor_parallel_size=vllm.tensor_parallel_size,
            enforce_eager=vllm.enforce_eager,
            logprobs=False,
        ),
        {"policy": model, "policy_digest": digest, "sampling": sampling.identity(), "seed": args.completions.seed},
        sampling,
        max_len=how["max_len"],
        max_tokens_per_turn=env.max_tokens_per_turn,
        stop_token_ids=chat.stop_token_ids,
    )
