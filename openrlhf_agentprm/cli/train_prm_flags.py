"""Flags of train_prm: the host's SFT flags, and what a PRM adds."""

from __future__ import annotations

import argparse

from ..core.argument_types import json_object
from ..core.registry import LABELS, REWARD_MODELS


def build_parser() -> argparse.ArgumentParser:
    """The host's SFT flags (model, data, DeepSpeed, LoRA, optimizer, checkpoints) with those of a PRM."""
    from ..host.parsers import host_parser
    from ..prm.step_flags import add_step_flags

    parser = host_parser("train_sft")
    parser.prog = "deepspeed --module openrlhf_agentprm.cli.train_prm"
    parser.description = "Train a process reward model: labels for every turn, promise and progress regressed together."
    parser.add_argument("--prm.name", default="scalar", choices=REWARD_MODELS.names(), help="kind of reward model to train")
    _add_label_flags(parser)
    _add_loss_flags(parser)
    _add_kind_flags(parser)
    _add_implicit_flags(parser)
    _add_inverse_flags(parser)
    _add_data_flags(parser)
    add_step_flags(parser.add_argument_group("steps inside a response"))
    return parser


def _add_label_flags(parser: argparse.ArgumentParser) -> None:
    from ..prm.record import VALUES

    label = parser.add_argument_group("labels")
    label.add_argument("--label.name", choices=LABELS.names(), help="method (agentprm list labels; default: the sidecar's, else td_gae)")
    label.add_argument("--label.sidecar", help="labels made beforehand by cli.label, in place of --label.name; folders divided by commas")
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


def _add_loss_flags(parser: argparse.ArgumentParser) -> None:
    from ..prm.record import OUTPUTS

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
        "--loss.beta",
        type=float,
        help="weight of the progress term (default: 1.0, as arXiv 2511.08325; td_qv and outcome_all 0 but for two_head)",
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


def _add_kind_flags(parser: argparse.ArgumentParser) -> None:
    from ..core.ensembles import COMBINE

    kind = parser.add_argument_group("kinds of reward models")
    kind.add_argument("--prm.heads", type=int, default=4, help="heads: members on the shared backbone")
    kind.add_argument("--prm.combine", default="mean", choices=COMBINE, help="heads: what their scores are combined to")
    kind.add_argument("--prm.kappa", type=float, default=1.0, help="heads: standard deviations below the mean (lcb)")
    kind.add_argument("--prm.bootstrap_disable", action="store_true", help="heads: train every head on all episodes")
    kind.add_argument("--prm.compressed_copies", type=int, default=1, help="hierarchical: copies of an episode with a span compressed")


def _add_implicit_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("kind implicit").add_argument
    add("--loss.implicit_beta", type=float, default=0.05, help="implicit: weight of the log-ratio (arXiv 2412.01981)")
    add("--loss.implicit_reference", help="implicit: the reference model (default: the model that training starts from)")
    add("--loss.implicit_output", default="sigmoid", choices=["sigmoid", "linear"], help="implicit: Q is a probability, or the log-ratio")


def _add_inverse_flags(parser: argparse.ArgumentParser) -> None:
    from ..prm.kinds.inverse import CONTRASTS, NEXT

    add = parser.add_argument_group("kind inverse").add_argument
    add(
        "--data.expert_dataset", help="inverse: stores of experts' episodes, divided by commas; --data.dataset holds those of past policies"
    )
    add("--data.next_actions", help="inverse: folders of cli.label --label.name next_actions, divided by commas")
    add("--loss.inverse_gamma", type=float, default=1.0, help="inverse: discount a turn (not stated in arXiv 2502.10325)")
    add(
        "--loss.inverse_contrast",
        default="transitions",
        choices=CONTRASTS,
        help="inverse: an expert's transitions against policies' (arXiv 2502.10325), or its actions against sampled ones at the same states",
    )
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
