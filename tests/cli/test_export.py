"""Exported PRMs: the same scores in plain transformers, by the card's own lines; what is not finished is refused."""

import json
import re

import pytest
import torch

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.cli.export import main
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, load_reward_model, score_all

SPANS = [(4, 6), (9, 10), (14, 17)]
TOKENS = torch.randint(5, 60, (17,), generator=torch.Generator().manual_seed(0)).tolist()
HISTORY = [
    {"step": 1, "epoch": 0, "loss": 0.9, "lr": 1e-3},
    {"step": 2, "epoch": 0, "loss": 0.512345, "lr": 5e-4, "eval_auc_last": 0.81, "eval_brier_last": 0.12},
]


def checkpoint(policy, folder, **record):
    model = start_from(str(policy), dtype="fp32", seed=3)
    with torch.no_grad():
        model.score.weight.mul_(30)
    about = {"options": {"gamma": 1.0, "sidecar": None, "nested": {"lr": 1e-4}}, "data": {"dataset": "/somewhere/store", "episodes": 96}}
    save_prm(model, load_tokenizer(str(policy)), folder, Record(**({"method": "td_gae"} | about | record)))
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HISTORY))
    return folder


@pytest.mark.parametrize("record", [{}, {"values": "previous_q_from_0", "scale": "order"}, {"values": "state", "output": "sigmoid"}])
def test_the_cards_own_lines_give_the_scores_of_before(bpe_policy, tmp_path, record):
    prm = checkpoint(bpe_policy, tmp_path / "prm", **record)
    out = tmp_path / "out"
    assert main([str(prm), str(out), "--export.name", str(out), "--export.base_model", "someone/policy"]) == 0
    card = (out / "README.md").read_text()
    names = {"token_ids": TOKENS, "spans": SPANS}
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], names)
    ((q, v),) = score_all(ScalarPRM.load(str(prm)), [TOKENS], [SPANS])
    assert names["q"] == pytest.approx(q.tolist(), abs=1e-5) and names["v"] == pytest.approx(v.tolist(), abs=1e-5)
    assert names["progress"] == pytest.approx((q - v).tolist(), abs=2e-5)
    ((again, _),) = score_all(ScalarPRM.load(str(out)), [TOKENS], [SPANS])
    assert torch.equal(again, q)
    assert sorted(f.name for f in out.iterdir() if f.name[0] != ".") == sorted(
        {"README.md", "agentprm.json", "config.json", "history.jsonl", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
        | ({"chat_template.jinja"} if (out / "chat_template.jinja").exists() else set())
    )


def test_the_card_says_how_the_model_was_made(bpe_policy, tmp_path):
    main([str(checkpoint(bpe_policy, tmp_path / "prm", value_trained=False)), str(tmp_path / "out")])
    card = (tmp_path / "out/README.md").read_text()
    for line in (
        "# out",
        "library_name: transformers",
        "| gamma | 1 |",
        "| nested.lr | 0.0001 |",
        "| dataset | store |",
        "| episodes | 96 |",
        "| loss (last step) | 0.5123 |",
        "| eval_auc_last (held out, step 2) | 0.81 |",
        "Licence: not chosen yet.",
    ):
        assert line in card.splitlines(), line
    assert "V was not trained at the states" in card and "| transformers | " in card and "license:" not in card and "/somewhere" not in card


def test_kinds_read_by_one_head_are_exported_and_several_data_sets_named(bpe_policy, tmp_path):
    data = {"dataset": "/runs/episodes-0,/runs/episodes-1"}
    prm = checkpoint(bpe_policy, tmp_path / "prm", kind="hierarchical", data=data)
    main([str(prm), str(tmp_path / "out")])
    ((q, _),), ((again, _),) = (score_all(load_reward_model("auto", str(p)), [TOKENS], [SPANS]) for p in (prm, tmp_path / "out"))
    assert torch.equal(q, again) and "| dataset | episodes-0,episodes-1 |" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(UserError, match="of the kind spa, whose scores"):
        main([str(checkpoint(bpe_policy, tmp_path / "spa", kind="spa")), str(tmp_path / "none")])


def test_what_cannot_be_exported_is_told(bpe_policy, tmp_path):
    prm = checkpoint(bpe_policy, tmp_path / "prm")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()

    def refused(text, path=prm, out=tmp_path / "out"):
        with pytest.raises(UserError, match=text):
            main([str(path), str(out)])
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*half"))

    refused("is there already and is not empty", out=tmp_path / "full")
    refused("there is no folder", path=tmp_path / "nowhere")
    refused("has no agentprm.json, which training writes last", path=bpe_policy)
    refused("is no checkpoint", path=tmp_path / "full")
    refused("of the kind two_head, whose scores plain transformers", path=checkpoint(bpe_policy, tmp_path / "kind", kind="two_head"))
    weights = prm / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused("the weights of .* cannot be read")
    weights.unlink()
    refused("lacks safetensors: it is unfinished")
