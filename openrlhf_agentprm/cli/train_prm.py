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
    from ..core.ensembles import COMBINE
    from ..host.parsers import host_parser
    from ..prm.model import OUTPUTS, VALUES
    from ..prm.step_flags import add_step_flags

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
        choices=list(OUTPUTS),
        help=(
            "mse: squared error on a linear head (arXiv 2511.08325); soft_bce: cross-entropy against soft targets on a sigmoid; pqm: right turns "
            "of an episode above wrong ones (arXiv 2410.11287); pairs: preference pairs of --label.sidecar"
        ),
    )
    loss.add_argument(
        "--loss.beta", type=float, help="weight of the progress term (default: td_qv 0 but for two_head, else 1.0, as arXiv 2511.08325)"
    )
    loss.add_argument("--loss.value_coef", type=float, default=1.0, help="weight of the value term at every state; 0 is the paper")
    loss.add_argument(
        "--loss.reduce", default="turns", choices=["turns", "episodes"], help="mean over turns, or over episodes of their means"
    )
    loss.add_argument(
        "--loss.zeta", type=float, default=4.0, help="pqm: distance of wrong turns below right ones (2 and 4 in arXiv 2410.11287)"
    )
    loss.add_argument(
        "--loss.margin_coef", type=float, default=0.0, help="pairs: distance asked for a unit of a pair's margin (arXiv 2307.09288, Eq 2)"
    )
    loss.add_argument("--loss.pairs_per_task", type=int, default=8, help="trajectory: pairs drawn of the episodes of a task; 0: all")
    kind = parser.add_argument_group("kinds of reward models")
    kind.add_argument("--prm.heads", type=int, default=4, help="heads: members on the shared backbone")
    kind.add_argument("--prm.combine", default="mean", choices=COMBINE, help="heads: what their scores are combined to")
    kind.add_argument("--prm.kappa", type=float, default=1.0, help="heads: standard deviations below the mean (lcb)")
    kind.add_argument("--prm.bootstrap_disable", action="store_true", help="heads: train every head on all episodes")
    kind.add_argument("--prm.compressed_copies", type=int, default=1, help="hierarchical: copies of an episode with a span compressed")
    _add_implicit_flags(parser)
    _add_inverse_flags(parser)
    _add_data_flags(parser)
    add_step_flags(parser.add_argument_group("steps inside a response"))
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


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    """How batches are cut, what older episodes weigh, and when training stops."""
    from ..host.best_weights import METRICS

    add = parser.add_argument_group("batches, replay and held-out episodes").add_argument
    add("--train.dynamic_batch_enable", action="store_true", help="cut a batch by tokens in place of --train.micro_batch_size episodes")
    add("--train.max_tokens_per_gpu", type=int, default=16192, help="tokens a micro-batch then holds, padding counted unless packed")
    add("--data.replay_decay", type=float, default=1.0, help="weight of an episode for each iteration that it is older than the newest")
    add("--data.replay_share", type=float, default=1.0, help="older iterations' episodes are at most this share of the training data")
    add("--eval.share", type=float, default=0.0, help="share of the tasks held out for evaluation after each epoch, or --eval.steps steps")
    add("--eval.patience", type=int, help="stop after so many evaluations without a better one, and keep the best one's weights")
    add("--eval.metric", default="brier_last", choices=list(METRICS), help="the figure that --eval.patience goes by")


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    fill_in(args)
    train(args)
    return 0


def fill_in(args: Any) -> None:
    """Defaults that depend on the method: `td_qv` regresses Q and V on one target, and reads V where it was trained."""
    from ..data.sidecar import read_about
    from ..prm.kinds import reads

    made = read_about(args.label.sidecar)["method"] if args.label.sidecar else None
    if reads(args, "label.name"):
        args.label.name = args.label.name or made or "td_gae"
    at_states = args.label.name == "td_qv"
    if reads(args, "label.values"):
        args.label.values = args.label.values or ("state" if at_states else "previous_q")
    if reads(args, "loss.beta") and args.loss.beta is None:
        args.loss.beta = 0.0 if at_states and args.prm.name != "two_head" else 1.0  # a head for progress alone is trained by β alone


def train(args: Any) -> None:
    from ..agents.chat import load_tokenizer
    from ..core.errors import UserError
    from ..data.sidecar import read_labels, targets_outside
    from ..host.activate import activate
    from ..host.cpu import prepare_environment
    from ..host.launch import stand_alone
    from ..host.prm_strategy import set_up
    from ..prm.dataset import attach_labels, shuffle_outcomes, split_by_task
    from ..prm.kinds import trainable
    from ..prm.replay import cap_older
    from ..prm.steps import step_loader
    from ..prm.vocabulary import check_vocabulary

    if problems := _problems(args):
        raise UserError(problems)
    prepare_environment(alone=True)
    stand_alone()
    activate()
    load_data = step_loader(args)
    data = load_data(args.data.dataset.split(","), max_len=args.data.max_len, max_samples=args.data.max_samples)
    if args.loss.kind == "soft_bce" and (args.label.dense_rewards_enable or any(not 0 <= e.outcome <= 1 for e in data.episodes)):
        raise UserError("--loss.kind soft_bce wants outcomes from 0 to 1 and no dense rewards; take --loss.kind mse")
    if args.label.sidecar and args.loss.kind != "pairs":
        labels = read_labels(args.label.sidecar)
        if args.loss.kind == "soft_bce" and (outside := targets_outside(labels, 0, 1)):
            raise UserError([f"--loss.kind soft_bce: {told}" for told in outside] + ["take --loss.kind mse for these labels"])
        attach_labels(data, labels)
    if args.label.shuffle_seed is not None:
        shuffle_outcomes(data.episodes, args.label.shuffle_seed)
    episodes, held_out = split_by_task(data.episodes, args.eval.share)
    if args.eval.dataset:
        held_out = load_data(args.eval.dataset.split(","), max_len=args.data.max_len).episodes
    episodes = cap_older(episodes, args.data.replay_share, data.left_out) if episodes else episodes
    if args.eval.patience is not None and not held_out:
        raise UserError("--eval.patience: no episode is held out; raise --eval.share, or give --eval.dataset")
    check_vocabulary(args.model.model_name_or_path, args.data.dataset, episodes)
    tokenizer = load_tokenizer(args.model.model_name_or_path)
    strategy = set_up(args)  # each process has its device from here on
    objective = trainable(args.prm.name).objective(episodes, args, data.labels)
    if len(objective.lengths) < args.train.batch_size:
        of = "" if len(objective.lengths) == len(episodes) else f", of {len(episodes)} episodes,"
        items = "episodes" if not of else "items"
        raise UserError(f"{len(objective.lengths)} {items}{of} do not fill one batch of --train.batch_size {args.train.batch_size}")
    _train(args, strategy, tokenizer, objective, episodes, held_out, data)


def _problems(args: Any) -> list[str]:
    """Everything that the flags alone tell, before anything is read."""
    from ..host.ppo_checks import unknown_options
    from ..prm.kinds import trainable

    found = trainable(args.prm.name).problems(args) + _unread(args)
    if not args.model.model_name_or_path:
        found.append("--model.model_name_or_path is required: a policy to start from, or a PRM")
    if not args.data.dataset:
        found.append("--data.dataset is required: one or more episode stores, divided by commas")
    if not 0 <= args.eval.share < 1:
        found.append(f"--eval.share is {args.eval.share}; wanted a share of the tasks from 0 to below 1")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro = 1 if args.train.dynamic_batch_enable else args.train.micro_batch_size
    if args.train.batch_size % (micro * processes):
        told = "" if micro == 1 else f"--train.micro_batch_size {micro} × "
        found.append(f"--train.batch_size {args.train.batch_size} is no multiple of {told}{processes} process(es)")
    found += _data_problems(args)
    if args.label.sidecar:
        return found + _unsupported(args) + _sidecar_problems(args)
    if args.label.name is None:  # the kind learns from outcomes alone
        return found + _unsupported(args)
    label = LABELS.load(args.label.name)
    if hasattr(label, "annotate"):
        told = f"make them with cli.label --label.name {args.label.name} and give the folder as --label.sidecar"
        return [*found, *_unsupported(args), f"--label.name {args.label.name} makes its labels from the whole store: {told}"]
    return found + _unsupported(args) + unknown_options("--label.options", args.label.options, label)


def _data_problems(args: Any) -> list[str]:
    """What is wrong with the flags of `_add_data_flags`."""
    from ..prm.kinds import trainable

    found: list[str] = []
    data = args.data
    supports: frozenset[str] = getattr(trainable(args.prm.name), "supports", frozenset())
    if not 0 < data.replay_decay <= 1:
        found.append(f"--data.replay_decay is {data.replay_decay}; wanted above 0 and at most 1, which weighs all iterations alike")
    if data.replay_decay < 1 and not ("replay" in supports and args.loss.kind in ("mse", "soft_bce")):
        which = f"--prm.name {args.prm.name} with --loss.kind {args.loss.kind}"
        found.append(f"--data.replay_decay is not supported by {which}; take --data.replay_share")
    if data.replay_decay < 1 and args.loss.reduce == "episodes":
        found.append("--data.replay_decay weighs turns, which --loss.reduce episodes divides out again; take turns, or --data.replay_share")
    if not 0 <= data.replay_share <= 1:
        found.append(f"--data.replay_share is {data.replay_share}; wanted a share of the training episodes from 0 to 1")
    if args.train.max_tokens_per_gpu < 1:
        found.append(f"--train.max_tokens_per_gpu is {args.train.max_tokens_per_gpu}; wanted at least 1")
    if args.eval.patience is not None and args.eval.patience < 1:
        found.append(f"--eval.patience is {args.eval.patience}; wanted at least 1 evaluation")
    if args.eval.patience is not None and not (args.eval.share or args.eval.dataset):
        found.append("--eval.patience wants held-out episodes: --eval.share of the tasks, or --eval.dataset")
    if args.ds.packing_samples and "packing" not in supports:
        found.append(f"--ds.packing_samples is not supported by --prm.name {args.prm.name}")
    if args.ds.packing_samples and args.ds.attn_implementation == "eager":
        found.append("--ds.packing_samples wants --ds.attn_implementation sdpa or flash_attention_2, and came with eager")
    return found


def _unread(args: Any) -> list[str]:
    """Flags that were given and that the kind, or the loss, does not read."""
    from ..prm.kinds import flags, reads

    defaults = {action.dest: action.default for action in build_parser()._actions}
    given = [name for name, value in flags(args) if name in defaults and value != defaults[name]]
    which = f"--prm.name {args.prm.name}" + (f" with --loss.kind {args.loss.kind}" if reads(args, "loss.kind") else "")
    return [f"--{name} is given, but {which} does not read it" for name in given if not reads(args, name)]


def _sidecar_problems(args: Any) -> list[str]:
    """A sidecar that holds something else than is wanted, and flags that would change labels which are made already."""
    from ..data.sidecar import read_about
    from ..prm.kinds import reads

    if not reads(args, "label.sidecar"):
        return []
    about = read_about(args.label.sidecar)
    made, holds = about["method"], about.get("kind", "targets")
    found = (
        []
        if made == args.label.name
        else [f"--label.sidecar {args.label.sidecar} was made by {made}, not by --label.name {args.label.name}"]
    )
    if (holds == "pairs") != (args.loss.kind == "pairs"):
        takes = "wants pairs" if args.loss.kind == "pairs" else "wants targets of turns; pairs are for --loss.kind pairs"
        found.append(f"--label.sidecar {args.label.sidecar} holds {holds}, but --loss.kind {args.loss.kind} {takes}")
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
    return found + (["--ds.load_in_4bit is not supported in PRM training"] if getattr(args.ds, "load_in_4bit", False) else [])


def _train(args: Any, strategy: Any, tokenizer: Any, objective: Any, episodes: list[Any], held_out: list[Any], data: PRMData) -> None:
    from ..host.prm_strategy import prepare_model
    from ..host.prm_trainer import PRMTrainer
    from ..prm.kinds import OF_ALL, flags, reads, trainable
    from ..prm.model import Record
    from ..prm.replay import iterations

    kind = trainable(args.prm.name)
    about_data = {"iterations": iterations(episodes, args.data.replay_decay), "held_out": len(held_out)}
    summary = data.summary() | about_data
    strategy.print(f"{summary}")
    model = prepare_model(args, strategy, kind)
    trainer = PRMTrainer(strategy, model, tokenizer, objective, held_out, args)
    trainer.fit()
    recorded = (*OF_ALL, "label.name", "label.values")
    options = {name.rpartition(".")[2]: value for name, value in flags(args) if reads(args, name) and name not in recorded}
    about = {"method": args.label.name or "outcome", **kind.recorded(args)}
    own = about.pop("options", {})
    record = Record(
        kind=args.prm.name,
        **about,
        step_delimiter=[list(d) for d in args.prm.step_delimiter],
        options={**options, "epochs": args.train.max_epochs, "lr": args.adam.lr, "seed": args.train.seed, **own},
        data={"dataset": args.data.dataset, "start": args.model.model_name_or_path, **summary},
    )
    trainer.save(args.ckpt.output_dir, record)


if __name__ == "__main__":
    run_command(main)
