"""deepspeed --module openrlhf_agentprm.cli.train_prm: train a process reward model on an episode store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.arguments import parse_nested
from .boundary import run_command
from .train_prm_checks import problems_of_flags
from .train_prm_flags import build_parser

if TYPE_CHECKING:
    from ..prm.dataset import PRMData


def main(argv: Sequence[str]) -> int:
    args = parse_nested(build_parser(), argv)
    fill_in(args)
    train(args)
    return 0


def fill_in(args: Any) -> None:
    """Defaults that depend on the method: `td_qv` regresses Q and V on one target, and reads V where it was trained; PVM has no progress term."""
    from ..data.sidecar import read_about
    from ..prm.kinds import reads

    made = read_about(args.label.sidecar)["method"] if args.label.sidecar else None
    if reads(args, "label.name"):
        args.label.name = args.label.name or made or "td_gae"
    at_states = args.label.name == "td_qv"
    if reads(args, "label.values"):
        args.label.values = args.label.values or ("state" if at_states else "previous_q")
    if reads(args, "loss.beta") and args.loss.beta is None:
        promise_alone = args.label.name in ("td_qv", "outcome_all") and args.prm.name != "two_head"  # whose other head β alone trains
        args.loss.beta = 0.0 if promise_alone else 1.0


def train(args: Any) -> None:
    from ..agents.chat import load_tokenizer
    from ..core.errors import UserError
    from ..data.sidecar import read_labels, targets_outside
    from ..host.activate import activate
    from ..host.cpu import prepare_environment
    from ..host.launch import stand_alone
    from ..host.prm_strategy import set_up
    from ..prm.dataset import attach_labels, shuffle_outcomes, warn_of_leaks
    from ..prm.kinds import trainable
    from ..prm.replay import cap_older
    from ..prm.steps import step_loader
    from ..prm.vocabulary import check_vocabulary

    if problems := problems_of_flags(args):
        raise UserError(problems)
    prepare_environment(alone=True)
    stand_alone()
    activate()
    load_data = step_loader(args)
    data = load_data(args.data.dataset.split(","), max_len=args.data.max_len, max_samples=args.data.max_samples)
    if args.loss.kind == "soft_bce" and not args.label.sidecar:
        _check_outcomes(data.episodes, args)
    if args.label.sidecar and args.loss.kind != "pairs":
        labels = read_labels(args.label.sidecar)
        if args.loss.kind == "soft_bce" and (outside := targets_outside(labels, 0, 1)):
            raise UserError([f"--loss.kind soft_bce: {told}" for told in outside] + ["take --loss.kind mse for these labels"])
        attach_labels(data, labels)
    if args.label.shuffle_seed is not None:
        shuffle_outcomes(data.episodes, args.label.shuffle_seed)
    episodes, held_out = split(data.episodes, args)
    if args.eval.dataset:
        held_out = load_data(args.eval.dataset.split(","), max_len=args.data.max_len).episodes
        warn_of_leaks("--data.dataset", episodes, args.eval.dataset)
    episodes = cap_older(episodes, args.data.replay_share, data.left_out)
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


def _check_outcomes(episodes: list[Any], args: Any) -> None:
    """Cross-entropy has targets from 0 to 1.

    Raises:
        UserError: names the episodes whose outcome is none.
    """
    from ..core.errors import UserError
    from ..prm.dataset import check_outcomes

    if args.label.dense_rewards_enable:
        raise UserError("--loss.kind soft_bce takes no --label.dense_rewards_enable, whose returns leave [0, 1]; take --loss.kind mse")
    check_outcomes(episodes, "--loss.kind soft_bce", "take --loss.kind mse for these outcomes")


def split(episodes: list[Any], args: Any) -> tuple[list[Any], list[Any]]:
    """(training, held out) by `--eval.share`.

    Raises:
        UserError: nothing is left to train on.
    """
    from ..core.errors import UserError
    from ..prm.dataset import split_by_task

    training, held_out = split_by_task(episodes, args.eval.share)
    if not training:
        raise UserError(
            f"--eval.share {args.eval.share:g} holds out all {len({e.task_id for e in held_out})} task(s) of {args.data.dataset}, and none is left "
            "to train on; lower it, or give --eval.dataset in its place"
        )
    return training, held_out


def _train(args: Any, strategy: Any, tokenizer: Any, objective: Any, episodes: list[Any], held_out: list[Any], data: PRMData) -> None:
    from ..host.prm_strategy import prepare_model
    from ..host.prm_trainer import PRMTrainer
    from ..prm.kinds import OF_ALL, flags, reads, trainable
    from ..prm.record import Record
    from ..prm.replay import iterations

    kind = trainable(args.prm.name)
    about_data = {"iterations": iterations(episodes, args.data.replay_decay), "held_out": len(held_out)}
    summary = data.summary() | about_data
    strategy.print(f"{summary}")
    model = prepare_model(args, strategy, kind)
    trainer = PRMTrainer(strategy, model, tokenizer, objective, held_out, args)
    if not trainer.fit():
        strategy.print(f"this training has finished before: {args.ckpt.output_dir} stays as it is")
        return
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
    if args.ds.zero_stage < 3:  # a further pass over partitioned weights is not worth its risk
        record.reference = trainer.reference(held_out or episodes, record)
    trainer.save(args.ckpt.output_dir, record)


if __name__ == "__main__":
    run_command(main)
