"""`--prm.update_every` and its options: a PRM that is trained while PPO runs, and what is wrong with a command line that asks for it."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

from ..core.argument_types import non_negative_int
from ..core.errors import UserError
from ..core.registry import LABELS

MODES = ("before", "after")
OF_LABELS = ("label.name", "label.gamma", "label.lambd", "loss.beta", "loss.value_coef")
_DEFAULTS: dict[str, dict[str, Any]] = {  # of `cli.train_prm`, where the checkpoint's record says nothing
    "label": {"gamma": 1.0, "lambd": 0.95, "bootstrap_enable": False, "dense_rewards_enable": False, "options": {}},
    "loss": {
        "kind": "mse",
        "value_coef": 1.0,
        "reduce": "turns",
        "pairs_per_task": 8,
        "implicit_beta": 0.05,
        "implicit_output": "sigmoid",
        "implicit_reference": None,
        "inverse_contrast": "transitions",
        "inverse_next": "full",
    },  # fmt: skip
    "prm": {"heads": 4, "combine": "mean", "kappa": 1.0, "bootstrap_disable": False, "compressed_copies": 1},
}


def add_online_flags(group: argparse._ArgumentGroup) -> None:
    """Add `--prm.update_every` and the options of a PRM that is trained between policy steps."""
    add = group.add_argument
    add("--prm.update_every", type=non_negative_int, default=0, help="train the PRM on the episodes of every so many rollouts (0: never)")
    add("--prm.update_mode", default="before", choices=MODES, help="update it before the rollout's advantages are computed, or after")
    add("--prm.adam.lr", type=float, default=1e-6, help="its learning rate, held constant")
    add("--prm.max_norm", type=float, default=1.0, help="the norm that its gradients are clipped to")
    add("--prm.train_epochs", type=int, default=1, help="passes over the episodes of an update")
    add("--prm.batch_size", type=int, default=None, help="episodes of an optimizer step, about (default: --train.batch_size)")
    add("--prm.micro_batch_size", type=int, default=None, help="episodes of a forward pass (default: --train.micro_batch_size)")
    add("--prm.gradient_checkpointing_enable", action="store_true", default=False, help="compute activations again in the backward pass")
    add(
        "--prm.eval_share", type=float, default=0.0, help="share of the tasks that it is never trained on, and judged by after every update"
    )
    add("--prm.patience", type=int, default=None, help="updates behind its best by held-out tasks, after which it stays that")
    add("--label.name", default=None, choices=LABELS.names(), help="method of its labels (default: the checkpoint's, else td_gae)")
    add("--label.gamma", type=float, default=None, help="td_gae, td_qv: discount a turn (default: the checkpoint's, else 1.0)")
    add("--label.lambd", type=float, default=None, help="td_gae, td_qv: lambda (default: the checkpoint's, else 0.95)")
    add("--loss.beta", type=float, default=None, help="weight of the progress term (default: the checkpoint's, else as train_prm)")
    add("--loss.value_coef", type=float, default=None, help="weight of the value term (default: the checkpoint's, else 1.0)")


def is_online(args: Any) -> bool:
    """True where the PRM is trained while PPO runs."""
    return bool(args.prm.update_every)


def online_problems(args: Any) -> list[str]:
    """Flags that contradict each other or that nothing would read, and PRMs that cannot be trained here."""
    if not is_online(args):
        return [
            f"--{name} is given, but the PRM is not trained; give --prm.update_every" for name in _given(args) if name != "prm.update_every"
        ]
    if not args.prm.model_name_or_path:
        return ["--prm.update_every trains a PRM, but --prm.model_name_or_path is not given"]
    found = _wrong_numbers(args)
    if args.prm.param_dtype == "fp16":
        found.append("--prm.update_every with --prm.param_dtype fp16: gradients underflow there; take bf16 or fp32")
    if args.reward.model_name_or_path and not (args.env.name or args.train.agent_func_path or args.reward.remote_url):
        found.append(
            "--prm.update_every learns from outcomes, and --reward.model_name_or_path tells none before the PRM has scored; give an environment"
        )
    return found + _kind_problems(args)


def _given(args: Any) -> list[str]:
    parser = argparse.ArgumentParser()
    add_online_flags(parser.add_argument_group())
    return [a.dest for a in parser._actions if a.dest != "help" and _value(args, a.dest) != a.default]


def _value(args: Any, name: str) -> Any:
    for part in name.split("."):
        args = getattr(args, part)
    return args


def _wrong_numbers(args: Any) -> list[str]:
    prm, found = args.prm, []
    for name in ("adam.lr", "max_norm"):
        if not _value(prm, name) > 0:
            found.append(f"--prm.{name} is {_value(prm, name)}; wanted a number above 0")
    for name in ("train_epochs", "batch_size", "micro_batch_size", "patience"):
        if (value := getattr(prm, name)) is not None and value < 1:
            found.append(f"--prm.{name} is {value}; wanted 1 or more")
    if not 0 <= prm.eval_share < 1:
        found.append(f"--prm.eval_share is {prm.eval_share}; wanted a share of the tasks from 0 to below 1")
    if prm.patience is not None and not prm.eval_share:
        found.append("--prm.patience goes by tasks that are held out; give --prm.eval_share")
    return found


def _kind_problems(args: Any) -> list[str]:
    """What the checkpoint itself tells: its kind, and whether online labels mean what its scores do."""
    from ..prm.kinds import AUTO, is_remote, kind_of, reads, trainable
    from ..prm.record import SCALES, Record

    path = args.prm.model_name_or_path
    try:
        if is_remote(args.prm.name, path):
            return [f"--prm.update_every: {path} is served elsewhere, and only what is loaded here can be trained; give its checkpoint"]
        name = kind_of(path) if args.prm.name == AUTO else args.prm.name
        kind = trainable(name)
        record = Record.load(path)
    except UserError as error:
        return [f"--prm.update_every: {problem}" for problem in error.problems]
    flags = flags_of(args, name, record)
    if any(reads(flags, f"data.{wanted}") for wanted in ("expert_dataset", "next_actions")) and hasattr(kind, "reads"):
        return [f"--prm.update_every: a PRM of kind {name} learns from demonstrations, which rollouts are not"]
    if flags.loss.kind not in ("mse", "soft_bce"):
        return [
            f"--prm.update_every: {path} was trained with --loss.kind {flags.loss.kind}, whose labels rollouts do not bring (mse, soft_bce)"
        ]
    found = [f"--{n} is given, but a PRM of kind {name} does not read it" for n in _given(args) if n in OF_LABELS and not reads(flags, n)]
    if reads(flags, "label.name"):
        label = LABELS.load(flags.label.name)
        if hasattr(label, "annotate"):
            return [
                *found,
                f"--label.name {flags.label.name} makes its labels from a whole store; online take td_gae, td_qv, outcome_all or outcome_last",
            ]
        if (scale := getattr(label, "scale", "probability")) != record.scale:
            found.append(f"--prm.update_every: of {path} {SCALES[record.scale]}, and by --label.name {flags.label.name} {SCALES[scale]}")
    try:
        return found + kind.problems(flags)
    except UserError as error:  # an implicit PRM whose reference is gone, for one
        return found + error.problems


def flags_of(args: Any, name: str, record: Any) -> SimpleNamespace:
    """Nested flags of `cli.train_prm` as a PRM's objective reads them: what is given here, else what its record keeps, else the defaults there."""
    kept = {group: values | {k: record.options[k] for k in values if k in record.options} for group, values in _DEFAULTS.items()}
    label, loss = SimpleNamespace(**kept["label"]), SimpleNamespace(**kept["loss"])
    own = record.method in LABELS.names() and not hasattr(LABELS.load(record.method), "annotate")
    label.name = args.label.name or (record.method if own else "td_gae")
    label.values, label.sidecar, label.shuffle_seed = record.values, None, None
    if label.name != record.method:
        label.options = {}
    for group, option in ((label, "gamma"), (label, "lambd"), (loss, "value_coef")):
        if (given := getattr(getattr(args, "loss" if group is loss else "label"), option)) is not None:
            setattr(group, option, given)
    promise_alone = label.name in ("td_qv", "outcome_all") and name != "two_head"
    loss.beta = (
        record.options["beta"] if own and label.name == record.method and "beta" in record.options else 0.0 if promise_alone else 1.0
    )
    if args.loss.beta is not None:
        loss.beta = args.loss.beta
    path = args.prm.model_name_or_path
    return SimpleNamespace(
        label=label,
        loss=loss,
        prm=SimpleNamespace(**record.options | kept["prm"] | {"name": name}),
        data=SimpleNamespace(replay_decay=1.0),
        train=SimpleNamespace(seed=args.train.seed),
        ds=SimpleNamespace(param_dtype=args.prm.param_dtype),
        model=SimpleNamespace(model_name_or_path=path),
        ckpt=SimpleNamespace(output_dir=f"{args.ckpt.output_dir}/prm"),
    )


def settle_online(args: Any) -> None:
    """What the PRM's workers are told, read where the checkpoint surely is."""
    from ..prm.kinds import AUTO, kind_of
    from ..prm.online import OnlineSettings
    from ..prm.record import Record

    if not is_online(args):
        return
    prm = args.prm
    name = kind_of(prm.model_name_or_path) if prm.name == AUTO else prm.name
    flags = flags_of(args, name, Record.load(prm.model_name_or_path))
    args.agentprm.online = OnlineSettings(
        flags=flags,
        lr=prm.adam.lr,
        max_norm=prm.max_norm,
        epochs=prm.train_epochs,
        batch_size=prm.batch_size or args.train.batch_size,
        micro_batch_size=prm.micro_batch_size or args.train.micro_batch_size,
        eval_share=prm.eval_share,
        patience=prm.patience,
        seed=args.train.seed,
        gradient_checkpointing=prm.gradient_checkpointing_enable,
        offload=args.ds.enable_sleep or args.prm.offload,
        cross_entropy=name == "implicit" or flags.loss.kind == "soft_bce",
    )
