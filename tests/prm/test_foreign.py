"""PRMs of other makers: read where their makers trained them, against prefixes scored one by one; what does not fit is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.prm.kinds import check_reward_model, kind_of, records_of
from openrlhf_agentprm.prm.kinds.ensemble import EnsemblePRM
from openrlhf_agentprm.prm.kinds.foreign import TRLPRM, QwenMathPRM
from openrlhf_agentprm.prm.kinds.separators import marked
from openrlhf_agentprm.prm.model import load_prm, save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, load_reward_model, score_all

SPANS = [[(4, 6), (9, 10), (14, 17)], [(3, 5)], [(2, 4), (4, 7)]]


def episodes():
    g = torch.Generator().manual_seed(0)
    return [torch.randint(5, 60, (spans[-1][1],), generator=g).tolist() for spans in SPANS]


@pytest.fixture(scope="module")
def trl(bpe_policy, tmp_path_factory):
    """What `AutoModelForTokenClassification.from_pretrained(base, num_labels=2)`, trained and saved, leaves."""
    from transformers import AutoModelForTokenClassification

    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(bpe_policy, num_labels=2, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.normal_(0, 0.05)
        model.score.bias.copy_(torch.tensor([0.3, -0.2]))
    folder = tmp_path_factory.mktemp("trl") / "prm"
    model.save_pretrained(folder)
    load_tokenizer(str(bpe_policy)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(bpe_policy, tmp_path_factory):
    """The files of Qwen2.5-Math-PRM in small: config, weights in two shards under its names, a tokenizer with <extra_0>, and code of its own."""
    from transformers import Qwen2Config, Qwen2Model

    folder = tmp_path_factory.mktemp("qwen") / "prm"
    tokenizer = load_tokenizer(str(bpe_policy))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_0>"]})
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(1)
    weights = {f"model.{name}": tensor.clone() for name, tensor in Qwen2Model(config).state_dict().items()}
    g = torch.Generator().manual_seed(2)
    shapes = {"score.0.weight": (32, 32), "score.0.bias": (32,), "score.2.weight": (2, 32), "score.2.bias": (2,)}
    heads = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()} | {"lm_head.weight": torch.zeros(4, 32)}
    save_file(weights, folder / "model-00001-of-00002.safetensors", {"format": "pt"})
    save_file(heads, folder / "model-00002-of-00002.safetensors", {"format": "pt"})
    index = dict.fromkeys(weights, "model-00001-of-00002.safetensors") | dict.fromkeys(heads, "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    code = {"AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig", "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    about = {**config.to_dict(), "architectures": ["Qwen2ForProcessRewardModel"], "auto_map": code}
    (folder / "config.json").write_text(json.dumps(about))
    for name in ("configuration_qwen2_rm.py", "modeling_qwen2_rm.py"):
        (folder / name).write_text("raise RuntimeError('code that came with weights was run')\n")
    return folder


def by_hand(probability, separator, tokens, spans):
    """P(1) of each turn: the episode up to the action with a separator behind every action so far, scored as a prefix of its own."""
    found, ids, done = [], [], 0
    for start, end in spans:
        ids += tokens[done:start]
        if not found:
            found.append(probability(ids))
        ids += tokens[start:end] + separator
        found.append(probability(ids))
        done = end
    return found[1:], found[:-1]  # q, and v = the score of the turn before


def agree(prm, probability, separator):
    tokens = episodes()
    for ids, spans, (q, v) in zip(tokens, SPANS, score_all(prm, tokens, SPANS), strict=True):
        wanted_q, wanted_v = by_hand(probability, separator, ids, spans)
        assert q.tolist() == pytest.approx(wanted_q, abs=1e-5) and v.tolist() == pytest.approx(wanted_v, abs=1e-5)
        assert min(wanted_q) > 0 and max(wanted_q) < 1  # nothing saturates, so that a wrong place would show


def test_trl_is_read_at_its_step_separator(trl):
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(trl, dtype=torch.float32).eval()

    def probability(ids):
        with torch.no_grad():
            return float(model(torch.tensor([ids])).logits[0, -1].softmax(-1)[1])

    newline = load_tokenizer(str(trl)).encode("\n", add_special_tokens=False)
    assert kind_of(str(trl)) == "trl" and len(newline) == 1
    agree(load_reward_model("auto", str(trl), dtype="fp32"), probability, newline)
    (trl / "readout.json").write_text('{"separator": null}')
    try:
        agree(load_reward_model("trl", str(trl), dtype="fp32"), probability, [])
        (trl / "readout.json").write_text('{"separator": "zq"}')
        two = load_tokenizer(str(trl)).encode("zq", add_special_tokens=False)
        assert len(two) == 2
        agree(TRLPRM.load(str(trl)), probability, two)
        (trl / "readout.json").write_text('{"seperator": "zq"}')
        with pytest.raises(UserError, match="readout.json is .*; wanted"):
            TRLPRM.load(str(trl))
    finally:
        (trl / "readout.json").unlink()


def test_qwen_math_prm_is_read_at_extra_0_and_runs_no_code_of_the_checkpoint(qwen):
    from transformers import Qwen2Config, Qwen2Model

    head = load_file(qwen / "model-00002-of-00002.safetensors")
    weights = load_file(qwen / "model-00001-of-00002.safetensors")
    backbone = Qwen2Model(
        Qwen2Config(**{k: v for k, v in json.loads((qwen / "config.json").read_text()).items() if k != "auto_map"})
    ).eval()
    backbone.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})

    def probability(ids):
        with torch.no_grad():
            h = backbone(torch.tensor([ids])).last_hidden_state[0, -1]
            logits = linear(linear(h, head["score.0.weight"], head["score.0.bias"]).relu(), head["score.2.weight"], head["score.2.bias"])
        return float(logits.softmax(-1)[1])

    (extra,) = load_tokenizer(str(qwen)).encode("<extra_0>", add_special_tokens=False)
    assert kind_of(str(qwen)) == "qwen_math_prm"
    agree(load_reward_model("auto", str(qwen), dtype="fp32", attn_implementation="sdpa"), probability, [extra])


def test_separators_by_hand():
    assert marked([1, 2, 3, 9, 4, 5], [(1, 4), (5, 6)], [7], {9}) == ([1, 2, 3, 7, 9, 4, 5, 7], [(1, 4), (6, 8)])  # before the end of turn
    assert marked([1, 2, 7, 9, 4], [(1, 4)], [7], {9}) == ([1, 2, 7, 9, 4], [(1, 3)])  # it is there already
    assert marked([1, 9, 4], [(1, 2)], [7], {9}) == ([1, 7, 9, 4], [(1, 2)])  # an action that says nothing
    assert marked([1, 2, 3, 4, 9, 5, 6], [(1, 3), (3, 4), (4, 5), (6, 7)], [7], {9}) == (
        [1, 2, 3, 7, 4, 7, 9, 5, 6, 7],
        [(1, 4), (4, 6), (4, 6), (8, 10)],
    )  # a step of the end of turn alone is the one before


def test_an_ensemble_knows_what_its_foreign_members_give(trl, bpe_policy, tmp_path):
    save_prm(start_from(str(bpe_policy), dtype="fp32"), load_tokenizer(str(bpe_policy)), tmp_path / "scalar", Record(method="td_gae"))
    (tmp_path / "ensemble.json").write_text(json.dumps({"members": [str(trl), str(tmp_path / "scalar")]}))
    with pytest.raises(UserError, match="unlike outputs or values: .*sigmoid, previous_q, probability.*linear, previous_q, probability"):
        EnsemblePRM.check(str(tmp_path))
    (tmp_path / "ensemble.json").write_text(json.dumps({"members": [str(trl), str(trl)]}))
    EnsemblePRM.check(str(tmp_path))


def test_values_count_as_untrained(trl, qwen, caplog):
    for name, folder in (("trl", trl), ("qwen_math_prm", qwen)):
        (record,) = records_of(name, str(folder))
        assert not record.value_trained and record.values == "previous_q" and record.kind == name
    QwenMathPRM.load(str(qwen))
    assert "its V(s) was not trained" in caplog.text


def test_training_starts_from_trls_two_labels_as_one(trl, tmp_path, caplog):
    """sigmoid((w₁ − w₀)·h) is P(1) without the biases."""
    model = start_from(str(trl), dtype="fp32")
    assert "the bias of its head (-0.5 between its labels) is left out" in caplog.text
    save_prm(model, load_tokenizer(str(trl)), tmp_path / "one", Record(method="td_gae", output="sigmoid"))
    plain = load_reward_model("trl", str(trl))
    plain.separator_ids = []
    with torch.no_grad():
        plain.head.bias.zero_()
    tokens = episodes()
    for (q, _), (p, _) in zip(
        score_all(ScalarPRM.load(str(tmp_path / "one")), tokens, SPANS), score_all(plain, tokens, SPANS), strict=True
    ):
        torch.testing.assert_close(q, p, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="scores 2 labels a token.* --prm.name trl scores such a checkpoint"):
        load_prm(str(trl))


def test_what_does_not_fit_is_refused(trl, qwen, bpe_policy, tiny, tmp_path):
    with pytest.raises(UserError, match="Qwen3ForCausalLM with 2 label|; --prm.name trl scores a"):
        check_reward_model("trl", str(bpe_policy))
    with pytest.raises(UserError, match="is Qwen3ForTokenClassification; --prm.name qwen_math_prm scores a Qwen2ForProcessRewardModel"):
        check_reward_model("qwen_math_prm", str(trl))
    check_reward_model("qwen_math_prm", str(qwen), str(bpe_policy))  # more tokens than the policy's, the policy's the same
    with pytest.raises(UserError, match="have different vocabularies"):
        check_reward_model("auto", str(qwen), str(tiny))
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for file in trl.iterdir():
        if file.suffix == ".json" or file.suffix == ".jinja":
            (lacking / file.name).write_bytes(file.read_bytes())
    weights = load_file(trl / "model.safetensors")
    save_file({k: v for k, v in weights.items() if not k.startswith("score")}, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 2 weights of a Qwen3ForTokenClassification, such as score.bias"):
        TRLPRM.load(str(lacking))
    (lacking / "model.safetensors").unlink()
    torch.save(weights, lacking / "pytorch_model.bin")
    with pytest.raises(UserError, match="no process reward model could be made of"):  # a pickle is code
        TRLPRM.load(str(lacking))
