"""Every kind of reward model and every ranking loss, trained for real by the command on tiny data: in one process one after the other, in two
with partitioned weights and with LoRA."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launching import free_port, run

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.core.metrics import auc
from openrlhf_agentprm.core.monitors import quantile_points, score_drift
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.data.pairs import Pair, PairsSidecar
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.prm.kinds import kind_of
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model, score_all

pytestmark = pytest.mark.host
EPOCHS = 60  # of six steps: from random weights a kind may need two hundred steps to tell success from failure
WAYS = {
    "pqm": ["--loss.kind", "pqm", "--label.name", "outcome_all", "--loss.zeta", "2"],
    "pairs": ["--loss.kind", "pairs", "--label.sidecar", "<pairs>"],
    "two_head": ["--prm.name", "two_head", "--label.name", "outcome_all"],
    "spa": ["--prm.name", "spa"],
    "trajectory": ["--prm.name", "trajectory", "--loss.pairs_per_task", "32"],
    "hierarchical": ["--prm.name", "hierarchical", "--label.name", "outcome_all"],
    "heads": ["--prm.name", "heads", "--prm.heads", "3", "--prm.combine", "lcb", "--label.name", "outcome_all"],
    "thirdparty_median": ["--prm.name", "thirdparty_median"],
}
CODE = """
import json, sys
from openrlhf_agentprm.cli.train_prm import main
for line in json.loads(sys.argv[-1]):
    main(line)
"""
COMMON = ["--data.max_len", "128", "--ds.attn_implementation", "sdpa", "--ds.param_dtype", "fp32", "--train.batch_size", "16"]
COMMON += ["--adam.lr", "1e-3"]
APART = ("two_head", "heads", "hierarchical", "spa", "trajectory", "implicit", "trl")


@pytest.fixture(scope="module")
def samples(count_store, tmp_path_factory):
    """The counting game's episodes as samples of three tasks, one for each goal, and pairs of them; training takes all of them in one go.

    In the order of tasks: a store's own order is that in which workers finished, and batches follow from it.
    """
    folder = tmp_path_factory.mktemp("samples")
    collected = sorted(EpisodeStore(count_store).episodes(), key=lambda e: e.task_id)
    found = [replace(e, task_id=e.instruction, sample=n, episode_id="") for n, e in enumerate(collected)]
    with EpisodeWriter(folder / "store") as writer:
        for episode in found:
            writer.add(episode)
    won, lost = ([e for e in found if e.outcome == outcome] for outcome in (1.0, 0.0))
    pairs = [
        Pair(a.episode_id, len(a.turns) - 1, b.episode_id, len(b.turns) - 1, 1.0, 1.0)
        for a, b in zip(won * 2, [*lost, *lost[1:], lost[0]], strict=False)
    ]
    PairsSidecar.of(pairs, {}, {}).save(folder / "pairs", {"method": "relabel"})
    return folder


def all_scores(folder, episodes):
    return score_all(load_reward_model("auto", str(folder)), [e.token_ids for e in episodes], [spans_of(e) for e in episodes])


def last_scores(folder, episodes):
    return torch.tensor([float(q_K[-1]) for q_K, _ in all_scores(folder, episodes)])


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trl(tiny, tmp_path_factory):
    """What TRL's PRMTrainer leaves: two labels, a bias in the head."""
    from transformers import AutoModelForTokenClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trl") / "prm"
    AutoModelForTokenClassification.from_pretrained(tiny, num_labels=2, dtype=torch.float32).save_pretrained(folder)
    load_tokenizer(str(tiny)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def apart(samples, tiny, trl, tmp_path_factory):
    """A short training of each kind in one process, and in two with ZeRO-3, with LoRA too."""
    folder = tmp_path_factory.mktemp("apart")

    def lines(part, *flags):
        common = [*COMMON, "--data.dataset", samples / "store", "--eval.dataset", samples / "store", "--train.max_epochs", 2, *flags]
        ways = WAYS | {"implicit": ["--prm.name", "implicit"], "trl": ["--label.name", "outcome_all", "--loss.kind", "soft_bce"]}
        start = {"trl": trl}
        return [
            [str(w) for w in [*common, "--model.model_name_or_path", start.get(n, tiny), "--ckpt.output_dir", folder / part / n, *ways[n]]]
            for n in APART
        ]

    run(sys.executable, "-c", CODE, json.dumps(lines("whole", "--ds.zero_stage", 0, "--train.micro_batch_size", 16)))
    shards = ["--ds.zero_stage", 3, "--train.micro_batch_size", 4]
    (folder / "several.py").write_text(CODE)
    line = [Path(sys.executable).with_name("deepspeed"), "--num_gpus", 2, "--master_port", free_port(), folder / "several.py"]
    run(*line, json.dumps([*lines("shards", *shards), *lines("lora", *shards, "--ds.lora.rank", 4)]))
    return folder


@pytest.mark.parametrize("name", APART)
def test_partitioned_weights_give_a_kind_the_losses_and_scores_of_one_process(name, apart, samples):
    whole, shards, lora = (history(apart / part / name) for part in ("whole", "shards", "lora"))
    assert [row["loss"] for row in shards] == pytest.approx([row["loss"] for row in whole], rel=2e-3, abs=1e-5) and len(whole) >= 12
    assert lora[0]["loss"] == pytest.approx(whole[0]["loss"], rel=2e-3) and lora[-1]["loss"] != whole[-1]["loss"]
    episodes = list(EpisodeStore(samples / "store").episodes())
    success = torch.tensor([e.outcome > 0.5 for e in episodes])
    for part, rows in (("shards", shards), ("lora", lora)):
        found = auc(last_scores(apart / part / name, episodes), success)
        assert found == pytest.approx(rows[-1]["eval_auc_last"], abs=1e-3), f"{part}: the checkpoint scores as the trainer did"


@pytest.fixture(scope="module")
def trained(samples, tiny):
    """A checkpoint of each."""
    common = [*COMMON, "--model.model_name_or_path", tiny, "--data.dataset", samples / "store", "--eval.dataset", samples / "store"]
    common += ["--ds.zero_stage", 0, "--train.micro_batch_size", 16, "--train.max_epochs", EPOCHS, "--eval.steps", 120]
    lines = [
        [*common, "--ckpt.output_dir", samples / name, *(samples / "pairs" if word == "<pairs>" else word for word in way)]
        for name, way in WAYS.items()
    ]
    run(sys.executable, "-c", CODE, json.dumps([[str(word) for word in line] for line in lines]))
    return samples


@pytest.mark.parametrize("name", WAYS)
def test_a_kind_trains_and_its_checkpoint_scores_as_the_trainer_did(name, trained):
    rows = history(trained / name)
    first, last = (sum(row["loss"] for row in rows if row["epoch"] == epoch) for epoch in (0, EPOCHS - 1))
    assert last < 0.9 * first
    record = Record.load(trained / name)
    assert kind_of(str(trained / name)) == (name if name not in ("pqm", "pairs") else "scalar")
    assert record.scale == {"pqm": "order", "pairs": "order", "trajectory": "order", "spa": "share"}.get(name, "probability")
    assert 0 < rows[-1]["eval_auc_last"] <= 1 and ("eval_brier_last" in rows[-1]) is (record.scale != "order")
    assert record.method == {"pairs": "relabel", **dict.fromkeys(("spa", "trajectory", "thirdparty_median"), "outcome")}.get(
        name, "outcome_all"
    )
    assert record.options.get("zeta") == (2.0 if name == "pqm" else None) and record.options.get("heads") == (
        3 if name == "heads" else None
    )
    episodes = list(EpisodeStore(trained / "store").episodes())
    last_q = last_scores(trained / name, episodes)
    success = torch.tensor([e.outcome > 0.5 for e in episodes])
    assert auc(last_q, success) == pytest.approx(rows[-1]["eval_auc_last"], abs=1e-3), "the checkpoint scores as the trainer did"
    assert auc(last_q, success) > 0.9 and last_q[success].mean() > last_q[~success].mean()


@pytest.mark.parametrize("name", WAYS)
def test_the_record_has_the_distribution_of_the_checkpoints_own_scores(name, trained):
    scores = all_scores(trained / name, list(EpisodeStore(trained / "store").episodes()))
    reference = Record.load(trained / name).reference
    for kind, x in (("promise", [q_K for q_K, _ in scores]), ("progress", [q_K - v_K for q_K, v_K in scores])):
        told = quantile_points(torch.cat(x))
        assert reference[kind] == pytest.approx(told, abs=0.01 * max(map(abs, told))), "the trainer's scores, up to rounding"
        assert score_drift(torch.cat(x) + 1, reference[kind]) > 0.03
