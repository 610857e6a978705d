"""Six small episodes, and every kind of reward model that trains on them: its flags, its objective, a model, the loss of a step."""

import math

import torch

from openrlhf_agentprm.cli.train_prm import build_parser, fill_in
from openrlhf_agentprm.core.arguments import parse_nested
from openrlhf_agentprm.data.episode import Episode, Turn
from openrlhf_agentprm.prm.kinds import trainable

SPANS = [[(4, 6), (9, 10), (14, 17)], [(3, 5)], [(2, 4), (4, 7)], [(3, 6), (8, 9), (11, 12), (13, 15)], [(5, 7), (9, 12)], [(2, 3), (6, 8)]]


def episode(number, spans=None, outcome=None, task=None):
    g = torch.Generator().manual_seed(number)
    spans = SPANS[number] if spans is None else spans
    tokens = torch.randint(5, 60, (spans[-1][1],), generator=g).tolist()
    won = number % 2 == 0 if outcome is None else outcome
    return Episode(
        env="e", task_id=task or f"task-{number // 3}", split="train", seed=0, sample=number, policy="p", policy_digest="d", sampling={},
        status="success" if won else "failure", outcome=float(won), terminated=True, truncated=False, token_ids=tokens,
        turns=[Turn(f"o{k}", f"a{k}", start, end) for k, (start, end) in enumerate(spans)], logprobs=[-0.5] * len(tokens), episode_id=f"e{number}",
    )  # fmt: skip


EPISODES = [episode(k) for k in range(6)]


def flags_of(policy, *more):
    line = ["--model.model_name_or_path", policy, "--data.dataset", "d", "--train.batch_size", 2, "--train.micro_batch_size", 2]
    args = parse_nested(build_parser(), [str(word) for word in (*line, *more)])
    fill_in(args)
    return args


def objective_of(args):
    from openrlhf_agentprm.data.sidecar import read_labels

    labels = read_labels(args.label.sidecar) if args.label.sidecar and args.loss.kind != "pairs" else None
    return trainable(args.prm.name).objective(EPISODES, args, labels)


def model_of(args):
    """A model to train whose every score matters: heads with large weights."""
    kind = trainable(args.prm.name)
    further = kind.start_options(args) if hasattr(kind, "start_options") else {}
    model = kind.start(args.model.model_name_or_path, dtype="fp32", seed=1, **further)
    with torch.no_grad():
        model.score.weight.mul_(30)
    kind.on_call(model)
    return model


def loss_of(objective, model, cuts):
    """Loss and gradient of a step on all items, cut into micro-batches."""
    parts = [objective.batch(items) for items in cuts]
    counts = torch.stack([objective.counts(part) for part in parts]).sum(0)
    model.zero_grad()
    total = 0.0
    for part in parts:
        loss, figures = objective.loss(model, part, counts)
        assert all(math.isfinite(float(f)) for f in figures.values())
        loss.backward()
        total += float(loss.detach())
    return total, model.score.weight.grad.clone()


INVERSE = ["--prm.name", "inverse", "--data.expert_dataset", "d"]
PATIENCE = ["--eval.share", "0.2", "--eval.patience", "2"]
WAYS = {
    "mse": [],
    "soft_bce": ["--loss.kind", "soft_bce", "--label.name", "outcome_all", "--loss.reduce", "episodes"],
    "pqm": ["--loss.kind", "pqm", "--label.sidecar", "<targets>"],
    "pqm of outcomes": ["--loss.kind", "pqm", "--label.name", "outcome_all"],
    "pairs": ["--loss.kind", "pairs", "--label.sidecar", "<pairs>", "--loss.margin_coef", "0.5"],
    "two_head": ["--prm.name", "two_head"],
    "two_head at states": ["--prm.name", "two_head", "--label.name", "td_qv", "--loss.beta", "0.5"],
    "two_head by episodes": ["--prm.name", "two_head", "--loss.reduce", "episodes", "--label.sidecar", "<targets>"],
    "spa": ["--prm.name", "spa"],
    "trajectory": ["--prm.name", "trajectory"],
    "hierarchical": ["--prm.name", "hierarchical", "--prm.compressed_copies", "2"],
    "hierarchical of a sidecar": ["--prm.name", "hierarchical", "--label.sidecar", "<targets>"],
    "heads": ["--prm.name", "heads", "--prm.heads", "3"],
    "heads by episodes": [
        "--prm.name",
        "heads",
        "--loss.kind",
        "soft_bce",
        "--label.name",
        "outcome_all",
        "--loss.reduce",
        "episodes",
        "--prm.bootstrap_disable",
    ],
}


def at(made, words):
    """`<targets>` and `<pairs>` as the folders that hold them."""
    return [made / word[1:-1] if word in ("<targets>", "<pairs>") else word for word in words]


def way(name, policy, made):
    return flags_of(policy, *at(made, WAYS[name]))
