"""Language-model kinds by command: trained on the host's strategy, told apart by their folders, judged in one call."""

import json

import pytest
from launching import module

from openrlhf_agentprm.prm.kinds import check_reward_model
from openrlhf_agentprm.prm.record import Record

COMMON = ["--data.max_len", 128, "--ds.attn_implementation", "sdpa", "--train.batch_size", 16, "--train.micro_batch_size", 8]
COMMON += ["--adam.lr", "1e-3", "--eval.share", "0.2"]


@pytest.mark.host
def test_implicit_and_inverse_are_trained_and_judged_in_one_call(tiny, count_store, sampled_store, tmp_path):
    line = ["--model.model_name_or_path", tiny, "--data.dataset", count_store, *COMMON]
    lora = ["--prm.name", "implicit", "--ds.zero_stage", 3, "--ds.param_dtype", "bf16", "--ds.lora.rank", 4]
    module("train_prm", *line, *lora, "--ckpt.output_dir", tmp_path / "implicit")
    experts = ["--prm.name", "inverse", "--data.expert_dataset", count_store, "--loss.inverse_own_enable", "--loss.inverse_next", "target"]
    module("train_prm", *line, *experts, "--ds.zero_stage", 2, "--ds.param_dtype", "fp32", "--ckpt.output_dir", tmp_path / "inverse")
    for kind, values in (("implicit", "previous_q"), ("inverse", "state")):
        rows = [json.loads(row) for row in (tmp_path / kind / "history.jsonl").read_text().splitlines()]
        assert rows[0]["loss"] == pytest.approx(0.693, abs=0.02 if kind == "implicit" else 0.2), "it starts as its own reference"
        assert 0 <= rows[-1]["eval_auc_last"] <= 1
        record = Record.load(tmp_path / kind)
        assert (record.kind, record.values) == (kind, values) and record.value_trained is (kind == "inverse")
        check_reward_model("auto", str(tmp_path / kind), str(tiny))
    prms = ["--prm.model_name_or_path", tmp_path / "implicit", tmp_path / "inverse"]
    module("evaluate", "--eval.dataset", sampled_store, "--eval.output", tmp_path / "evaluation.json", *prms)
    assert {"implicit", "inverse"} <= set(json.loads((tmp_path / "evaluation.json").read_text())["prm_quality"])
