"""Collection on a real engine: exact tokens, every fault counted, nothing lost and nothing twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from launching import module

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.core.errors import StoppedError
from openrlhf_agentprm.data.episode import Status, problems_of
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.host.engine import VLLMEngine
from openrlhf_agentprm.rollout.builder import Assignment, Limits
from openrlhf_agentprm.rollout.collect import Stats, play_episodes, unless_all_break
from openrlhf_agentprm.rollout.engine import Sampling
from openrlhf_agentprm.rollout.pool import EnvPool, Timeouts

pytestmark = pytest.mark.host


class Recorder:
    """A real engine that also notes what it was given and what it sampled."""

    def __init__(self, engine):
        self.engine, self.prompts, self.samples = engine, {}, {}

    def submit(self, request_id, token_ids, *rest):
        self.prompts[request_id] = list(token_ids)
        self.engine.submit(request_id, token_ids, *rest)

    def step(self):
        found = self.engine.step()
        self.samples |= {s.request_id: s for s in found}
        return found

    unfinished = property(lambda self: self.engine.unfinished)


@pytest.fixture(scope="module")
def engine(bpe_policy):
    engine = VLLMEngine(str(bpe_policy), max_model_len=256)
    yield engine
    engine.close()


def assignments(pool, policy, count, split="train"):
    return [Assignment(pool.name, task, split, 0, 0, str(policy), "d", Sampling().identity()) for task in pool.tasks(split, 0, count)]


def test_tokens_are_the_engines_own_where_encoding_again_would_differ(engine, bpe_policy):
    chat = ChatFormat(load_tokenizer(str(bpe_policy)))
    recorder = Recorder(engine)
    with EnvPool("thirdparty_count", {}, 8) as pool:
        episodes = list(play_episodes(assignments(pool, bpe_policy, 24), pool, recorder, chat, Sampling(), Limits(4, 256, 6)))
    assert len(episodes) == 24 and {e.status for e in episodes} <= {Status.TRUNCATED, Status.FAILURE, Status.SUCCESS}
    sampled = {(tuple(recorder.prompts[r]), tuple(s.token_ids)): s.logprobs for r, s in recorder.samples.items()}
    differing = 0
    for episode in episodes:
        assert problems_of(episode) == []
        for turn in episode.turns:
            tokens = episode.token_ids[turn.action_start : turn.action_end]
            logprobs = sampled[tuple(episode.token_ids[: turn.action_start]), tuple(tokens)]
            assert len(tokens) <= 6 and all(lp < 0 for lp in logprobs)
            assert episode.logprobs[turn.action_start : turn.action_end] == pytest.approx(logprobs, abs=0.2)
            differing += chat.tokenizer.encode(turn.action, add_special_tokens=False) != [t for t in tokens if t > 2]
    assert differing > 20, "the tokenizer was chosen so that encoding the text again gives other tokens"


def test_an_action_ends_at_each_stop_token_and_at_its_cap(engine, bpe_policy):
    stops = list(range(3, 100))  # about a third of the vocabulary
    tokenizer = load_tokenizer(str(bpe_policy))
    chat = ChatFormat(tokenizer, stop_token_ids=stops)
    with EnvPool("thirdparty_count", {}, 8) as pool:
        episodes = list(play_episodes(assignments(pool, bpe_policy, 24), pool, engine, chat, Sampling(), Limits(3, 256, 5)))
    actions = [e.token_ids[t.action_start : t.action_end] for e in episodes for t in e.turns]
    ending = {*stops, chat.end_token_id}
    assert not any(token in ending for action in actions for token in action[:-1])
    assert all(action[-1] in ending or len(action) == 5 for action in actions)
    assert sum(action[-1] in stops for action in actions) > 20 and any(len(action) == 5 for action in actions)


def test_a_tenth_that_raises_hangs_or_exits_costs_nothing_else(engine, bpe_policy):
    chat = ChatFormat(load_tokenizer(str(bpe_policy)))
    stats = Stats()
    with EnvPool("thirdparty_faulty", {}, 12, Timeouts(20, 1.0)) as pool:
        wanted = assignments(pool, bpe_policy, 60)
        episodes = list(play_episodes(wanted, pool, engine, chat, Sampling(), Limits(2, 256, 4), max_retries=1, stats=stats))
        assert pool.counts == {"restarts": 8, "error": 4, "timeout": 4, "died": 4}
    by_task = {e.task_id: e for e in episodes}
    assert len(episodes) == len(by_task) == 60
    for task, episode in by_task.items():
        number = int(task.rpartition("-")[2])
        expected = {0: Status.ENV_ERROR, 1: Status.TIMEOUT, 2: Status.ENV_ERROR}[number // 10 % 3] if number % 10 == 0 else None
        if expected:
            assert episode.status is expected and not episode.status.has_outcome and episode.error
        else:
            assert episode.status.has_outcome
    assert stats.retries == 6 and stats.statuses["env_error"] == 4 and stats.statuses["timeout"] == 2


def test_where_every_episode_breaks_the_collection_stops_and_stores_none_of_them():
    told = "the last 3 episodes broke, each after its retries, the last one by: gone; they are not stored"
    fine, broken = SimpleNamespace(status=Status.FAILURE), SimpleNamespace(status=Status.ENV_ERROR, error="gone")
    late = SimpleNamespace(status=Status.TIMEOUT, error="late")
    assert list(unless_all_break([broken, late, fine, broken, broken], 3)) == [broken, late, fine, broken, broken]
    kept = []
    with pytest.raises(StoppedError, match=told):
        kept.extend(unless_all_break(iter([broken, fine, broken, late, broken, fine]), 3))
    assert kept == [broken, fine], "what was held behind them is not given out"


def test_a_server_that_is_gone_ends_the_collection_and_the_same_command_plays_what_it_lacks(tiny, tmp_path):
    line = [
        "--env.name", "thirdparty_faulty", "--env.args", '{"where": "everywhere"}', "--env.num_tasks", 100, "--env.num_workers", 4,
        "--env.max_turns", 2, "--policy.model_name_or_path", tiny, "--data.max_len", 128, "--collect.output", tmp_path / "store",
        "--collect.n_samples_per_task", 1, "--collect.demonstrator", "careless",
    ]  # fmt: skip
    done = module("collect", *line, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "the last 32 episodes broke, each after its retries, the last one by: ConnectionError: the server is gone" in done.stderr
    assert len(EpisodeStore(tmp_path / "store", allow_empty=True)) == 0


def test_an_episode_that_does_not_fit_is_told_apart(engine, bpe_policy):
    chat = ChatFormat(load_tokenizer(str(bpe_policy)))
    with EnvPool("thirdparty_count", {}, 4) as pool:
        wanted = assignments(pool, bpe_policy, 4)
        cut = list(play_episodes(wanted, pool, engine, chat, Sampling(), Limits(50, 60, 8)))
        short = list(play_episodes(wanted, pool, engine, chat, Sampling(), Limits(50, 5, 8)))
    assert {e.status for e in cut} <= {Status.CONTEXT_OVERFLOW, Status.FAILURE, Status.SUCCESS} and Status.CONTEXT_OVERFLOW in {
        e.status for e in cut
    }
    assert all(len(e.token_ids) <= 60 for e in cut)
    assert all(e.status is Status.CONTEXT_OVERFLOW and e.turns == [] for e in short), "a context shorter than the prompt"


def test_killed_and_started_again_collection_loses_nothing_and_has_nothing_twice(tiny, tmp_path):
    command = [
        sys.executable, "-m", "openrlhf_agentprm.cli.collect", "--env.name", "thirdparty_count", "--env.num_tasks", "150",
        "--env.max_turns", "3", "--env.max_tokens_per_turn", "4", "--env.num_workers", "16", "--policy.model_name_or_path", str(tiny),
        "--collect.output", str(tmp_path / "store"), "--collect.n_samples_per_task", "4", "--collect.shard_size", "64", "--data.max_len", "128",
    ]  # fmt: skip
    rng = random.Random(1)
    finished_before = set()
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 1200
        while time.monotonic() < deadline and len(EpisodeStore(tmp_path / "store", allow_empty=True).ids()) <= len(finished_before) + 20:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        ids = EpisodeStore(tmp_path / "store").ids()
        assert finished_before < ids, "a finished episode was lost, or nothing was added"
        finished_before = ids
    done = module(*command[2:][0].split(".")[-1:], *command[3:])
    rows = [row["episode_id"] for row in EpisodeStore(tmp_path / "store").rows(["episode_id"])]
    assert len(rows) == len(set(rows)) == 600 and finished_before <= set(rows), done.stderr[-500:]
    summary = json.loads((tmp_path / "store" / ".collect.json").read_text())
    assert summary["episodes"] == 600 and summary["played"] == 600 - len(finished_before)
    before = sorted(p.name for p in (tmp_path / "store").glob("*.parquet"))
    module("collect", *command[3:])
    assert sorted(p.name for p in (tmp_path / "store").glob("*.parquet")) == before, "a finished collection plays nothing"


def test_further_samples_are_no_copies_of_the_first(tiny, tmp_path):
    """The engine of a collection that goes on draws other noise than the one that began it, and the same when it is repeated."""
    flags = [
        "--env.name", "thirdparty_count", "--env.num_tasks", 24, "--env.max_turns", 3, "--env.max_tokens_per_turn", 4, "--env.num_workers", 24,
        "--policy.model_name_or_path", tiny, "--data.max_len", 128,
    ]  # fmt: skip
    for samples in (1, 2):
        module("collect", *flags, "--collect.output", tmp_path / "store", "--collect.n_samples_per_task", samples)
    first, second = ({e.task_id: e.token_ids for e in EpisodeStore(tmp_path / "store").episodes() if e.sample == k} for k in (0, 1))
    same = sum(first[task] == second[task] for task in first)
    assert len(first) == len(second) == 24 and same < 8, "two samples of a random policy are seldom alike"
