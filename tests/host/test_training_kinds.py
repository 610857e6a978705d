"""Every kind of reward model and every ranking loss, trained for real by the command on tiny data, in one process one after the other."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launching import run

from openrlhf_agentprm.core.metrics import auc
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.data.pairs import Pair, PairsSidecar
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.prm.kinds import kind_of
from openrlhf_agentprm.prm.model import Record
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
for line in json.loads(sys.argv[1]):
    main(line)
"""


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


@pytest.fixture(scope="module")
def trained(samples, tiny):
    """A checkpoint of each."""
    common = ["--model.model_name_or_path", tiny, "--data.dataset", samples / "store", "--data.max_len", 128, "--ds.zero_stage", 0]
    common += ["--ds.attn_implementation", "sdpa", "--ds.param_dtype", "fp32", "--train.batch_size", 16, "--train.micro_batch_size", 16]
    common += ["--train.max_epochs", EPOCHS, "--adam.lr", "1e-3", "--eval.dataset", samples / "store", "--eval.steps", 120]
    lines = [
        [*common, "--ckpt.output_dir", samples / name, *(samples / "pairs" if word == "<pairs>" else word for word in way)]
        for name, way in WAYS.items()
    ]
    run(sys.executable, "-c", CODE, json.dumps([[str(word) for word in line] for line in lines]))
    return samples


@pytest.mark.parametrize("name", WAYS)
def test_a_kind_trains_and_its_checkpoint_scores_as_the_trainer_did(name, trained):
    rows = [json.loads(line) for line in (Path(trained / name) / "history.jsonl").read_text().splitlines()]
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
    prm = load_reward_model("auto", str(trained / name))
    last_q = torch.tensor([float(q_K[-1]) for q_K, _ in score_all(prm, [e.token_ids for e in episodes], [spans_of(e) for e in episodes])])
    success = torch.tensor([e.outcome > 0.5 for e in episodes])
    assert auc(last_q, success) == pytest.approx(rows[-1]["eval_auc_last"], abs=1e-3), "the checkpoint scores as the trainer did"
    assert auc(last_q, success) > 0.9 and last_q[success].mean() > last_q[~success].mean()
