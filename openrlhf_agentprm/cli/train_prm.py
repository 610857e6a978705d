"""deepspeed --module openrlhf_agentprm.cli.train_prm: train a process reward model on an episode store."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.arguments import parse_nested
from ..core.registry import LABELS, REWARD_MODELS
from ..rollout.config import json_object
from .boundary import run_command

if TYPE_CHECKING:
    from ..prm.dataset import PRMData

_SIZES = ("ring_attn_size", "tensor_parallel_size")


def build_parser() -> argparse.ArgumentParser:
    """The host's SFT flags (model, data, DeepSpeed, LoRA, optimizer, checkpoints) with those of a PRM."""
    from ..host.parsers import host_parser
    from ..prm.model import VALUES

    parser = host_parser("train_sft")
    parser.prog = "deepspeed --module openrlhf_agentprm.cli.train_prm"
    parser.description = "Train a process reward model: labels for every turn, promise and progress regressed together."
    dtype = next(action for action in parser._actions if "--ds.param_dtype" in action.option_strings)
    dtype.choices = ["bf16", "fp16", "fp32"]
    parser.add_argument("--prm.name", default="scalar", choices=REWARD_MODELS.names(), help="kind of reward model to train")
    label = parser.add_argument_group("labels")
    label.add_argument("--label.name", choices=LABELS.names(), help="method (agentprm list labels; default: the sidecar's, else td_gae)")
    label.add_argument("--label.sidecar", help="labels made beforehand by cli.label, in place of --label.name")
    label.add_argument("--label.gamma", type=float, default=1.0, help="td_gae, td_qv: discount a turn (not stated in the paper)")
    label.add_argument("--label.lambd", type=float, default=0.95, help="td_gae, td_qv: lambda (arXiv 2511.08325)")
    label.add_argument("--label.bootstrap_enable", action="store_true", help="td_gae, td_qv: bootstrap episodes that the step limit cut")
    label.add_argument("--label.dense_rewards_enable", action="store_true", help="the environment's rewards in place of the outcome")
    label.add_argument(
        "--label.values",
        choices=VALUES,
        help="how V(s_t) is read from the trained PRM: the score of the turn before, or before the action (default: td_qv state, else previous_q)",
    )
    label.add_argument(
        "--label.shuffle_seed", type=int, default=None, help="a control: deal the outcomes out again at random before training"
    )
    label.add_argument("--label.options", type=json_object, default={}, help="further options of the method, as a JSON object")
    loss = parser.add_argument_group("loss")
    loss.add_argument(
        "--loss.kind",
        default="mse",
        choices=["mse", "soft_bce"],
        help="squared error on a linear head (the paper), or cross-entropy against soft targets on a sigmoid",
    )
    loss.add_argument("--loss.beta", type=float, help="weight of the progress term (default: td_qv 0, else 1.0, as arXiv 2511.08325)")
    loss.add_argument("--loss.value_coef", type=float, default=1.0, help="weight of the value term at every state; 0 is the paper")
    loss.add_argument(
        "--loss.reduce", default="turns", choices=["turns", "episodes"], help="mean over turns, or over episodes of their means"
    )
    _add_implicit_flags(parser)
    _add_inverse_flags(parser)
    parser.add_argument("--eval.share", type=float, default=0.0, help="share of the tasks that is held out for evaluation after each epoch")
    return parser


def _add_implicit_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("kind implicit").add_argument
    add("--loss.implicit_beta", type=float, default=0.05, help="implicit: weight of the log-ratio (arXiv 2412.01981)")
    add("--loss.implicit_reference", help="implicit: the reference model (default: the model that training starts from)")
    add("--loss.implicit_output", default="sigmoid", choices=["sigmoid", "linear"], help="implicit: Q is a probability, or the log-ratio")


def _add_inverse_flags(parser: argparse.ArgumentParser) -> None:
    from ..prm.inverse import NEXT

    add = parser.add_argument_group("kind inverse").add_argument
    add(
        "--data.expert_dataset", help="inverse: stores of experts' episodes, divided by commas; --data.dataset holds those of past policies"
    )
    add("--data.next_actions", help="inverse: folders of cli.label --label.name next_actions, divided by commas")
    add("--loss.inverse_gamma", type=float, default=1.0, help="inverse: discount a turn (not stated in arXiv 2502.10325)")
    add("--loss.inverse_value_coef", type=float, default=0.1, help="inverse: weight of the value term, in place of --loss.value_coef")
    add(
        "--loss.inverse_next",
        default="full",
        choices=NEXT,
        help="inverse: gradient of the next action's Q: through it, stopped, or a target's",
    )
    add("--loss.target_every", type=int, default=100, help="inverse: optimizer steps between refreshes of the target network")
    add("--loss.inverse_own_enable", action="store_true", help="inverse: an episode's own next action where none was sampled")


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    fill_in(args)
    train(args)
    return 0


def fill_in(args: Any) -> None:
    """Defaults that depend on the method: `td_qv` regresses Q and V on one target, and reads V where it was trained."""
    from ..data.sidecar import read_about

    made = read_about(args.label.sidecar)["method"] if args.label.sidecar else None
    args.label.name = args.label.name or made or "td_gae"
    at_states = args.label.name == "td_qv"
    args.label.values = args.label.values or ("state" if at_states else "previous_q")
    if args.loss.beta is None:
        args.loss.beta = 0.0 if at_states else 1.0


def train(args: Any) -> None:
    from ..agents.chat import load_tokenizer
    from ..core.errors import UserError
    from ..data.sidecar import read_labels, targets_outside
    from ..host.activate import activate
    from ..host.cpu import prepare_environment
    from ..host.launch import stand_alone
    from ..prm.dataset import attach_labels, load_data, shuffle_outcomes, split_by_task
    from ..prm.vocabulary import check_vocabulary

    if problems := _problems(args):
        raise UserError(problems)
    prepare_environment(alone=True)
    stand_alone()
    activate()
    data = load_data(args.data.dataset.split(","), max_len=args.data.max_len, max_samples=args.data.max_samples)
    if args.loss.kind == "soft_bce" and (args.label.dense_rewards_enable or any(not 0 <= e.outcome <= 1 for e in data.episodes)):
        raise UserError("--loss.kind soft_bce wants outcomes from 0 to 1 and no dense rewards; take --loss.kind mse")
    if args.label.sidecar:
        labels = read_labels(args.label.sidecar)
        if args.loss.kind == "soft_bce" and (outside := targets_outside(labels, 0, 1)):
            raise UserError([f"--loss.kind soft_bce: {told}" for told in outside] + ["take --loss.kind mse for these labels"])
        attach_labels(data, labels)
    if args.label.shuffle_seed is not None:
        shuffle_outcomes(data.episodes, args.label.shuffle_seed)
    episodes, held_out = split_by_task(data.episodes, args.eval.share)
    if args.eval.dataset:
        held_out = load_data(args.eval.dataset.split(","), max_len=args.data.max_len).episodes
    if len(episodes) < args.train.batch_size:
        raise UserError(f"{len(episodes)} episodes do not fill one batch of --train.batch_size {args.train.batch_size}")
    check_vocabulary(args.model.model_name_or_path, args.data.dataset, episodes)
    tokenizer = load_tokenizer(args.model.model_name_or_path)
    _train(args, tokenizer, episodes, held_out, data)


def _problems(args: Any) -> list[str]:
    """Everything that the flags alone tell, before anything is read."""
    from ..host.ppo_checks import unknown_options
    from ..prm.kinds import trainable

    found = trainable(args.prm.name).problems(args)
    if not args.model.model_name_or_path:
        found.append("--model.model_name_or_path is required: a policy to start from, or a PRM")
    if not args.data.dataset:
        found.append("--data.dataset is required: one or more episode stores, divided by commas")
    if not 0 <= args.eval.share < 1:
        found.append(f"--eval.share is {args.eval.share}; wanted a share of the tasks from 0 to below 1")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if args.train.batch_size % (args.train.micro_batch_size * processes):
        found.append(
            f"--train.batch_size {args.train.batch_size} is no multiple of --train.micro_batch_size {args.train.micro_batch_size}"
            f" × {processes} process(es)"
        )
    label = LABELS.load(args.label.name)
    if args.label.sidecar:
        return found + _unsupported(args) + _sidecar_problems(args)
    if hasattr(label, "annotate"):
        told = f"make them with cli.label --label.name {args.label.name} and give the folder as --label.sidecar"
        return [*found, *_unsupported(args), f"--label.name {args.label.name} makes its labels from the whole store: {told}"]
    return found + _unsupported(args) + unknown_options("--label.options", args.label.options, label)


def _sidecar_problems(args: Any) -> list[str]:
    """Flags that would change labels which are made already."""
    from ..data.sidecar import read_about

    made = read_about(args.label.sidecar)["method"]
    found = (
        []
        if made == args.label.name
        else [f"--label.sidecar {args.label.sidecar} was made by {made}, not by --label.name {args.label.name}"]
    )
    given = {
        "--label.options": args.label.options,
        "--label.bootstrap_enable": args.label.bootstrap_enable,
        "--label.dense_rewards_enable": args.label.dense_rewards_enable,
        "--label.shuffle_seed": args.label.shuffle_seed is not None,
    }
    return found + [f"{name} does nothing to labels that are made already; give it to cli.label" for name, on in given.items() if on]


def _unsupported(args: Any) -> list[str]:
    """Flags of the host's SFT that PRM training would accept and not do."""
    found = [f"--ds.{name} {getattr(args.ds, name)}: a PRM is trained with 1" for name in _SIZES if getattr(args.ds, name, 1) > 1]
    on = {"--ds.packing_samples": getattr(args.ds, "packing_samples", False), "--ds.load_in_4bit": getattr(args.ds, "load_in_4bit", False)}
    return found + [f"{name} is not supported in PRM training" for name, value in on.items() if value]


def _train(args: Any, tokenizer: Any, episodes: list[Any], held_out: list[Any], data: PRMData) -> None:
    from ..host.prm_strategy import prepare_model, set_up
    from ..host.prm_trainer import PRMTrainer
    from ..prm.kinds import trainable
    from ..prm.model import Record

    kind = trainable(args.prm.name)
    strategy = set_up(args)
    summary = data.summary()
    strategy.print(f"{summary}")
    model = prepare_model(args, strategy, kind)
    trainer = PRMTrainer(strategy, model, tokenizer, kind.objective(episodes, args, data.labels), held_out, args)
    trainer.fit()
    label = {k: v for k, v in vars(args.label).items() if k not in ("name", "values")}
    about = {"method": args.label.name, **kind.recorded(args)}
    own = about.pop("options", {})
    record = Record(
        kind=args.prm.name,
        **about,
        options={**label, **vars(args.loss), "epochs": args.train.max_epochs, "lr": args.adam.lr, "seed": args.train.seed, **own},
        data={"dataset": args.data.dataset, **summary},
    )
    trainer.save(args.ckpt.output_dir, record)


if __name__ == "__main__":
    run_command(main)
