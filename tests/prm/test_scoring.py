"""One-pass scoring and the checkpoint: equal to scoring prefixes, equal in every reader, wrong models refused."""

import json

import pytest
import torch
from launching import module

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.layout import spans_from_turn_numbers, turn_numbers
from openrlhf_agentprm.prm.model import load_prm, save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, length_batches, make_batch, score_all

SPANS = [[(4, 6), (9, 10), (14, 17)], [(3, 5)], [(2, 4), (4, 7)]]


def episodes(seed=0, vocabulary=60):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(5, vocabulary, (spans[-1][1],), generator=g).tolist() for spans in SPANS]


@pytest.fixture(scope="module")
def policy(bpe_policy):
    return str(bpe_policy)


@pytest.fixture(scope="module")
def checkpoint(policy, tmp_path_factory):
    """A PRM of which every score matters: a head with large random weights."""
    from openrlhf_agentprm.agents.chat import load_tokenizer

    model = start_from(policy, dtype="fp32", seed=3)
    with torch.no_grad():
        model.score.weight.mul_(30)
    folder = tmp_path_factory.mktemp("prm") / "prm"
    save_prm(model, load_tokenizer(policy), folder, Record(method="td_gae", values="previous_q"))
    return str(folder)


def test_one_pass_equals_scoring_every_prefix_on_its_own(checkpoint):
    model = load_prm(checkpoint)
    tokens = episodes()
    q_V = score_all(ScalarPRM(model, Record(values="state")), tokens, SPANS)
    for ids, spans, (q, v) in zip(tokens, SPANS, q_V, strict=True):
        for k, (start, end) in enumerate(spans):
            with torch.no_grad():
                alone_q = model(torch.tensor([ids[:end]])).logits[0, -1, 0]
                alone_v = model(torch.tensor([ids[:start]])).logits[0, -1, 0]
            torch.testing.assert_close(q[k], alone_q, atol=1e-5, rtol=0)
            torch.testing.assert_close(v[k], alone_v, atol=1e-5, rtol=0)


def test_padding_and_batch_order_change_nothing(checkpoint):
    prm = ScalarPRM.load(checkpoint)
    tokens = episodes()
    together = score_all(prm, tokens, SPANS)
    apart = [score_all(prm, [t], [s])[0] for t, s in zip(tokens, SPANS, strict=True)]
    backwards = score_all(prm, tokens[::-1], SPANS[::-1], max_tokens=20)[::-1]
    for a, b, c in zip(together, apart, backwards, strict=True):
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(a[0], c[0], atol=1e-5, rtol=0)


def test_equal_episodes_are_scored_once_and_equal_tokens_with_other_turns_are_not(checkpoint, monkeypatch):
    prm, rows = ScalarPRM.load(checkpoint), []
    score = prm.score
    monkeypatch.setattr(prm, "score", lambda batch: rows.extend(batch.names or []) or score(batch))
    (one, two, three), (a, b, c) = episodes(), SPANS
    found = score_all(prm, [one, three, two, one, three], [a, c, b, a, [(2, 7)]], names=["0", "1", "2", "3", "4"])
    assert sorted(rows) == ["0", "1", "2", "4"]
    apart = score_all(prm, [one], [a])[0]
    for q, v in (found[0], found[3]):
        torch.testing.assert_close(q, apart[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(v, apart[1], atol=1e-5, rtol=0)
    assert len(found[1][0]) == 2 and len(found[4][0]) == 1
    found[0][0].zero_()  # each has a tensor of its own
    torch.testing.assert_close(found[3][0], apart[0], atol=1e-5, rtol=0)


def test_previous_q_is_the_score_of_the_turn_before(checkpoint):
    model = load_prm(checkpoint)
    (q, v), *_ = score_all(ScalarPRM(model, Record(values="previous_q")), episodes()[:1], SPANS[:1])
    (_, at_state), *_ = score_all(ScalarPRM(model, Record(values="state")), episodes()[:1], SPANS[:1])
    assert torch.equal(v[1:], q[:-1]) and v[0] == at_state[0]


def test_the_same_scores_in_transformers_and_in_the_host_as_a_critic(checkpoint):
    from openrlhf.models import model as host_models
    from transformers import AutoModelForTokenClassification

    tokens = episodes()
    ours = score_all(ScalarPRM(load_prm(checkpoint), Record(values="state")), tokens, SPANS)
    plain = AutoModelForTokenClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    host_dtype = "openrlhf.utils.utils.convert_to_torch_dtype"
    with pytest.MonkeyPatch.context() as patch:  # the host offers half precision only; float32 shows equality to 1e-5
        patch.setattr(host_dtype, lambda name: torch.float32)
        critic = host_models.get_llm_for_sequence_regression(checkpoint, "critic", attn_implementation="sdpa").eval()
    for ids, spans, (q, v) in zip(tokens, SPANS, ours, strict=True):
        x = torch.tensor([ids])
        with torch.no_grad():
            logits = plain(x).logits[0, :, 0]
            # the critic answers the predicting positions of action tokens; an action mask over all of them shows every position but the last
            values = critic(x, action_mask=torch.ones(1, len(ids) - 1), attention_mask=torch.ones_like(x))[0]
        for k, (start, end) in enumerate(spans):
            torch.testing.assert_close(logits[end - 1], q[k], atol=1e-5, rtol=0)
            torch.testing.assert_close(values[start - 1], v[k], atol=1e-5, rtol=0)
            if end < len(ids):
                torch.testing.assert_close(values[end - 1], q[k], atol=1e-5, rtol=0)


def test_in_the_hosts_own_dtype_scores_agree_within_its_precision(checkpoint):
    from openrlhf.models import get_llm_for_sequence_regression

    critic = get_llm_for_sequence_regression(checkpoint, "critic", attn_implementation="sdpa").eval()
    ids, spans = episodes()[0], SPANS[0]
    q, v = score_all(ScalarPRM.load(checkpoint, dtype="bf16"), [ids], [spans])[0]
    x = torch.tensor([ids])
    with torch.no_grad():
        values = critic(x, action_mask=torch.ones(1, len(ids) - 1), attention_mask=torch.ones_like(x))[0].float()
    torch.testing.assert_close(values[spans[0][0] - 1], v[0], atol=0.03 * float(v.abs().max() + 1), rtol=0)


@pytest.mark.host
def test_the_same_scores_in_vllms_pooling_runner(checkpoint, tmp_path):
    tokens = episodes()
    ours = score_all(ScalarPRM(load_prm(checkpoint), Record(values="state")), tokens, SPANS)
    import subprocess
    import sys

    code = """
import json, os, sys
from openrlhf_agentprm.host.cpu import prepare_environment
prepare_environment()
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
import vllm
llm = vllm.LLM(model=sys.argv[1], runner="pooling", dtype="float32", enforce_eager=True, gpu_memory_utilization=0.05, max_model_len=128)
prompts = [{"prompt_token_ids": ids} for ids in json.loads(sys.argv[2])]
found = llm.encode(prompts, pooling_task="token_classify", pooling_params=vllm.PoolingParams(use_activation=False), use_tqdm=False)
open(sys.argv[3], "w").write(json.dumps([[float(x[0]) for x in o.outputs.data] for o in found]))
"""
    out = tmp_path / "scores.json"
    subprocess.run([sys.executable, "-c", code, checkpoint, json.dumps(tokens), str(out)], check=True, capture_output=True, timeout=1200)
    for scores, spans, (q, v) in zip(json.loads(out.read_text()), SPANS, ours, strict=True):
        for k, (start, end) in enumerate(spans):
            assert scores[end - 1] == pytest.approx(float(q[k]), abs=1e-5)
            assert scores[start - 1] == pytest.approx(float(v[k]), abs=1e-5)


def test_turns_found_again_in_the_hosts_tensors_score_alike(checkpoint):
    prm = ScalarPRM.load(checkpoint)
    tokens = episodes()
    batch = make_batch(tokens, SPANS)
    width = batch.input_ids_BT.shape[1]
    numbers = torch.stack(
        [torch.nn.functional.pad(turn_numbers(s, len(t)), (0, width - len(t))) for t, s in zip(tokens, SPANS, strict=True)]
    )
    again = make_batch(tokens, spans_from_turn_numbers(numbers))
    assert torch.equal(prm.score(batch).q_BK, prm.score(again).q_BK)


def test_wrong_models_are_refused_by_name(policy, checkpoint, tmp_path):
    with pytest.raises(UserError, match="is a Qwen3ForCausalLM, not a process reward model"):
        load_prm(policy)
    with pytest.raises(UserError, match="no model could be loaded"):
        load_prm(str(tmp_path))
    from transformers import AutoConfig, AutoModelForTokenClassification

    config = AutoConfig.from_pretrained(policy)
    config.num_labels = 2
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "two")
    with pytest.raises(UserError, match="scores 2 labels a token"):
        load_prm(str(tmp_path / "two"))
    config.num_labels = 1
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "bias")
    with pytest.raises(UserError, match="has a bias in its head"):
        load_prm(str(tmp_path / "bias"))
    with pytest.raises(UserError, match="hold token 9999, but the PRM knows"):
        ScalarPRM.load(checkpoint).score(make_batch([[1, 9999, 3]], [[(1, 2)]]))


def test_a_sigmoid_output_is_applied_to_q_and_v(checkpoint):
    tokens = episodes()
    linear = score_all(ScalarPRM(load_prm(checkpoint), Record(values="state")), tokens, SPANS)
    squashed = score_all(ScalarPRM(load_prm(checkpoint), Record(values="state", output="sigmoid")), tokens, SPANS)
    for (q, v), (p, u) in zip(linear, squashed, strict=True):
        torch.testing.assert_close(p, q.sigmoid())
        torch.testing.assert_close(u, v.sigmoid())


def test_the_record_tells_how_the_model_was_made(checkpoint, policy):
    record = Record.load(checkpoint)
    assert record.method == "td_gae" and record.versions["transformers"] and record.value_trained
    assert Record.load(policy).value_trained is False


@pytest.mark.parametrize(
    "torn", ['{"method": "td_g', "[1, 2]", "[]", "{}", "", '{"method": "td_gae", "values": 3}', '{"step_delimiter": 5}']
)
def test_a_torn_record_is_told(torn, tmp_path):
    (tmp_path / "agentprm.json").write_text(torn)
    with pytest.raises(UserError, match="agentprm.json is not the record of a PRM"):
        Record.load(tmp_path)


def test_length_batches_keep_within_the_budget():
    lengths = [5, 100, 7, 30, 30, 31, 200]
    batches = list(length_batches(lengths, 100))
    assert sorted(i for b in batches for i in b) == list(range(7))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= 100 for b in batches)


@pytest.mark.host
def test_evaluate_names_prms_and_judges_them(quick_run):
    result = json.loads((quick_run / "evaluation.json").read_text())
    free = {"random", "oracle", "fewest turns", "most turns", "length regression", "log-probability per turn"}
    assert set(result["best_of_n"]) == {*free, "AgentPRM"}
    one, eight = (result["best_of_n"]["AgentPRM"][n]["mean"] for n in ("1", "8"))
    assert one == pytest.approx(result["single_sample"]["mean"]) and eight > one
    assert result["best_of_n"]["oracle"]["8"]["mean"] >= eight
    lowest = result["lowest_of_n"]["AgentPRM"]
    assert set(result["lowest_of_n"]) == {"AgentPRM"} and lowest["1"]["mean"] == pytest.approx(one) and lowest["8"]["mean"] < one
    by_task = result["lowest_by_task"]["AgentPRM"]["8"]
    assert sum(by_task) / len(by_task) == pytest.approx(lowest["8"]["mean"], abs=1e-4) and len(by_task) == len(result["task_ids"])
    output = quick_run / "again.json"
    prm = quick_run / "agentprm"
    twice = module(
        "evaluate", "--eval.dataset", quick_run / "test_samples", "--eval.output", output, "--prm.model_name_or_path", prm, prm, check=False
    )
    assert twice.returncode == 2 and "two PRMs are named 'agentprm'" in twice.stderr
