"""Generative PRMs: P(yes) is the logits' softmax, k samples are counted right, the same for a seed, wrong files are told."""

import json
import shutil

import pytest
import torch
from engines import TableEngine
from test_scoring import SPANS, episodes

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import reasoning
from openrlhf_agentprm.host.reasoning import EngineReasoner, reasoner_if_loadable
from openrlhf_agentprm.prm.kinds import check_reward_model, kind_of, trainable
from openrlhf_agentprm.prm.kinds.generative import GenerativePRM, Judging, ModelReasoner
from openrlhf_agentprm.prm.scoring import load_reward_model, make_batch, score_all

ABOUT = {"template": "{{ instruction }} | {{ history }} | {{ action }} ?", "verdict": " so ", "yes": ["Y", "y"], "no": ["N", "n"]}


def written(bpe_policy, folder, **about):
    shutil.copytree(bpe_policy, folder)
    (folder / "generative.json").write_text(json.dumps(ABOUT | about))
    return str(folder)


def test_p_yes_is_the_softmax_of_the_logits_behind_the_verdict(bpe_policy, tmp_path):
    path = written(bpe_policy, tmp_path / "judge", max_tokens=0)
    prm = load_reward_model("auto", path)
    assert kind_of(path) == "generative" and isinstance(prm, GenerativePRM)
    tokenizer, tokens = prm.tokenizer, episodes()
    one = [tokenizer.convert_tokens_to_ids(word) for word in ("Y", "y", "N", "n")]
    for ids, spans, (q, v) in zip(tokens, SPANS, score_all(prm, tokens, SPANS), strict=True):
        wanted = []
        for start, end in spans:
            first, history, action = (
                tokenizer.decode(part, skip_special_tokens=True).strip()
                for part in (ids[: spans[0][0]], ids[spans[0][0] : start], ids[start:end])
            )
            asked = f"<|im_start|>user\n{first} | {history} | {action} ?<|im_end|>\n<|im_start|>assistant\n"
            whole = tokenizer.encode(asked, add_special_tokens=False) + tokenizer.encode(" so ", add_special_tokens=False)
            with torch.no_grad():
                e = prm.model(torch.tensor([whole])).logits[0, -1, one].double().exp()
            wanted.append(float((e[0] + e[1]) / e.sum()))
        assert q.tolist() == pytest.approx(wanted, abs=1e-5) and v.tolist() == pytest.approx([0.5, *wanted[:-1]], abs=1e-5)


class Thoughts:
    """Reasonings given beforehand."""

    def __init__(self, *samples):
        self.samples = list(samples)

    def __call__(self, prompts, about, stop_token_ids):
        return [self.samples for _ in prompts]


@pytest.mark.parametrize(
    ("combine", "sure", "score"),
    [
        ("mean", [0.9, 0.2, 0.4], 0.5),
        ("majority", [0.9, 0.2, 0.4], 0.0),
        ("majority", [0.9, 0.6, 0.1], 1.0),
        ("majority", [0.9, 0.2, 0.8, 0.1], 0.5),
        ("majority", [0.5, 0.5, 0.9], 0.0),
    ],
)
def test_the_verdicts_of_k_reasonings_are_counted(bpe_policy, tmp_path, combine, sure, score):
    path = written(bpe_policy, tmp_path / "judge", combine=combine, samples=len(sure))
    prm = GenerativePRM.load(path, reasoner=lambda folder: Thoughts(*([10 + n, prm_eos] for n in range(len(sure)))))
    asked = []

    def verdicts(sequences):
        asked.extend(sequences)
        return torch.tensor(sure * (len(sequences) // len(sure)))

    prm.verdicts = verdicts
    scores = prm.score(make_batch(episodes()[:1], SPANS[:1]))
    assert scores.q_BK[0].tolist() == pytest.approx([score] * 3)
    so = prm.tokenizer.encode(" so ", add_special_tokens=False)
    assert [s[-len(so) - 1 :] for s in asked[: len(sure)]] == [[10 + n, *so] for n in range(len(sure))], "without the end of turn"


prm_eos = 2  # <|im_end|> of the fixture's tokenizer


def test_reasoning_is_the_same_for_a_seed_whatever_the_batch(bpe_policy, tmp_path):
    first = GenerativePRM.load(written(bpe_policy, tmp_path / "a", samples=3, max_tokens=6))
    tokens = episodes()
    together = score_all(first, tokens, SPANS)
    apart = [score_all(first, [t], [s])[0] for t, s in zip(tokens, SPANS, strict=True)]
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=0)
    other = score_all(GenerativePRM.load(written(bpe_policy, tmp_path / "b", samples=3, max_tokens=6, seed=1)), tokens, SPANS)
    assert not torch.allclose(together[0][0], other[0][0], atol=1e-6)
    samples = first.reasoner([[5, 6, 7]], first.about, [prm_eos])[0]
    assert len(samples) == 3 and len({tuple(s) for s in samples}) > 1 and all(len(s) <= 6 for s in samples)
    assert all(prm_eos not in s[:-1] for s in samples)


def test_an_engine_reasons_for_all_prompts_at_once(tiny):
    chat = ChatFormat(load_tokenizer(str(tiny)))
    engine = TableEngine(chat)
    found = EngineReasoner(engine)([[1, 2], [3]], Judging(samples=4, max_tokens=3), chat.stop_token_ids)
    assert [len(samples) for samples in found] == [4, 4] and all(s in engine.actions for samples in found for s in samples)
    again = EngineReasoner(TableEngine(chat))([[1, 2], [3]], Judging(samples=4, max_tokens=3), chat.stop_token_ids)
    assert again == found and engine.unfinished == 0


def test_wrong_files_and_words_are_told(bpe_policy, tiny, tmp_path):
    with pytest.raises(UserError, match="there is no .*generative.json"):
        GenerativePRM.load(str(bpe_policy))
    bad = written(bpe_policy, tmp_path / "bad", samples=0, combine="mode", max_tokens=-1, sampels=2, yes=[])
    with pytest.raises(UserError) as told:
        check_reward_model("auto", bad)
    assert len(told.value.problems) == 5 and "did you mean 'samples'" in str(told.value)
    (tmp_path / "list").mkdir()
    (tmp_path / "list/generative.json").write_text("[]")
    with pytest.raises(UserError, match="is no JSON object"):
        Judging.load(tmp_path / "list")
    with pytest.raises(UserError, match="greedy reasoning is the same each time"):
        Judging.load(written(bpe_policy, tmp_path / "greedy", samples=3, temperature=0))
    with pytest.raises(UserError, match="none of .*'Absolutely'.* is one token"):
        check_reward_model("auto", written(bpe_policy, tmp_path / "words", yes=["Absolutely"]))
    with pytest.raises(UserError, match="cannot be rendered"):
        check_reward_model("auto", written(bpe_policy, tmp_path / "names", template="{{ nowhere }}"))
    with pytest.raises(UserError, match="cannot be rendered"):
        check_reward_model("auto", written(bpe_policy, tmp_path / "code", template="{{ ''.__class__.__mro__ }}"))
    with pytest.raises(UserError, match="different vocabularies"):
        check_reward_model("auto", written(bpe_policy, tmp_path / "fine"), str(tiny))
    with pytest.raises(UserError, match="--prm.name generative cannot be trained"):
        trainable("generative")
    long = GenerativePRM.load(written(bpe_policy, tmp_path / "long", max_tokens=5000))
    with pytest.raises(UserError, match="lower max_tokens"):
        long.score(make_batch(episodes()[:1], SPANS[:1]))


def test_what_is_written_is_read_again(tmp_path):
    Judging(samples=4, combine="majority").save(tmp_path)
    assert Judging.load(tmp_path) == Judging(samples=4, combine="majority")


def test_a_judge_that_the_engine_cannot_load_reasons_by_itself(bpe_policy, tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise UserError("vLLM could not load it")

    monkeypatch.setattr(reasoning, "VLLMEngine", refuse)
    prm = load_reward_model("auto", written(bpe_policy, tmp_path / "judge", max_tokens=4), reasoner=reasoner_if_loadable)
    assert isinstance(prm.reasoner, ModelReasoner) and "could not load it; the judge reasons by itself" in caplog.text
