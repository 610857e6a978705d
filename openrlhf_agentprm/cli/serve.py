"""agentprm serve PRM_DIR: scores over HTTP, for whole episodes and by the host's remote reward model protocol."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from functools import partial
from importlib import util
from typing import TYPE_CHECKING, Any

from ..core.arguments import Parser, parse_nested
from ..core.errors import UserError
from ..core.registry import REWARD_MODELS
from .boundary import run_command

if TYPE_CHECKING:
    from ..prm.scoring import RewardModel

ENGINES = ("auto", "transformers", "vllm")
_LOCAL = ("127.0.0.1", "::1", "localhost")


def build_parser() -> Parser:
    parser = Parser(prog="agentprm serve", description="Serve a process reward model's scores over HTTP until SIGTERM or Ctrl-C.")
    add = parser.add_argument
    add("path", metavar="PRM_DIR", help="checkpoint")
    add("--prm.name", default="auto", choices=["auto", *REWARD_MODELS.names()], help="kind of reward model (auto: as the checkpoint says)")
    add("--prm.param_dtype", default="fp32", choices=["fp32", "bf16", "fp16"], help="dtype of the backbone")
    add("--prm.device", default=None, help="device of our own scorer (cuda where there is one)")
    add("--serve.host", default="127.0.0.1", help="address to listen at; there is no authentication")
    add("--serve.port", type=int, default=8000, help="port; 0 takes a free one")
    add(
        "--serve.engine",
        default="auto",
        choices=ENGINES,
        help="vllm: its pooling runner, and for PRMs that reason its sampler; transformers: our own scorer; auto: vllm on a GPU where it can serve "
        "the model",
    )
    add("--serve.max_wait_ms", type=_positive, default=2.0, help="how long a request waits for others to be scored with")
    add("--serve.max_batch_tokens", type=_count, default=16_384, help="padded tokens a scoring batch")
    add("--serve.max_body_mb", type=_count, default=32, help="MiB of a request's body, else 413")
    add("--serve.max_episodes", type=_count, default=256, help="episodes or queries in a request, else 422")
    add("--serve.max_len", type=_count, default=None, help="tokens an episode, else 422 (the model's context)")
    add("--serve.max_queued_tokens", type=_count, default=1_048_576, help="tokens that may wait over all requests, else 429")
    add("--serve.timeout_s", type=_positive, default=60.0, help="seconds for a request, else 504")
    add("--vllm.gpu_memory_utilization", type=float, default=0.5, help="share of the GPU's memory for vLLM")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    _check(args)
    with _bound(args.serve.host, args.serve.port) as bound:  # before the model is loaded: a port in use is told at once
        return _serve(args, bound)


def _serve(args: Any, bound: socket.socket) -> int:
    from ..serving.run import serve

    service = _service(args)
    if args.serve.host not in _LOCAL:
        print(f"--serve.host {args.serve.host}: whoever reaches this address can ask for scores", file=sys.stderr)
    serve(service, bound, lambda url: print(f"serving {args.path} at {url}", flush=True))
    print("stopped; every request that was under way has been answered", flush=True)
    return 0


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--serve.host {host!r} is no address of this machine: {error.strerror}") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}; give another --serve.port or --serve.host") from error
    return bound


def _check(args: Any) -> None:
    """What flags and installed packages tell, before anything is loaded."""
    problems = []
    absent = [name for name in ("fastapi", "uvicorn", "prometheus_client") if util.find_spec(name) is None]
    if absent:
        problems.append(f"serving needs {', '.join(absent)}, which come with the host: pip install 'openrlhf-agentprm[host]'")
    if not 0 <= args.serve.port < 65_536:
        problems.append(f"--serve.port is {args.serve.port}; wanted 0 to 65535")
    if problems:
        raise UserError(problems)


def _check_kind(args: Any) -> None:
    from ..prm.kinds import AUTO, check_reward_model, kind_of, load_kind
    from ..prm.scoring import is_plain, reasons

    if args.prm.name == AUTO:
        args.prm.name = kind_of(args.path)
    if args.prm.name == "remote":
        raise UserError(f"{args.path} is remote: it is served elsewhere already")
    kind = load_kind(args.prm.name, args.path)
    if args.serve.engine == "vllm" and not (is_plain(kind) or reasons(kind)):
        raise UserError(
            f"--serve.engine vllm serves PRMs whose score is that of one head; {args.path} is {args.prm.name}, which does not reason either: leave "
            "--serve.engine out"
        )
    check_reward_model(args.prm.name, args.path)


def _service(args: Any) -> Any:
    from ..agents.chat import load_tokenizer
    from ..host.cpu import prepare_environment
    from ..prm.kinds import records_of
    from ..prm.kinds.ensemble import checkpoints_of
    from ..prm.record import Record
    from ..prm.steps import settle, trained_on
    from ..prm.vocabulary import read_config, vocabulary_digest
    from ..rollout.digest import policy_digest
    from ..serving.app import Service
    from ..serving.requests import Limits, Reader

    prepare_environment(alone=True)
    _check_kind(args)
    records = records_of(args.prm.name, args.path) or [Record.load(args.path)]
    record = next((r for r in records if not r.value_trained), records[0])
    folders = checkpoints_of(args.prm.name, args.path) or [args.path]
    folder = folders[0]
    delimiters = settle(None, trained_on(args.prm.name, [args.path]))
    config = read_config(folder).get_text_config()
    tokenizer = load_tokenizer(folder)
    context = args.serve.max_len or getattr(config, "max_position_embeddings", None) or args.serve.max_batch_tokens
    limits = Limits(args.serve.max_body_mb << 20, args.serve.max_episodes, context, args.serve.max_queued_tokens, args.serve.timeout_s)
    prm, engine = _engine(args, context)
    about = {
        "model": str(args.path),
        "name": args.prm.name,
        "engine": engine,
        "digest": "+".join(map(policy_digest, dict.fromkeys([args.path, *folders]))),
        "vocabulary": vocabulary_digest(tokenizer),
        "method": record.method,
        "values": record.values,
        "output": record.output,
        "value_trained": record.value_trained,
        "scale": record.scale,
        "step_delimiter": delimiters,
        "max_len": context,
        "max_episodes": limits.episodes,
    }
    wait = args.serve.max_wait_ms / 1000
    reader = Reader(tokenizer, config.vocab_size, limits, delimiters)
    return Service(prm, reader, about, max_batch_tokens=args.serve.max_batch_tokens, max_wait_s=wait)


def _engine(args: Any, context: int) -> tuple[RewardModel, str]:
    """The scorer and the name of its engine."""
    from ..host.cpu import has_cuda
    from ..prm.kinds import load_kind
    from ..prm.scoring import is_plain, load_reward_model, reasons

    kind = load_kind(args.prm.name, args.path)
    by_vllm = args.serve.engine == "vllm" or (args.serve.engine == "auto" and has_cuda())
    device = args.prm.device or ("cuda" if has_cuda() else "cpu")
    if by_vllm and reasons(kind):
        from ..host.reasoning import EngineReasoner, reasoner_if_loadable, vllm_reasoner

        make = vllm_reasoner if args.serve.engine == "vllm" else reasoner_if_loadable
        reasoner = partial(make, memory=args.vllm.gpu_memory_utilization)
        prm = load_reward_model(args.prm.name, args.path, dtype=args.prm.param_dtype, device=device, reasoner=reasoner)
        return prm, "vllm" if isinstance(getattr(prm, "reasoner", None), EngineReasoner) else "transformers"
    if by_vllm and is_plain(kind):
        from ..host.pooling import PooledPRM

        try:
            return PooledPRM.load(
                args.path,
                dtype=args.prm.param_dtype,
                max_model_len=context,
                gpu_memory_utilization=args.vllm.gpu_memory_utilization,
            ), "vllm"
        except UserError as error:
            if args.serve.engine == "vllm":
                raise
            print(f"{error}; scoring with transformers", file=sys.stderr)
    return load_reward_model(args.prm.name, args.path, dtype=args.prm.param_dtype, device=device), "transformers"


def _positive(text: str) -> float:
    """argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _count(text: str) -> int:
    """argparse type: a whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    run_command(main)
