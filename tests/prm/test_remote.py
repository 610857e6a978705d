"""Remote reward models: the scores of a server of ours by three protocols; servers that are late, wrong or gone; nothing else is asked."""

import contextlib
import json
import math
import time
from types import SimpleNamespace

import pytest
import torch
from servers import answering, behaving, in_thread

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.cli import evaluate
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.steps import split_steps
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.prm.kinds import check_reward_model, kind_of, records_of
from openrlhf_agentprm.prm.kinds.remote import RemotePRM, identity_of
from openrlhf_agentprm.prm.kinds.remote_settings import Settings, read_settings
from openrlhf_agentprm.prm.model import load_prm, save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, load_reward_model, make_batch, score_all
from openrlhf_agentprm.prm.steps import settle, trained_on
from openrlhf_agentprm.prm.vocabulary import vocabulary_digest
from openrlhf_agentprm.serving.app import Service
from openrlhf_agentprm.serving.requests import Limits, Reader

SPANS = [[(4, 6), (9, 10), (14, 17)], [(3, 5)], [(2, 4), (4, 7)]]
NAMES = ["first", "second", "third"]


@pytest.fixture(scope="module")
def checkpoint(bpe_policy, tmp_path_factory):
    model = start_from(str(bpe_policy), dtype="fp32", seed=3)
    with torch.no_grad():
        model.score.weight.mul_(30)
    folder = tmp_path_factory.mktemp("remote") / "prm"
    save_prm(model, load_tokenizer(str(bpe_policy)), folder, Record(method="td_qv", values="state"))
    return str(folder)


@pytest.fixture(scope="module")
def served(checkpoint):
    tokenizer = load_tokenizer(checkpoint)
    about = {"model": "tiny", "digest": "d1", "vocabulary": vocabulary_digest(tokenizer), "values": "state", "value_trained": True}
    service = Service(ScalarPRM.load(checkpoint), Reader(tokenizer, len(tokenizer), Limits(episodes=8)), about)
    with in_thread(service) as url:
        yield url


@pytest.fixture(scope="module")
def tokens(checkpoint):
    """Episodes whose text reads back as the same tokens, as the protocol in text needs."""
    tokenizer = load_tokenizer(checkpoint)
    found = []
    for spans in SPANS:
        ids = tokenizer.encode("\n" * 40, add_special_tokens=False)[:1] * spans[-1][1]
        letters = tokenizer.encode("z", add_special_tokens=False) + tokenizer.encode("q", add_special_tokens=False)
        for k in range(len(ids)):
            ids[k] = letters[(k * k // 2 + len(found)) % 2]
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
        found.append(ids)
    return found


def written(folder, **about):
    folder.mkdir(exist_ok=True)
    (folder / "remote.json").write_text(json.dumps(about))
    return str(folder)


def quick(url, **changes):
    prm = RemotePRM(Settings(url, **({"timeout_s": 0.5, "retries": 2, "concurrency": 1} | changes)))
    prm.address.first_wait_s = 0.01
    return prm


def same(found, wanted):
    for (q, v), (p, u) in zip(found, wanted, strict=True):
        torch.testing.assert_close(q, p, atol=1e-5, rtol=0)
        torch.testing.assert_close(v, u, atol=1e-5, rtol=0)


def test_an_address_is_a_reward_model_with_the_servers_scores(served, checkpoint, tokens, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there: a client that took it would fail
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert kind_of(served) == "remote"
    prm = load_reward_model("auto", served, dtype="fp32", device="cpu")
    same(score_all(prm, tokens, SPANS), score_all(ScalarPRM.load(checkpoint), tokens, SPANS))


def test_batches_are_dealt_out_over_requests_and_put_together_in_order(served, checkpoint, tokens, tmp_path):
    prm = load_reward_model("remote", written(tmp_path / "r", url=served, episodes_per_request=1, concurrency=8))
    same(score_all(prm, tokens * 5, SPANS * 5), score_all(ScalarPRM.load(checkpoint), tokens * 5, SPANS * 5))


def test_the_hosts_protocol_scores_a_prefix_a_turn(served, checkpoint, tokens, tmp_path):
    folder = written(tmp_path / "r", url=f"{served}/get_reward", protocol="openrlhf", tokenizer=checkpoint, episodes_per_request=1)
    found = score_all(load_reward_model("auto", folder), tokens, SPANS)
    model = load_prm(checkpoint)
    same(found, score_all(ScalarPRM(model, Record(values="previous_q")), tokens, SPANS))


@pytest.mark.parametrize(("values", "output"), [("state", "linear"), ("previous_q", "sigmoid")])
def test_vllms_pooling_protocol_is_read_at_the_turns(checkpoint, tokens, values, output):
    model = load_prm(checkpoint)

    def pooled(payload):
        assert payload["task"] == "token_classify" and payload["use_activation"] is False
        with torch.no_grad():
            data = [{"index": i, "data": model(torch.tensor([ids])).logits[0].tolist()} for i, ids in enumerate(payload["input"])]
        return {"data": data[::-1]}  # by index, in whatever order

    with behaving(answering(200, pooled)) as (url, seen):
        prm = quick(url, protocol="vllm-pooling", values=values, output=output, timeout_s=30)
        found = score_all(prm, tokens, SPANS)
    same(found, score_all(ScalarPRM(model, Record(values=values, output=output)), tokens, SPANS))
    assert "model" not in seen[0]


def test_rows_without_turns_are_not_asked_for(served, checkpoint, tokens, tmp_path):
    scorers = [load_reward_model("remote", served)]
    scorers.append(RemotePRM.load(written(tmp_path / "r", url=f"{served}/get_reward", protocol="openrlhf", tokenizer=checkpoint)))
    for prm in scorers:
        ((q, v),) = score_all(prm, tokens[1:2], SPANS[1:2])
        scores = prm.score(make_batch([[5], tokens[1], [6, 7]], [[], SPANS[1], []]))  # as a batch's placeholders in PPO
        assert scores.q_BK.flatten().tolist() == pytest.approx([0, float(q), 0], abs=1e-6)
        assert scores.v_BK.flatten().tolist() == pytest.approx([0, float(v), 0], abs=1e-6)
        assert not prm.score(make_batch([[5]], [[]])).q_BK.any()


@pytest.mark.parametrize(
    "entry", [lambda i: {"index": 0}, lambda i: {"index": str(i)}, lambda i: {}, lambda i: [0.5], lambda i: {"index": i + 1}]
)
def test_pooled_scores_have_to_say_whose_they_are(tokens, entry):
    def pooled(payload):
        found = [entry(i) for i in range(len(payload["input"]))]
        return {"data": [e | {"data": [[0.5]] * 17} if isinstance(e, dict) else e for e in found]}

    with behaving(answering(200, pooled)) as (url, _), pytest.raises(UserError, match="wanted 0 to 2, each once"):
        quick(url, protocol="vllm-pooling", retries=0).score(make_batch(tokens, SPANS))


def right(payload):
    return {"episodes": [{"turns": [{"q": 0.5, "v": 0.25} for _ in e["spans"]]} for e in payload["episodes"]]}


def late(handler, payload):
    time.sleep(1.2)
    answering(200, right)(handler, payload)


def dripping(handler, payload):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def gone(handler, payload):
    handler.connection.close()


WRONG = {
    "late": (late, "none within 0.5 seconds"),
    "dripping": (dripping, "none within 0.5 seconds"),
    "gone": (gone, "none: "),
    "500": (answering(500, b"boom"), "HTTP 500: boom"),
    "no JSON": (answering(200, b"<html>"), "no JSON"),
    "no object": (answering(200, lambda p: [1]), 'wanted an object with a list "episodes"'),
    "too few": (answering(200, lambda p: {"episodes": right(p)["episodes"][1:]}), '"episodes" has 2 entries; 3 were asked for'),
    "a turn more": (
        answering(200, lambda p: {"episodes": [{"turns": e["turns"] * 2} for e in right(p)["episodes"]]}),
        '"turns" has 6 entries; 3 were asked for',
    ),
    "NaN": (
        answering(200, lambda p: {"episodes": [{"turns": [{"q": math.nan, "v": 0}] * len(e["spans"])} for e in p["episodes"]]}),
        "nan where",
    ),
    "a text": (
        answering(200, lambda p: {"episodes": [{"turns": [{"q": "1", "v": 0}] * len(e["spans"])} for e in p["episodes"]]}),
        "'1' where",
    ),
    "no V": (answering(200, lambda p: {"episodes": [{"turns": [{"q": 1.0}] * len(e["spans"])} for e in p["episodes"]]}), "None where"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_faulty_scorer_is_asked_again_and_then_named_with_the_episodes(fault, tokens):
    answer, told = WRONG[fault]
    with behaving(answer) as (url, seen), pytest.raises(UserError) as raised:
        quick(url).score(make_batch(tokens, SPANS, NAMES))
    text = str(raised.value)
    assert len(seen) == 3 and f"{url}/score_episodes gave no score in 3 attempt(s)" in text and told in text
    assert all(name in text for name in NAMES) and "first (3 turns, 17 tokens" in text


@pytest.mark.parametrize("fault", WRONG)
def test_a_scorer_that_recovers_in_time_gives_its_scores(fault, tokens):
    with behaving(WRONG[fault][0], WRONG[fault][0], answering(200, right)) as (url, seen):
        scores = quick(url).score(make_batch(tokens, SPANS))
    assert len(seen) == 3 and scores.q_BK.tolist() == [[0.5] * 3, [0.5, 0, 0], [0.5, 0.5, 0]] and float(scores.v_BK.max()) == 0.25


def test_a_request_that_is_refused_is_not_repeated(served, tokens):
    with behaving(answering(422, b"too long")) as (url, seen), pytest.raises(UserError, match="refused it: HTTP 422: too long"):
        quick(url).score(make_batch(tokens, SPANS))
    assert len(seen) == 1
    with pytest.raises(UserError, match="has 9 entries; at most 8 are taken"):
        quick(served, timeout_s=30).score(make_batch([tokens[0]] * 9, [SPANS[0]] * 9))


def test_a_remote_prm_judges_a_store(tiny, count_store, tmp_path):
    from openrlhf_agentprm.annotate.scored import Scored

    tokenizer = load_tokenizer(str(tiny))
    service = Service(
        ScalarPRM(start_from(str(tiny), dtype="fp32").eval(), Record()), Reader(tokenizer, len(tokenizer), Limits()), {"digest": "d"}
    )
    with in_thread(service) as url:
        file = tmp_path / "scorer.json"
        file.write_text(json.dumps({"url": url}))
        assert kind_of(str(file)) == "remote"
        found = list(Scored(EpisodeStore(count_store), str(file), "auto"))
    assert found and all(len(q_K) == len(episode.turns) for episode, q_K, _ in found)


def test_it_is_led_nowhere_else(tokens):
    with behaving(answering(200, right)) as (other, asked), behaving(answering(307, b"", Location=f"{other}/score_episodes")) as (url, _):
        with pytest.raises(UserError, match="only the address given is asked"):
            quick(url).score(make_batch(tokens, SPANS))
        assert not asked


def test_nobody_there(tokens):
    with pytest.raises(UserError, match="none: ConnectionRefusedError"):
        quick("http://127.0.0.1:9").score(make_batch(tokens, SPANS))


def test_everything_wrong_with_the_settings_is_told(tmp_path, checkpoint):
    with pytest.raises(UserError) as raised:
        read_settings(
            written(tmp_path / "r", url="localhost:80", protocol="openrlfh", retries=-1, timeout_s=0, values="v", api_key_env="NO_SUCH_KEY")
        )
    text = str(raised.value)
    assert len(raised.value.problems) == 7 and "did you mean 'openrlhf'" in text and "wanted http://HOST:PORT" in text
    with pytest.raises(UserError, match="unknown key 'timeout'; did you mean 'timeout_s'"):
        read_settings(written(tmp_path / "r", url="http://127.0.0.1:1", timeout=3))
    with pytest.raises(UserError, match="there is no .*remote.json; a remote PRM is an address"):
        RemotePRM.load(str(tmp_path))
    with pytest.raises(UserError, match="the protocol openrlhf needs a tokenizer"):
        RemotePRM.load("http://127.0.0.1:1/get_reward")
    beside = read_settings(written(tmp_path / "r", url="http://127.0.0.1:1/x", protocol="openrlhf", tokenizer=checkpoint))
    assert beside.tokenizer == checkpoint and read_settings("http://127.0.0.1:1/pooling").protocol == "vllm-pooling"


def test_what_is_served_has_to_speak_the_policys_tokens(served, bpe_policy, tiny):
    check_reward_model("auto", served, str(bpe_policy))
    with pytest.raises(UserError, match="the PRM 'tiny' at http.* have different vocabularies"):
        check_reward_model("remote", served, str(tiny))
    with pytest.raises(UserError, match="gave no score|none: Connection"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("openrlhf_agentprm.prm.kinds.http.time.sleep", lambda seconds: None)
        check_reward_model("remote", "http://127.0.0.1:9")
    (record,) = records_of("remote", served)
    assert record.value_trained and record.values == "state" and identity_of(served) != identity_of(f"{served}/")


def test_ppo_asks_the_server_what_its_values_are(served, bpe_policy):
    from openrlhf_agentprm.host.ppo_checks import _prm_problems

    advantage = SimpleNamespace(values="prm", estimator="turn_gae", process_reward="none")
    args = SimpleNamespace(
        prm=SimpleNamespace(name="remote", model_name_or_path=served),
        actor=SimpleNamespace(model_name_or_path=str(bpe_policy)),
        algo=SimpleNamespace(advantage=advantage),
    )
    assert _prm_problems(args, True) == []
    untrained = {"digest": "d", "vocabulary": vocabulary_digest(load_tokenizer(str(bpe_policy))), "value_trained": False}
    with contextlib.ExitStack() as stack:
        service = Service(None, Reader(None, 1, Limits()), untrained)
        args.prm.model_name_or_path = stack.enter_context(in_thread(service))
        assert "its V(s) was not trained at the states" in _prm_problems(args, True)[0]


def test_what_a_prm_was_trained_on_is_told_by_its_server(checkpoint, bpe_policy, tmp_path):
    from openrlhf_agentprm.cli import serve
    from openrlhf_agentprm.core.arguments import parse_nested
    from openrlhf_agentprm.host.ppo_checks import _prm_problems, step_delimiters

    tokenizer, folder = load_tokenizer(checkpoint), str(tmp_path / "prm")
    z = tuple(tokenizer.encode("z", add_special_tokens=False))
    save_prm(load_prm(checkpoint), tokenizer, folder, Record(method="td_qv", step_delimiter=[list(z)], scale="share"))
    service = serve._service(parse_nested(serve.build_parser(), [folder, "--serve.engine", "transformers", "--prm.device", "cpu"]))
    (item,) = service.reader.episodes({"episodes": [{"text": ["at", "qzqq"]}]})
    at = len(tokenizer.encode("at", add_special_tokens=False))
    assert item.spans == split_steps(item.token_ids, (at, len(item.token_ids)), (z,)) and len(item.spans) == 2
    with in_thread(service) as url:
        (record,) = records_of("auto", url)
        assert record.delimiters == (z,) and record.scale == "share" and record.value_trained
        assert settle(None, trained_on("auto", [url])) == settle(None, trained_on("auto", [folder])) == (z,)
        args = SimpleNamespace(
            prm=SimpleNamespace(name="auto", model_name_or_path=url, step_delimiter=None, step_delimiter_text=None),
            actor=SimpleNamespace(model_name_or_path=str(bpe_policy)),
            algo=SimpleNamespace(advantage=SimpleNamespace(values="prm", estimator="turn_gae", process_reward="none")),
        )
        assert step_delimiters(args) == (z,)
        assert "cannot give values: Q is the share of the outcome" in _prm_problems(args, True)[0]
    with in_thread(Service(None, Reader(None, 1, Limits()), {"digest": "d", "scale": "furlongs", "step_delimiter": [["7"]]})) as url:
        (record,) = records_of("auto", url)
        assert record.scale == "probability" and record.step_delimiter == []


@pytest.mark.host
def test_evaluate_takes_an_address(tiny, sampled_store, tmp_path):
    save_prm(start_from(str(tiny), dtype="fp32"), load_tokenizer(str(tiny)), tmp_path / "prm", Record(method="td_gae"))
    tokenizer = load_tokenizer(str(tiny))
    service = Service(ScalarPRM.load(str(tmp_path / "prm")), Reader(tokenizer, len(tokenizer), Limits()), {"digest": "d"})
    results, store = [], str(sampled_store)
    with in_thread(service) as url:
        for name, path in (("remote", url), ("scalar", tmp_path / "prm")):
            output = tmp_path / f"{name}.json"
            evaluate.main(["--eval.dataset", store, "--prm.model_name_or_path", f"P={path}", "--eval.output", str(output)])
            results.append(json.loads(output.read_text())["best_of_n"]["P"])
    assert results[0] == results[1]
