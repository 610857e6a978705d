"""What is wrong with a command line of train_prm, told before anything is read."""

from __future__ import annotations

import functools
import os
from typing import Any

from ..core.arguments import unknown_options
from ..core.registry import LABELS
from .train_prm_flags import build_parser
from .train_prm_start import start_problems

_READ_BY = {
    **dict.fromkeys(("label.gamma", "label.lambd", "label.bootstrap_enable"), " (labels td_gae and td_qv do, made while training)"),
    "label.dense_rewards_enable": " (labels td_gae and td_qv do)",
    "loss.inverse_gamma": " (inverse with --loss.inverse_contrast transitions does)",
    "loss.inverse_next": " (inverse with --loss.inverse_contrast transitions does)",
    "loss.target_every": " (inverse with --loss.inverse_next target does)",
    "prm.kappa": " (heads with --prm.combine lcb does)",
}
_GIVEN_BY = {
    "gamma": "label.gamma",
    "lambd": "label.lambd",
    "bootstrap": "label.bootstrap_enable",
    "dense": "label.dense_rewards_enable",
}
_OF_SFT = (
    *(
        f"data.{name}"
        for name in ("min_outcome", "selection", "dataset_probs", "dataset_split", "multiturn", "input_key", "output_key", "input_template")
    ),
    *(f"data.{name}" for name in ("apply_chat_template", "tokenizer_chat_template", "disable_fast_tokenizer", "dataloader_num_workers")),
    *("eval.split", "ckpt.save_hf", "ckpt.disable_ds", "ds.use_liger_kernel", "ds.experts_implementation", "ds.load_in_4bit"),
    *("model.aux_loss_coef", "model.pretrain_mode_enable", "use_ms"),
)
_SIZES = ("ring_attn_size", "tensor_parallel_size")


def problems_of_flags(args: Any) -> list[str]:
    """Everything that the flags alone tell, before anything is read."""
    from ..prm.kinds import trainable

    found = trainable(args.prm.name).problems(args) + _unread(args)
    if not args.model.model_name_or_path:
        found.append("--model.model_name_or_path is required: a policy to start from, or a PRM")
    else:
        found += start_problems(args)
    if not args.data.dataset:
        found.append("--data.dataset is required: one or more episode stores, divided by commas")
    if not 0 <= args.eval.share < 1:
        found.append(f"--eval.share is {args.eval.share}; wanted a share of the tasks from 0 to below 1")
    if args.eval.share and args.eval.dataset:
        found.append(
            "--eval.share and --eval.dataset both say what is held out, and the share's episodes would go unused; give one of them"
        )
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
    found += [
        f"--label.options has the key {name!r}, which --{flag} gives" for name, flag in _GIVEN_BY.items() if name in args.label.options
    ]
    if args.label.shuffle_seed is not None and args.label.dense_rewards_enable:
        found.append("--label.shuffle_seed deals outcomes out again, and --label.dense_rewards_enable learns from others; give one of them")
    return found + _unsupported(args) + unknown_options("--label.options", args.label.options, label)


def _data_problems(args: Any) -> list[str]:
    """What is wrong with the flags of `_add_data_flags`."""
    from ..prm.kinds import trainable
    from ..prm.record import ENDS_AS_OUTCOME, SCALES

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
    if args.eval.patience is None and args.eval.metric != "brier_last":
        found.append(f"--eval.metric {args.eval.metric} is what --eval.patience goes by, which is not given")
    if args.eval.patience is not None and args.eval.metric == "brier_last" and (scale := _scale(args)) not in ENDS_AS_OUTCOME:
        found.append(
            f"--eval.patience goes by --eval.metric brier_last, which these scores do not have ({SCALES[scale]}); take --eval.metric auc_last, or "
            "auc_last_within_task where tasks have successes and failures both"
        )
    if args.ds.packing_samples and "packing" not in supports:
        found.append(f"--ds.packing_samples is not supported by --prm.name {args.prm.name}")
    if args.ds.packing_samples and args.ds.attn_implementation == "eager":
        found.append("--ds.packing_samples wants --ds.attn_implementation sdpa or flash_attention_2, and came with eager")
    return found


def _scale(args: Any) -> str:
    """What the finished model's scores are, one of `prm.record.SCALES`."""
    from ..prm.kinds import trainable
    from ..prm.record import SCALES

    kind = trainable(args.prm.name)
    scale = kind.scale(args) if hasattr(kind, "scale") else kind.recorded(args).get("scale", "probability")
    return scale if scale in SCALES else "probability"  # what a sidecar says wrongly is told by itself


def _unread(args: Any) -> list[str]:
    """Flags that were given and that the kind, the loss or the label does not read."""
    from ..prm.kinds import flags, reads

    defaults = {action.dest: action.default for action in build_parser()._actions}
    given = [name for name, value in flags(args) if name in defaults and value != defaults[name]]
    which = f"--prm.name {args.prm.name}" + (f" with --loss.kind {args.loss.kind}" if reads(args, "loss.kind") else "")
    return [f"--{name} is given, but {which} does not read it{_READ_BY.get(name, '')}" for name in given if not reads(args, name)]


def _sidecar_problems(args: Any) -> list[str]:
    """A sidecar that holds something else than is wanted, and flags that would change labels which are made already."""
    from ..data.sidecar import read_about
    from ..prm.kinds import reads
    from ..prm.record import SCALES

    if not reads(args, "label.sidecar"):
        return []
    about = read_about(args.label.sidecar)
    made, holds = about["method"], about.get("kind", "targets")
    found = (
        []
        if made == args.label.name
        else [f"--label.sidecar {args.label.sidecar} was made by {made}, not by --label.name {args.label.name}"]
    )
    if (scale := about.get("scale", "probability")) not in SCALES:
        found.append(f"--label.sidecar {args.label.sidecar} says the scale {scale!r} (allowed: {', '.join(SCALES)})")
    if (holds == "pairs") != (args.loss.kind == "pairs"):
        takes = "wants pairs" if args.loss.kind == "pairs" else "wants targets of turns; pairs are for --loss.kind pairs"
        found.append(f"--label.sidecar {args.label.sidecar} holds {holds}, but --loss.kind {args.loss.kind} {takes}")
    given = {
        "--label.options": args.label.options,
        "--label.dense_rewards_enable": args.label.dense_rewards_enable,
        "--label.shuffle_seed": args.label.shuffle_seed is not None,
    }
    return found + [f"{name} does nothing to labels that are made already; give it to cli.label" for name, on in given.items() if on]


def _unsupported(args: Any) -> list[str]:
    """Flags of the host's SFT that PRM training would accept and not do."""
    found = [f"--ds.{name} {getattr(args.ds, name)}: a PRM is trained with 1" for name in _SIZES if getattr(args.ds, name, 1) > 1]
    defaults = {action.dest: action.default for action in build_parser()._actions}
    given = [name for name in _OF_SFT if name in defaults and functools.reduce(getattr, name.split("."), args) != defaults[name]]
    return found + [f"--{name} is of supervised training and does nothing to a PRM's; leave it out" for name in given]
