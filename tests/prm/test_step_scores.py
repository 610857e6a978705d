"""Scoring, evaluating and training in steps: one pass equals every prefix on its own, and a PRM brings its delimiter along."""

import json
import logging
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from sums import LENGTH, make_policy, make_store, semicolon

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.cli import evaluate
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.layout import spans_of, turn_positions
from openrlhf_agentprm.data.sidecar import Sidecar, table_of
from openrlhf_agentprm.data.steps import in_steps
from openrlhf_agentprm.prm.dataset import attach_labels, collate
from openrlhf_agentprm.prm.model import load_prm, save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all
from openrlhf_agentprm.prm.steps import delimiters_of_text, given_delimiters, settle, step_loader, trained_on


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return str(make_policy(tmp_path_factory.mktemp("sums") / "policy"))


@pytest.fixture(scope="module")
def store(policy, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("sums") / "store", policy, tasks=6)


@pytest.fixture(scope="module")
def delimiters(policy):
    return semicolon(load_tokenizer(policy))


def make_prm(policy, folder, delimiters, seed=0):
    model = start_from(policy, dtype="fp32", seed=seed)
    with torch.no_grad():
        model.score.weight.mul_(30)
    save_prm(model, load_tokenizer(policy), folder, Record(method="td_qv", values="state", step_delimiter=[list(d) for d in delimiters]))
    return str(folder)


@pytest.fixture(scope="module")
def prm(policy, delimiters, tmp_path_factory):
    return make_prm(policy, tmp_path_factory.mktemp("steps") / "prm", delimiters)


def test_one_pass_over_steps_equals_scoring_every_prefix(prm, store, delimiters):
    model = load_prm(prm)
    episodes = [in_steps(e, delimiters) for e in list(store.episodes())[:4]]
    scored = score_all(ScalarPRM(model, Record(values="state")), [e.token_ids for e in episodes], [spans_of(e) for e in episodes])
    for episode, (q, v) in zip(episodes, scored, strict=True):
        assert len(q) == 3
        for k, turn in enumerate(episode.turns):
            with torch.no_grad():
                alone = model(torch.tensor([episode.token_ids[: turn.action_end]])).logits[0, :, 0]
            torch.testing.assert_close(q[k], alone[-1], atol=1e-5, rtol=0)
            torch.testing.assert_close(v[k], alone[turn.action_start - 1], atol=1e-5, rtol=0)
        places = turn_positions([spans_of(episode)])
        assert torch.equal(places.v_BK[0, 1:], places.q_BK[0, :-1]), "nothing is observed between steps: V is read where the Q before it is"
        torch.testing.assert_close(v[1:], q[:-1], atol=1e-5, rtol=0)


def test_a_batch_of_steps_has_the_outcome_at_the_last_one(store, delimiters):
    episode = next(e for e in store.episodes() if e.outcome == 1.0)
    batch = collate([in_steps(episode, delimiters), episode])
    assert batch.rewards_BK.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert collate([in_steps(episode, delimiters)], dense_rewards=True).rewards_BK.tolist() == [[0.0, 0.0, 1.0]]


def flags(ids=None, text=None):
    return Namespace(step_delimiter=ids, step_delimiter_text=text)


def test_what_a_text_comes_to(policy, bpe_policy):
    tiny, bpe = load_tokenizer(policy), load_tokenizer(str(bpe_policy))
    assert delimiters_of_text(tiny, ";") == semicolon(tiny)
    newline = bpe.encode("\n", add_special_tokens=False)
    assert delimiters_of_text(bpe, "\\n") == delimiters_of_text(bpe, "\n") == (tuple(newline),)
    assert delimiters_of_text(bpe, "\n\n") == (tuple(newline * 2),), "no token of its own: the sequence"
    found = delimiters_of_text(bpe, "t")  # "at", "count", " at", … were merged
    assert all(len(d) == 1 and bpe.decode(d).endswith("t") for d in found) and len(found) > 3
    with pytest.raises(UserError, match="has no token that ends with"):
        delimiters_of_text(tiny, "\n")
    with pytest.raises(UserError, match="is empty"):
        delimiters_of_text(tiny, "")


def test_merged_newlines_are_found_by_text_and_missed_by_one_id():
    """As in tokenizers that merge signs: the end of a paragraph is another token behind another sign."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["a.\n\nb:\n\nc\n\n"] * 50, trainers.BpeTrainer(vocab_size=275, initial_alphabet=alphabet, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    found = {tokenizer.decode(d) for d in delimiters_of_text(tokenizer, "\n\n")}
    assert "\n\n" in found and len(found) > 1 and all(text.endswith("\n\n") for text in found)


def records(*paths):
    return trained_on("auto", paths)


def test_the_prms_own_delimiter_is_the_default_and_another_is_records(policy, prm, delimiters, tmp_path, caplog):
    whole = make_prm(policy, tmp_path / "whole", ())
    caplog.clear()
    assert given_delimiters(flags(), policy) is None and given_delimiters(flags([()]), policy) == ()
    assert given_delimiters(flags([(5,), (6, 7), (5,)], ";"), policy) == tuple(sorted({(5,), (6, 7), *delimiters}))
    assert (
        settle(None, records(prm)) == delimiters and settle(None, records(whole)) == settle(None, []) == settle(None, records(policy)) == ()
    )
    assert settle(delimiters, records(prm, policy)) == delimiters and not caplog.records
    assert settle((), records(prm)) == () and "is now given whole responses" in caplog.text
    assert settle(delimiters, records(whole)) == delimiters and "was trained on whole responses" in caplog.text
    with pytest.raises(UserError, match="trained with unlike step delimiters.*use them apart, or give --prm.step_delimiter"):
        settle(None, records(prm, whole))
    for ids, text, told in (([(4000,)], None, "has the token 4000"), ([(), (5,)], None, "leave out the other")):
        with pytest.raises(UserError, match=told):
            given_delimiters(flags(ids, text), policy)
    with pytest.raises(UserError, match="needs a tokenizer"):
        given_delimiters(flags(None, ";"), None)


def test_an_old_record_reads_as_whole_responses(prm, tmp_path):
    about = json.loads(Path(prm, "agentprm.json").read_text())
    assert about.pop("step_delimiter")
    (tmp_path / "agentprm.json").write_text(json.dumps(about))
    assert Record.load(tmp_path).delimiters == ()


def loader(policy, sidecar=None, **given):
    args = Namespace(model=Namespace(model_name_or_path=policy), label=Namespace(sidecar=sidecar), prm=flags(**given))
    return args, step_loader(args)


def test_training_data_in_steps(policy, prm, store, delimiters, tmp_path, caplog):
    args, load = loader(policy, text=";")
    data = load([str(store.path)], max_len=LENGTH)
    assert data.summary()["steps_per_turn"] == 3.0 and data.summary()["turns"] == 3 * len(data.episodes)
    assert args.prm.step_delimiter == delimiters and all(len(e.turns) == 3 for e in data.episodes)
    assert loader(prm)[0].prm.step_delimiter == delimiters, "a warm start goes on with the PRM's own"
    whole = loader(policy)[1]([str(store.path)], max_len=LENGTH)
    assert "steps_per_turn" not in whole.summary() and all(len(e.turns) == 1 for e in whole.episodes)
    ids = [e.episode_id for e in data.episodes for _ in range(3)]
    rows = table_of(ids, [0, 1, 2] * len(data.episodes), [0.5] * len(ids), [True] * len(ids), [1.0] * len(ids))
    Sidecar(rows).save(tmp_path / "labels", {"method": "mc_visits", "step_delimiter": delimiters})
    from openrlhf_agentprm.data.sidecar import read_labels

    args, load = loader(policy, str(tmp_path / "labels"))  # which says itself what its turns are
    labelled = load([str(store.path)], max_len=LENGTH)
    attach_labels(labelled, read_labels(tmp_path / "labels"))
    assert args.prm.step_delimiter == delimiters and len(labelled.episodes) == len(data.episodes)
    with pytest.raises(UserError, match=r"labels steps that end with \d+, but the flags ask for whole responses"):
        loader(policy, str(tmp_path / "labels"), ids=[()])
    assert "steps a turn" not in caplog.text
    loader(policy, ids=[(1,)])[1]([str(store.path)], max_len=LENGTH)  # the token that ends a turn: at the very end it divides nothing
    assert "1.0 steps a turn" in caplog.text


def test_evaluation_is_in_the_prms_steps(policy, prm, store, tmp_path, capsys):
    whole = make_prm(policy, tmp_path / "whole", (), seed=1)

    def run(*flags):
        line = ["--eval.dataset", store.path, "--eval.output", tmp_path / "e.json", "--prm.model_name_or_path", *flags]
        assert evaluate.main([str(word) for word in line]) == 0
        return json.loads((tmp_path / "e.json").read_text())

    found = run(f"steps={prm}")
    assert [row["turn"] for row in found["prm_quality"]["steps"]["by_turn"]] == [1, 2]
    assert found["mean_turns"] == 3.0
    found = run(f"whole={whole}")
    assert found["prm_quality"]["whole"]["by_turn"] == [] and found["mean_turns"] == 1.0
    with pytest.raises(UserError, match="trained with unlike step delimiters"):
        run(f"steps={prm}", f"whole={whole}")
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(logging.getLogger("openrlhf_agentprm.prm.steps"), "warning", lambda text, *rest: seen.append(text % rest))
        assert run(f"steps={prm}", f"whole={whole}", "--prm.step_delimiter", "none")["mean_turns"] == 1.0
        assert len(seen) == 1 and prm in seen[0]
