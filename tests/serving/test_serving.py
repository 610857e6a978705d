"""Scores over HTTP: those of the scorer itself, to the host's own client too; what is refused; what happens when time or the process ends."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from launching import agentprm
from servers import get, in_thread, post, serving

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.cli.serve import main
from openrlhf_agentprm.core.batches import ProcessScores
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all
from openrlhf_agentprm.serving.app import Service
from openrlhf_agentprm.serving.batcher import Batcher
from openrlhf_agentprm.serving.requests import Item, Limits, Reader, RequestError

SPANS = [[(4, 6), (9, 10), (14, 17)], [(3, 5)], [(2, 4), (4, 7)]]


def episodes(seed=0, vocabulary=60):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(5, vocabulary, (spans[-1][1],), generator=g).tolist() for spans in SPANS]


@pytest.fixture(scope="module")
def checkpoint(bpe_policy, tmp_path_factory):
    model = start_from(str(bpe_policy), dtype="fp32", seed=3)
    with torch.no_grad():
        model.score.weight.mul_(30)
    folder = tmp_path_factory.mktemp("served") / "prm"
    save_prm(model, load_tokenizer(str(bpe_policy)), folder, Record(method="td_gae"))
    return str(folder)


@pytest.fixture(scope="module")
def url(checkpoint):
    limits = ["--serve.max_body_mb", 1, "--serve.max_episodes", 8, "--serve.max_len", 64, "--serve.max_wait_ms", 20]
    with serving(checkpoint, *limits) as (address, _):
        yield address


def test_many_clients_at_once_get_the_scorers_own_scores(url, checkpoint):
    prm = ScalarPRM.load(checkpoint)

    def ask(seed):
        tokens = episodes(seed)
        wanted = [{"id": f"e{n}", "token_ids": t, "spans": s} for n, (t, s) in enumerate(zip(tokens, SPANS, strict=True))]
        return tokens, post(f"{url}/score_episodes", {"episodes": wanted})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(48)))
    for tokens, (status, answer) in answers:
        assert status == 200 and [e["id"] for e in answer["episodes"]] == ["e0", "e1", "e2"]
        for entry, spans, (q, v) in zip(answer["episodes"], SPANS, score_all(prm, tokens, SPANS), strict=True):
            assert [(t["start"], t["end"]) for t in entry["turns"]] == spans
            assert [t["q"] for t in entry["turns"]] == pytest.approx(q.tolist(), abs=1e-5)
            assert [t["v"] for t in entry["turns"]] == pytest.approx(v.tolist(), abs=1e-5)
            assert [t["progress"] for t in entry["turns"]] == pytest.approx((q - v).tolist(), abs=2e-5)
    told = dict(line.rsplit(" ", 1) for line in get(f"{url}/metrics").splitlines() if not line.startswith("#"))
    assert float(told['agentprm_requests_total{path="/score_episodes",status="200"}']) >= 48
    assert float(told["agentprm_batch_requests_sum"]) >= 48 > float(told["agentprm_batch_requests_count"])  # some were scored together


def test_texts_and_messages_become_the_tokens_of_collection(url, checkpoint):
    chat = ChatFormat(load_tokenizer(checkpoint), system_prompt="count")
    first, action, then, last = (
        chat.first("", "at one"),
        chat.encode_action("up"),
        chat.following("at two", closed=True),
        chat.encode_action("stop"),
    )
    tokens = first + action + then + last
    spans = [(len(first), len(first + action)), (len(first + action + then), len(tokens))]
    roles = zip(["system", "user", "assistant", "user", "assistant"], ["count", "at one", "up", "at two", "stop"], strict=True)
    messages = [{"role": role, "content": content} for role, content in roles]
    plain = load_tokenizer(checkpoint).encode
    pieces = plain("at one", add_special_tokens=False), plain("stop", add_special_tokens=False)
    given = [
        {"token_ids": tokens, "spans": spans},
        {"messages": messages},
        {"token_ids": pieces[0] + pieces[1], "spans": [[len(pieces[0]), len(pieces[0] + pieces[1])]]},
        {"text": ["at one", "stop"]},
    ]
    _, answer = post(f"{url}/score_episodes", {"episodes": given})
    a, b, c, d = (entry["turns"] for entry in answer["episodes"])
    assert (
        len(a) == 2
        and [t["q"] for t in a] == pytest.approx([t["q"] for t in b], abs=1e-5)
        and [t["end"] for t in b] == [e for _, e in spans]
    )
    assert c[0]["q"] == pytest.approx(d[0]["q"], abs=1e-5) and c[0]["v"] == pytest.approx(d[0]["v"], abs=1e-5)


def test_the_hosts_own_client_reads_the_rewards(url, checkpoint):
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    tokenizer = load_tokenizer(checkpoint)
    executor = SingleTurnAgentExecutor(f"{url}/get_reward")
    queries, prompts = ["count to two: up", "at one stop"], ["count to two:", "at one"]
    (answer,) = asyncio.run(executor._fetch_rewards_via_http(queries, prompts, [None, None]))
    tokens = [tokenizer.encode(q, add_special_tokens=False) for q in queries]
    starts = [len(tokenizer.encode(p, add_special_tokens=False)) for p in prompts]
    spans = [[(start, len(t))] for start, t in zip(starts, tokens, strict=True)]
    scores = score_all(ScalarPRM.load(checkpoint), tokens, spans)
    assert answer["rewards"] == answer["scores"] == pytest.approx([float(q[-1]) for q, _ in scores], abs=1e-5)
    assert answer["extra_logs"]["prm_value"] == pytest.approx([float(v[-1]) for _, v in scores], abs=1e-5)


@pytest.mark.parametrize(
    ("path", "payload", "status", "text"),
    [
        ("score_episodes", [1], 422, 'the body is a JSON array; wanted an object with "episodes"'),
        ("score_episodes", {"episodes": []}, 422, '"episodes" is []; wanted a list with at least one entry'),
        ("score_episodes", {"episodes": [{}] * 9}, 422, "has 9 entries; at most 8 are taken"),
        ("score_episodes", {"episodes": [{"token_ids": [5] * 65, "spans": [[1, 2]]}]}, 422, "has 65 tokens; at most 64 are taken"),
        (
            "score_episodes",
            {"episodes": [{"token_ids": [5, 6], "spans": [[0, 1]]}]},
            422,
            "turn 0 spans [0, 1) of 2 tokens; wanted 1 ≤ start",
        ),
        ("score_episodes", {"episodes": [{"token_ids": [5, 6, 7], "spans": [[1, 3], [2, 3]]}]}, 422, "turn 1 spans [2, 3)"),
        ("score_episodes", {"episodes": [{"token_ids": [5, True], "spans": [[1, 2]]}]}, 422, "wanted a list of whole numbers"),
        ("score_episodes", {"episodes": [{"token_ids": [5, 99999], "spans": [[1, 2]]}]}, 422, "holds token 99999, but the model knows"),
        ("score_episodes", {"episodes": [{"token_ids": [5, 6]}]}, 422, '"spans" is missing'),
        ("score_episodes", {"episodes": [{"text": ["a"]}]}, 422, "observation, action, observation, action"),
        ("score_episodes", {"episodes": [{"text": ["a", "b"], "messages": []}]}, 422, "it has text and messages; wanted one of"),
        ("score_episodes", {"episodes": [{"messages": [{"role": "user", "content": "a"}]}]}, 422, "user and assistant in turn"),
        ("get_reward", {"queries": ["a"]}, 422, '"query" is missing'),
        ("get_reward", {"query": ["a", 3]}, 422, "query[1]: it is 3; wanted a text"),
        ("get_reward", {"query": ["a"], "prompts": ["a", "b"]}, 422, '"prompts" is 2 entries; wanted a list of 1 texts'),
        ("score_episodes", {"episodes": [{"text": ["a", "b\ud800"]}]}, 422, "holds half of a surrogate pair at 1"),
        ("score_episodes", {"episodes": [{"id": "\udc00", "token_ids": [5, 6], "spans": [[1, 2]]}]}, 422, "half of a surrogate pair"),
        (
            "score_episodes",
            {"episodes": [{"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "a"}]}]},
            422,
            "half of a surrogate pair",
        ),
        ("get_reward", {"query": ["\ud800"]}, 422, "half of a surrogate pair"),
        ("get_reward", {"query": ["up " * 1366]}, 422, "it has 4098 characters; at most 4096 are read, since at most 64 tokens are taken"),
        ("score_episodes", {"episodes": [{"text": ["a" * 4000, "b" * 97]}]}, 422, "it has 4097 characters; at most 4096 are read"),
        (
            "score_episodes",
            {"episodes": [{"messages": [{"role": r, "content": "a" * 2049} for r in ("user", "assistant")]}]},
            422,
            "it has 4098 characters; at most 4096 are read",
        ),
        ("nowhere", {}, 404, "POST /nowhere is not here"),
    ],
)
def test_bad_requests_are_told_with_what_came_and_what_is_allowed(url, path, payload, status, text):
    found, answer = post(f"{url}/{path}", payload)
    assert found == status == answer["error"]["status"] and text in "; ".join(answer["error"]["problems"])


def test_every_problem_of_a_request_is_told(url):
    _, answer = post(f"{url}/score_episodes", {"episodes": [{"token_ids": [5, 6], "spans": [[1, 2]]}, {"text": 1}, 7]})
    assert [p.partition(":")[0] for p in answer["error"]["problems"]] == ["episodes[1]", "episodes[2]"]
    assert post(f"{url}/score_episodes", None, raw=b"{torn")[0] == 400


def test_a_body_that_is_too_large_is_not_read(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /score_episodes HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        assert b" 413 " in connection.recv(4096)
    with socket.create_connection((host, int(port)), timeout=30) as connection:  # one that does not say its size
        connection.sendall(b"POST /score_episodes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall((b"80000\r\n" + b"x" * 0x80000 + b"\r\n") * 2 + b"1\r\nx\r\n")
        assert b" 413 " in connection.recv(4096)


class Slow:
    """A scorer that takes its time, and gives NaN for token 7."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def score(self, batch):
        time.sleep(self.seconds)
        q_BK = batch.input_ids_BT.gather(1, batch.positions.q_BK).float()
        return ProcessScores(torch.where(q_BK == 7, torch.nan, q_BK), q_BK * 0)


def service(checkpoint, prm, **limits):
    return Service(prm, Reader(load_tokenizer(checkpoint), 100, Limits(**limits)), {}, max_batch_tokens=64, max_wait_s=0.05)


def one(*tokens):
    return {"episodes": [{"token_ids": list(tokens), "spans": [[1, len(tokens)]]}]}


def test_a_request_that_takes_too_long_ends_and_is_not_scored_later(checkpoint):
    slow = Slow(0.6)
    with in_thread(service(checkpoint, slow, seconds=0.3)) as address:
        status, answer = post(f"{address}/score_episodes", one(5, 6))
        assert status == 504 and "not scored within 0.3 seconds" in answer["error"]["problems"][0]


def test_more_than_may_wait_is_refused(checkpoint):
    with in_thread(service(checkpoint, Slow(0.5), queued_tokens=80)) as address, ThreadPoolExecutor(8) as pool:
        statuses = [s for s, _ in pool.map(lambda n: post(f"{address}/score_episodes", one(*[n] * 60)), range(10, 18))]
        assert set(statuses) == {200, 429}


def test_a_score_that_is_no_number_is_an_error_of_that_request_alone(checkpoint):
    with in_thread(service(checkpoint, Slow())) as address, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda n: post(f"{address}/score_episodes", one(5, n)), [6, 7, 8]))
    assert [status for status, _ in answers] == [200, 500, 200]
    assert "not finite" in answers[1][1]["error"]["problems"][0]
    assert [a["episodes"][0]["turns"][0]["q"] for _, a in answers[::2]] == [6.0, 8.0]


def test_batches_keep_within_their_tokens_and_what_waits_is_scored_at_the_end():
    sizes = []
    batcher = Batcher(Slow(0.2), max_tokens=10, max_wait_s=0.01, observe=lambda requests, episodes, tokens, seconds: sizes.append(tokens))
    futures = [batcher.submit([Item(str(n), [5] * (n - 1) + [n], [(1, n)])]) for n in (3, 4, 12, 3, 3, 3)]
    futures[4].cancel()
    batcher.close()
    assert [None if f.cancelled() else f.result()[0][0] for f in futures] == [[3.0], [4.0], [12.0], [3.0], None, [3.0]]
    assert sum(sizes) == 3 + 4 + 12 + 3 + 3 and all(size <= 10 or size == 12 for size in sizes)
    with pytest.raises(RequestError, match="is stopping"):
        batcher.submit([])


def test_what_nobody_waits_for_is_scored_no_further():
    rows = []

    class Counting(Slow):
        def score(self, batch):
            rows.append(len(batch.input_ids_BT))
            return super().score(batch)

    batcher = Batcher(Counting(0.2), max_tokens=10, max_wait_s=0.01, queued_tokens=100)
    item = Item("a", [5] * 10, [(1, 10)])
    with pytest.raises(RequestError, match="the request has 110 tokens; at most 100 may wait") as raised:
        batcher.submit([item] * 11)  # though nothing waits
    assert raised.value.status == 422
    long, waits = batcher.submit([item] * 10), threading.Event()
    while not rows:  # its first part is being scored
        waits.wait(0.01)
    other, last = batcher.submit([item] * 5), batcher.submit([item])
    assert batcher.queued == 60
    assert other.cancel() and batcher.queued == 10, "it leaves the queue at once"
    assert long.cancel() and last.result(5) == [([5.0], [0.0])]
    assert len(rows) <= 3, "the rest of ten parts was not scored"
    batcher.close(limit_s=5)
    stuck = Batcher(Slow(3.0))
    stuck.submit([item])
    began = time.monotonic()
    stuck.close(limit_s=0.1)
    assert time.monotonic() - began < 2


SLOW = """
import socket, sys, time
from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.prm.scoring import ScalarPRM
from openrlhf_agentprm.serving.app import Service
from openrlhf_agentprm.serving.requests import Limits, Reader
from openrlhf_agentprm.serving.run import serve

prm = ScalarPRM.load(sys.argv[1])
class Slow:
    def score(self, batch):
        time.sleep(1.5)
        return prm.score(batch)
service = Service(Slow(), Reader(load_tokenizer(sys.argv[1]), 100, Limits()), {})
bound = socket.socket()
bound.bind(("127.0.0.1", 0))
serve(service, bound, lambda url: print("serving", url, flush=True))
"""


def test_a_signal_lets_what_is_under_way_finish_and_takes_nothing_new(checkpoint):
    with serving(command=[sys.executable, "-c", SLOW, checkpoint]) as (address, process):
        found = []
        asking = threading.Thread(target=lambda: found.append(post(f"{address}/score_episodes", one(5, 6))))
        asking.start()
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(urllib.error.URLError, match="refused"):
            post(f"{address}/score_episodes", one(5, 6))
        asking.join(30)
        assert found[0][0] == 200 and process.wait(30) == 0


def test_what_cannot_be_served_is_told(checkpoint, bpe_policy, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = agentprm("serve", checkpoint, "--serve.port", taken.getsockname()[1], check=False)
    assert busy.returncode == 2 and "in use" in busy.stderr and "Traceback" not in busy.stderr
    with pytest.raises(UserError, match="not a process reward model"):
        main([str(bpe_policy)])
    with pytest.raises(UserError) as raised:
        main([checkpoint, "--serve.max_len", "0", "--serve.timeout_s", "-1", "--serve.prot", "1"])
    assert len(raised.value.problems) == 3 and "did you mean '--serve.port'" in str(raised.value)
    ensemble = tmp_path / "both"
    ensemble.mkdir()
    (ensemble / "ensemble.json").write_text(json.dumps({"members": [checkpoint, checkpoint]}))
    with pytest.raises(UserError, match="--serve.engine vllm serves PRMs whose score is that of one head; .* is ensemble"):
        main([str(ensemble), "--serve.engine", "vllm"])
    with pytest.raises(UserError, match="is remote: it is served elsewhere already"):
        main(["http://127.0.0.1:1"])


@pytest.mark.host
def test_the_same_scores_with_vllm_behind(checkpoint):
    tokens = episodes()
    ours = score_all(ScalarPRM.load(checkpoint), tokens, SPANS)
    with serving(checkpoint, "--serve.engine", "vllm", "--serve.max_len", 64) as (address, _):
        assert json.loads(get(f"{address}/health"))["engine"] == "vllm"
        wanted = [{"token_ids": t, "spans": s} for t, s in zip(tokens, SPANS, strict=True)]
        _, answer = post(f"{address}/score_episodes", {"episodes": wanted})
    for entry, (q, v) in zip(answer["episodes"], ours, strict=True):
        assert [t["q"] for t in entry["turns"]] == pytest.approx(q.tolist(), abs=1e-5)
        assert [t["v"] for t in entry["turns"]] == pytest.approx(v.tolist(), abs=1e-5)


@pytest.mark.host
def test_a_judge_that_reasons_by_vllm_behind(bpe_policy, tmp_path):
    judge = tmp_path / "judge"
    shutil.copytree(bpe_policy, judge)
    about = {"template": "{{ action }} ?", "verdict": " so ", "yes": ["Y", "y"], "no": ["N", "n"], "max_tokens": 4, "samples": 2}
    (judge / "generative.json").write_text(json.dumps(about))
    wanted = [{"token_ids": [5, 6, 7, 8], "spans": [[1, 2], [3, 4]]}]
    with serving(judge, "--serve.engine", "vllm") as (address, _):
        assert json.loads(get(f"{address}/health"))["engine"] == "vllm"
        _, answer = post(f"{address}/score_episodes", {"episodes": wanted})
    assert all(0 < turn["q"] < 1 for turn in answer["episodes"][0]["turns"]) and len(answer["episodes"][0]["turns"]) == 2
