"""python -m openrlhf_agentprm.cli.label: labels that need a whole episode store, made beforehand for train_prm."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.argument_types import json_object, non_negative_int, seed, temperature
from ..core.arguments import Parser, nest, parse, unknown_options
from ..core.errors import UserError
from ..core.registry import LABELS
from ..prm.step_flags import add_step_flags
from ..rollout.flags import add_play_flags
from .boundary import run_command
from .label_models import actor, scorer

if TYPE_CHECKING:
    from ..data.store import EpisodeStore

# Arguments of label methods that are made from flags, and which flags these are.
BY_FLAGS = {
    "complete": "the flags of completions",
    "act": "the flags of the policy",
    "score": "--label.num_scorers and the output's folder",
}
_OF_COMPLETIONS = ("policy.", "completions.", "vllm.", "env.")


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.label",
        description=(
            "Label every turn of an episode store by a method that needs the whole store, into a sidecar that train_prm --label.sidecar reads. "
            "relabel and ranked_pairs make preference pairs in place of labels, best_episodes and good_turns choose what a policy is to learn. "
            "Methods with completions play on from states of the store, in the environment that its episodes name; the same command continues "
            "what was interrupted. Methods that label from the model's own scores need no such stage: train_prm makes them."
        ),
    )
    add = parser.add_argument
    add("--data.dataset", required=True, help="episode store, or several divided by commas")
    add("--label.name", default="mc_visits", choices=LABELS.names(), help="method (agentprm list labels)")
    add("--label.options", type=json_object, default={}, help="options of the method, as a JSON object")
    add("--label.output", required=True, help="folder of the sidecar")
    add(
        "--label.num_scorers",
        type=non_negative_int,
        default=0,
        help="processes that Ray places on a cluster for a PRM that judges or ranks (autopsv, consensus, …), each with a GPU where there are any "
        "(0: this process)",
    )
    add_step_flags(parser)
    completions = parser.add_argument_group("completions (mc_soft, mc_hard, er, rpe, omega, shaped)")
    add = completions.add_argument
    add(
        "--policy.model_name_or_path",
        default=None,
        help="who completes (the policy that the episodes name; for shaped the reference policy)",
    )
    add("--completions.store", default=None, help="store of the completions, which several methods may share (<label.output>/completions)")
    add("--completions.temperature", type=temperature, default=None, help="sampling temperature (the episodes')")
    add("--completions.seed", type=seed, default=0, help="of the sampler")
    add(
        "--completions.num_engines", type=non_negative_int, default=0, help="engines that Ray places on a cluster (0: one, in this process)"
    )
    add("--vllm.tensor_parallel_size", type=int, default=1, help="GPUs for one copy of the policy")
    add("--vllm.gpu_memory_utilization", type=float, default=0.9, help="share of the GPU's memory for vLLM")
    add("--vllm.enforce_eager", action="store_true", help="no CUDA graphs")
    add_play_flags(completions)
    return parser


def main(argv: Sequence[str]) -> int:
    parser = build_parser()
    flags = parse(parser, argv)
    args = nest(flags)
    method = LABELS.load(args.label.name)
    if not hasattr(method, "annotate"):
        raise UserError(f"--label.name {args.label.name} is made from the model's own scores while it trains: give it to train_prm")
    problems = unknown_options("--label.options", args.label.options, method.annotate)
    problems += [f"--label.options has the key {key!r}, which {flags} give" for key, flags in BY_FLAGS.items() if key in args.label.options]
    problems += [
        f"--label.output {args.label.output} is the folder that --label.options gives as {name!r}; write the new labels elsewhere"
        for name, value in args.label.options.items()
        if isinstance(value, str) and Path(value).resolve() == Path(args.label.output).resolve()
    ]
    completes, acts, judges = (name in inspect.signature(method.annotate).parameters for name in BY_FLAGS)
    in_steps = args.prm.step_delimiter not in (None, [()]) or args.prm.step_delimiter_text is not None
    if acts and in_steps:
        problems.append(
            f"--label.name {args.label.name} samples whole responses: leave out --prm.step_delimiter and --prm.step_delimiter_text"
        )
    if not (completes or acts):
        unread = [name for name, value in vars(flags).items() if name.startswith(_OF_COMPLETIONS) and value != parser.get_default(name)]
        if (args.prm.step_delimiter or args.prm.step_delimiter_text) and "policy.model_name_or_path" in unread:
            unread.remove("policy.model_name_or_path")  # whose tokens they are
        problems += [f"--{name} is given, but --label.name {args.label.name} plays no completions" for name in unread]
    if args.label.num_scorers and not (judges and args.label.options.get("prm")):
        problems.append(f"--label.num_scorers is given, but --label.name {args.label.name} asks no PRM (its option prm)")
    if problems:
        raise UserError(problems)
    from ..data.store import EpisodeStore

    store = EpisodeStore(args.data.dataset)
    given = dict(args.label.options)
    about = {"method": args.label.name, "options": args.label.options, "dataset": args.data.dataset}
    if completes:
        given["complete"] = _completer(args, store)
        about["completions"] = {**given["complete"].who, "store": str(given["complete"].folder)}
    if acts:
        given["act"] = actor(args, _common(store, args))
        about |= given["act"].who
    if judges:
        given["score"] = scorer(args)
    began = time.monotonic()
    sidecar = method.annotate(_in_steps(args, store, about), **given)
    sidecar.cost["seconds"] = round(time.monotonic() - began, 3)
    if (scale := _scale(method, args.label.options)) != "probability":
        about["scale"] = scale
    sidecar.save(args.label.output, about)
    for name, value in {**sidecar.figures, **sidecar.cost}.items():
        print(f"{name.replace('_', ' '):<24} {value}")
    return 0


def _scale(method: Any, options: dict[str, Any]) -> str:
    """What the targets are, one of `prm.record.SCALES`: the method's own `scale`, by its options where these decide."""
    scale = getattr(method, "scale", "probability")
    return scale(options) if callable(scale) else scale


def _in_steps(args: Any, store: EpisodeStore, about: dict[str, Any]) -> EpisodeStore:
    """The store with its responses divided as the flags say, or as the PRM that judges was trained, which is noted in `about`."""
    from ..data.step_store import StepStore
    from ..prm.kinds import AUTO
    from ..prm.steps import given_delimiters, settle, tell, trained_on

    policy = args.policy.model_name_or_path or next((row["policy"] for row in store.rows(["policy"])), "")
    known = args.prm.step_delimiter_text is not None or Path(policy).exists()
    judge = args.label.options.get("prm")
    judges = trained_on(args.label.options.get("reward_model", AUTO), [judge]) if isinstance(judge, str) and judge else []
    delimiters = settle(given_delimiters(args.prm, policy if known else None), judges)
    if not delimiters:
        return store
    divided = StepStore(store.path, delimiters)
    turns, steps = (sum(len(row["turns"]) for row in s.rows(["turns"])) for s in (store, divided))
    tell(turns, steps, delimiters, args.data.dataset)
    about |= {"step_delimiter": delimiters, "steps_per_turn": round(steps / max(1, turns), 2)}
    return divided


def _completer(args: Any, store: Any) -> Any:
    """Completions by the policy and in the environment of the store's episodes, unless the flags say otherwise."""
    from ..annotate.completer import Completer
    from ..host.play import Player
    from ..rollout.config import EnvConfig
    from ..rollout.digest import policy_digest
    from ..rollout.engine import Sampling

    folder = Path(args.completions.store or Path(args.label.output, "completions"))
    if folder.resolve() == store.path.resolve():
        raise UserError(f"--completions.store {folder} is the store that is labelled; give the completions a folder of their own")
    first = _common(store, args)
    how = {name: first.sampling[name] for name in (*_SETTING, *_RULES) if name in first.sampling}
    args.env.name = first.env
    env = EnvConfig.from_namespace(args.env).played_as(how, first.split)
    model = args.policy.model_name_or_path or first.policy
    if not args.policy.model_name_or_path and policy_digest(model) != first.policy_digest:
        raise UserError(
            f"the episodes were played by {first.policy!r}, which is not there or is another model by now; say who completes with "
            "--policy.model_name_or_path"
        )
    was = first.sampling
    temperature = was.get("temperature", 1.0) if args.completions.temperature is None else args.completions.temperature
    sampling = Sampling(temperature, was.get("top_p", 1.0), was.get("top_k", -1))
    chat = env.chat(model)
    env.check_format(chat, how)
    vllm = args.vllm
    player = Player(
        model,
        env,
        how["max_len"],
        sampling,
        args.completions.seed,
        vllm.tensor_parallel_size,
        vllm.gpu_memory_utilization,
        vllm.enforce_eager,
    )
    engines = args.completions.num_engines
    return Completer(
        folder,
        (lambda missing: player.play_by_ray(missing, engines)) if engines else player.play,
        policy=model,
        policy_digest=policy_digest(model),
        sampling={**how, **sampling.identity()},
        seed=args.completions.seed,
    )


_SETTING = ("env_args", "max_turns", "max_len", "max_tokens_per_turn", "format")
_RULES = ("invalid_action", "invalid_penalty")  # told where they are not the default


def _cannot_be_completed(how: Mapping[str, Any]) -> str:
    """Why the states of an episode cannot be rebuilt, or its temperature not be told, from its sampling settings."""
    return "began on the way of another one (reset)" if "reset" in how else "has temperatures by turn" if "turn_temperatures" in how else ""


def _common(store: Any, args: Any) -> Any:
    """An episode that stands for all: they share environment, its arguments, limits, format, and what the flags leave to them.

    Raises:
        UserError: they differ, so that no one setting completes them.
    """
    from ..data.episode import Episode

    seen: dict[str, Episode] = {}
    for episode in store.episodes():
        how = episode.sampling
        missing = [name for name in _SETTING if name not in how]
        if missing:
            raise UserError(f"episode {episode.episode_id} of {store.path} does not say its {', '.join(missing)}; completions need them")
        if (what := _cannot_be_completed(how)) and args.label.name != "next_actions":
            raise UserError(
                f"episode {episode.episode_id} of {store.path} {what}; completions want episodes from the start, sampled plainly"
            )
        policy = None if args.policy.model_name_or_path else episode.policy_digest
        heat = None if args.completions.temperature is not None else how.get("temperature", 1.0)
        setting = [
            episode.env,
            *(how[name] for name in _SETTING),
            *map(how.get, _RULES),
            policy,
            heat,
            how.get("top_p", 1.0),
            how.get("top_k", -1),
        ]
        seen.setdefault(str(setting), episode)
    if len(seen) > 1:
        raise UserError(
            f"the episodes of {store.path} were played in {len(seen)} settings ({'; '.join(list(seen)[:2])}); completions want one: "
            "label stores of their own, or name --policy.model_name_or_path and --completions.temperature where only these differ"
        )
    return next(iter(seen.values()))


if __name__ == "__main__":
    run_command(main)
