"""The models behind the labels of `cli.label`: the policy that `next_actions` asks, and the PRM that judges a store; here or by Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError

if TYPE_CHECKING:
    from ..annotate.next_actions import Actor, Answer, Key, Prompt
    from ..annotate.scored import Asked, Judge, Row, Score


def actor(args: Any, first: Any) -> Actor:
    """The policy as an `Actor`, in the format and the limits of the store's episodes.

    Args:
        args: nested flags of `cli.label`.
        first: an episode that stands for all of the store.
    """
    from ..annotate.next_actions import Actor, Asker
    from ..host.engine import VLLMEngine
    from ..host.shards import stream_by_ray, whole_path
    from ..rollout.config import EnvConfig
    from ..rollout.digest import policy_digest
    from ..rollout.engine import Sampling

    how, model, vllm = first.sampling, args.policy.model_name_or_path, args.vllm
    problems = [] if model else ["--policy.model_name_or_path is required by next_actions: the last policy, π_(i−1)"]
    if args.completions.store:
        problems.append("next_actions plays no completions: leave out --completions.store")
    if problems:
        raise UserError(problems)
    args.env.name = first.env
    env = EnvConfig.from_namespace(args.env).played_as(how, first.split)
    chat = env.chat(model)
    env.check_format(chat, how)
    temperature = how.get("temperature", 1.0) if args.completions.temperature is None else args.completions.temperature
    sampling = Sampling(temperature, how.get("top_p", 1.0), how.get("top_k", -1))
    digest = policy_digest(model)
    engines, place = args.completions.num_engines, whole_path(model)

    def engine(seed: int) -> VLLMEngine:
        return VLLMEngine(
            place,
            max_model_len=how["max_len"],
            seed=seed,
            gpu_memory_utilization=vllm.gpu_memory_utilization,
            tensor_parallel_size=vllm.tensor_parallel_size,
            enforce_eager=vllm.enforce_eager,
            logprobs=False,
        )

    asker = Asker(engine, args.completions.seed, sampling, how["max_len"], env.max_tokens_per_turn, chat.stop_token_ids)

    def by_ray(prompts: Mapping[Key, Prompt]) -> Iterator[list[Answer]]:
        keys = list(prompts)
        parts = [{key: prompts[key] for key in part} for i in range(engines) if (part := keys[i::engines])]
        paths = {"--policy.model_name_or_path": place} if Path(place).exists() else {}
        gpus = vllm.tensor_parallel_size
        return stream_by_ray(asker.ask, parts, gpus=gpus, asked_by=f"--vllm.tensor_parallel_size {gpus}", paths=paths)

    who = {"policy": model, "policy_digest": digest, "sampling": sampling.identity(), "seed": args.completions.seed}
    return Actor(args.label.output, by_ray if engines else asker.ask, who)


def scorer(args: Any) -> Score:
    """Scores stores by a PRM: into a journal in the output's folder, by so many workers as are asked for; reasoning is the engine's."""
    from ..annotate.scored import Scored
    from ..host.reasoning import reasoner_if_loadable
    from ..host.shards import stream_by_ray, whole_path
    from ..prm.kinds import is_remote
    from ..prm.kinds.ensemble import checkpoints_of

    def score(store: Any, prm: str, reward_model: str) -> Scored:
        place, workers = whole_path(prm), args.label.num_scorers

        def spread(judge: Judge, parts: Sequence[Sequence[Asked]]) -> Iterator[list[Row]]:
            members = (member for member in checkpoints_of(reward_model, place) if member != place)
            read = {"the PRM": place, **{f"member {n} of the PRM": member for n, member in enumerate(members, 1)}}
            paths = {name: path for name, path in read.items() if Path(path).exists()}
            gpus = 0 if is_remote(reward_model, place) else 1
            return stream_by_ray(judge, parts, gpus=gpus, asked_by="--label.num_scorers: a PRM", paths=paths)

        more: dict[str, Any] = {"parts": workers, "spread": spread} if workers else {}
        return Scored(store, place, reward_model, folder=args.label.output, reasoner=reasoner_if_loadable, **more)

    return score
