"""python -m openrlhf_agentprm.cli.rationalise: tell episodes again with a thought before each action, written by a model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.argument_types import positive_int, seed, temperature, top_p
from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from .boundary import run_command


def build_parser() -> Parser:
    from ..agents.parsing import ACTION_FORMATS
    from ..rollout.flags import add_chat_flags

    parser = Parser(
        prog="python -m openrlhf_agentprm.cli.rationalise",
        description="A model writes the thought before each action that was taken (post-hoc rationalisation), and the episodes are told again as "
        "ReAct text, 'Thought: …' and 'Action: …', to learn from by train_sft. The same command continues an interrupted run.",
    )
    add = parser.add_argument
    add("--data.dataset", required=True, help="episode store, such as an expert's; several by commas")
    add("--data.min_outcome", type=float, default=1.0, help="episodes below it are left out")
    add("--data.max_len", type=int, default=None, help="context in tokens (2048, or what the model has if that is less)")
    add("--data.action_format", default="action_only", choices=list(ACTION_FORMATS), help="how the episodes' actions are read")
    add("--policy.model_name_or_path", required=True, help="writes the thoughts; the new episodes are in its tokens")
    add_chat_flags(parser.add_argument_group("the new episodes' prompts"))
    add("--rationalise.output", required=True, help="folder of the store to write")
    add("--rationalise.template_file", default=None, help="text file with the question: $instruction, $history, $observation, $action")
    add("--rationalise.max_tokens", type=positive_int, default=64, help="tokens of a thought")
    add("--rationalise.temperature", type=temperature, default=0.7, help="sampling temperature; 0 is greedy")
    add("--rationalise.top_p", type=top_p, default=1.0, help="nucleus sampling")
    add("--rationalise.seed", type=seed, default=0, help="seed of the sampler")
    add("--vllm.tensor_parallel_size", type=int, default=1, help="GPUs for one copy of the model")
    add("--vllm.gpu_memory_utilization", type=float, default=0.9, help="share of the GPU's memory for vLLM")
    add("--vllm.enforce_eager", action="store_true", help="no CUDA graphs")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    template = _template(args.rationalise.template_file)
    write(args, template)
    return 0


def write(args: Any, template: str) -> dict[str, Any]:
    """Write what the store lacks; a summary, which is written beside its shards as well."""
    from tqdm import tqdm

    from ..agents.chat import ChatFormat, load_tokenizer
    from ..agents.digest import policy_digest, text_digest
    from ..agents.parsing import parser_for
    from ..data.episode import episode_id
    from ..data.files import write_whole
    from ..data.store import EpisodeStore, EpisodeWriter
    from ..host.engine import VLLMEngine, context_length
    from ..rollout.config import EnvConfig
    from ..rollout.engine import Sampling
    from ..rollout.rationalise import Told, Writer, rationalise

    flags, model = args.rationalise, args.policy.model_name_or_path
    config = EnvConfig.from_namespace(args.env, name="", action_format="react")
    max_len = context_length(model, args.data.max_len)
    writer = Writer(
        ChatFormat(load_tokenizer(model, args.env.chat_template), template_args=config.chat_template_args, history="as_sampled"),
        config.chat(model), parser_for(args.data.action_format),
        Sampling(flags.temperature, flags.top_p), template, flags.max_tokens, max_len, flags.seed,
    )  # fmt: skip
    by = {"by": policy_digest(model), "template": text_digest(template), "temperature": flags.temperature, "top_p": flags.top_p}
    how = {"format": text_digest(writer.told.identity()), "max_len": max_len, "rationalised": by | {"max_tokens": flags.max_tokens}}

    def id_of(e: Any) -> str:
        return episode_id(e.env, e.task_id, e.seed, e.sample, e.policy_digest, e.sampling | how, e.iteration)

    chosen = [e for e in EpisodeStore(args.data.dataset).episodes() if e.status.has_outcome and e.reaches(args.data.min_outcome)]
    if not chosen:
        raise UserError(f"no episode of {args.data.dataset} has an outcome of {args.data.min_outcome:g} or more; lower --data.min_outcome")
    told, started = Told(), time.monotonic()
    with EpisodeWriter(flags.output) as store:
        missing = [e for e in chosen if id_of(e) not in store.ids]
        bar = tqdm(total=len(chosen), initial=len(chosen) - len(missing), desc="episodes", unit="ep", mininterval=1.0)
        if missing:
            vllm = vars(args.vllm)
            engine = VLLMEngine(model, max_model_len=max_len, seed=flags.seed, logprobs=False, request_seeds=True, **vllm)
            for episode in rationalise(missing, engine, writer, lambda e: e.sampling | how, told):
                store.add(episode)
                bar.update()
            engine.close()
        bar.close()
        summary = {
            "episodes": len(store.ids),
            **vars(told),
            "left_out": dict(told.left_out),
            "seconds": round(time.monotonic() - started, 2),
        }
        write_whole(Path(flags.output, ".rationalise.json"), json.dumps(summary, indent=1) + "\n")
    print(f"{told.kept} episodes told again, {told.thoughts} thoughts; left out: {dict(told.left_out) or 'none'}")
    return summary


def _template(path: str | None) -> str:
    """The question's template.

    Raises:
        UserError: the file cannot be read, or does not show the action.
    """
    from ..rollout.rationalise import FIELDS, TEMPLATE

    if path is None:
        return TEMPLATE
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--rationalise.template_file {path!r} cannot be read: {error}") from error
    if "$action" not in text and "${action}" not in text:
        raise UserError(f"--rationalise.template_file {path!r} has no $action (fields: {', '.join('$' + name for name in FIELDS)})")
    return text


if __name__ == "__main__":
    run_command(main)
