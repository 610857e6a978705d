"""A PRM that judges a store: what an interruption leaves, what is kept apart, and the same scores by processes that Ray places."""

import json
import math
import os
import shutil

import pytest
import torch
from launching import module

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.annotate import scored
from openrlhf_agentprm.annotate.judged import autopsv
from openrlhf_agentprm.annotate.scored import Scored, judge_by
from openrlhf_agentprm.cli import label
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.journal import Journal, rows_of
from openrlhf_agentprm.data.next_actions import read_next_actions
from openrlhf_agentprm.data.sidecar import read_about, read_labels
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.host.reasoning import reasoner_if_loadable
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record


@pytest.fixture(scope="module")
def verifier(tiny, tmp_path_factory):
    """A function that makes PRMs with random scores, far from 0."""

    def make(seed):
        model = start_from(str(tiny), dtype="fp32", seed=seed)
        with torch.no_grad():
            model.score.weight.mul_(40)
        folder = tmp_path_factory.mktemp("verifier") / "prm"
        save_prm(model, load_tokenizer(str(tiny)), folder, Record(method="outcome_all", values="previous_q"))
        return str(folder)

    return make


@pytest.fixture
def judged(monkeypatch):
    """The episodes that were scored, a list a call; 10 at a time."""
    calls = []

    def judge(prm, reward_model, reasoner, part):
        calls.append([])
        for rows in judge_by(prm, reward_model, reasoner, part):
            calls[-1] += [row.episode_id for row in rows]
            yield rows

    monkeypatch.setattr(scored, "judge_by", judge)
    monkeypatch.setattr(scored, "_AT_ONCE", 10)
    return calls


def told(found):
    """Scores by episode; float32, so that the company of other episodes in a batch shows in the last digits."""
    return {e.episode_id: pytest.approx([*q_K.tolist(), *v_K.tolist()], rel=1e-4, abs=1e-5) for e, q_K, v_K in found}


def plainly(found):
    return {e.episode_id: [*q_K.tolist(), *v_K.tolist()] for e, q_K, v_K in found}


def test_an_interruption_costs_no_scored_episode(verifier, count_store, tmp_path, judged, monkeypatch):
    store, prm = EpisodeStore(count_store), verifier(3)
    plain = told(Scored(store, prm, "auto"))
    whole = len(judged.pop())
    assert whole == len(plain) > 30

    class Stopped(Journal):
        left = 25

        def append(self, row):
            if self.left == 0:
                raise KeyboardInterrupt
            type(self).left -= 1
            super().append(row)

    with monkeypatch.context() as patched:
        patched.setattr("openrlhf_agentprm.data.journal.Journal", Stopped)
        with pytest.raises(KeyboardInterrupt):
            list(Scored(store, prm, "auto", folder=tmp_path))
    found = Scored(store, prm, "auto", folder=tmp_path)
    assert plainly(found) == plain and len(judged[1]) == whole - 25
    assert found.cost["scored_tokens"] == sum(len(e.token_ids) for e in store.episodes() if e.status.has_outcome)
    assert plainly(Scored(store, prm, "auto", folder=tmp_path)) == plain and len(judged) == 2, "nothing is left to score"
    other = plainly(Scored(store, verifier(4), "auto", folder=tmp_path))
    assert other != plain and len(judged[2]) == whole, "another PRM's scores are not taken for these"


def test_what_changes_the_scores_is_another_prm(verifier, count_store, tmp_path):
    """An ensemble that combines otherwise, settings of a remote one, a judge's file: none takes the scores that stand there."""
    members, store = [verifier(3), verifier(4)], EpisodeStore(count_store)
    (tmp_path / "two").mkdir()
    found = []
    for combine in ("mean", "min"):
        (tmp_path / "two/ensemble.json").write_text(json.dumps({"members": members, "combine": combine}))
        found.append(plainly(Scored(store, str(tmp_path / "two"), "auto", folder=tmp_path / "out")))
    assert found[0] != found[1] and len(list((tmp_path / "out").glob("scored-*"))) == 2
    named = Scored(store, str(tmp_path / "two"), "ensemble", folder=tmp_path / "out")
    assert plainly(named) == found[1] and len(list((tmp_path / "out").glob("scored-*"))) == 2, "auto and its name are one"
    (tmp_path / "far").mkdir()
    names = set()
    for output in ("linear", "sigmoid"):
        (tmp_path / "far/remote.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "protocol": "vllm-pooling", "output": output}))
        names.add(Scored(store, str(tmp_path / "far"), "auto", folder=tmp_path)._journal)
    assert len(names) == 2


def test_a_store_that_grows_meanwhile_is_labelled_as_it_was(verifier, count_store, tmp_path):
    episodes = [e for e in EpisodeStore(count_store).episodes() if e.status.has_outcome]
    with EpisodeWriter(tmp_path / "store") as writer:
        for e in episodes[:10]:
            writer.add(e)
    rows = iter(Scored(EpisodeStore(tmp_path / "store"), verifier(3), "auto"))
    first = next(rows)
    with EpisodeWriter(tmp_path / "store") as writer:
        for e in episodes[10:20]:
            writer.add(e)
    assert {e.episode_id for e, *_ in [first, *rows]} <= {e.episode_id for e in episodes[:10]}


def test_an_episode_that_is_another_by_now_is_scored_again(verifier, count_store, tmp_path, judged):
    prm, episodes = verifier(3), [e for e in EpisodeStore(count_store).episodes() if e.status.has_outcome]
    list(Scored(EpisodeStore(count_store), prm, "auto", folder=tmp_path / "scores"))
    longer = [e for e in episodes if len(e.turns) > 2][0]
    longer.turns = longer.turns[:-1]  # the same tokens
    with EpisodeWriter(tmp_path / "store") as writer:
        for e in episodes:
            writer.add(e)
    found = {e.episode_id: q_K for e, q_K, _ in Scored(EpisodeStore(tmp_path / "store"), prm, "auto", folder=tmp_path / "scores")}
    assert judged[1] == [longer.episode_id] and len(found[longer.episode_id]) == len(longer.turns)


def test_one_process_at_a_time(verifier, count_store, tmp_path):
    found = Scored(EpisodeStore(count_store), verifier(3), "auto", folder=tmp_path)
    held = Journal(found._journal)
    with pytest.raises(UserError, match="another process writes to .*scored-"):
        list(found)
    held.close(remove=True)


def test_flags_that_no_prm_reads(count_store, tmp_path):
    line = ["--data.dataset", str(count_store), "--label.output", str(tmp_path / "none"), "--label.name"]
    with pytest.raises(UserError, match="--label.num_scorers is given, but --label.name mc_visits asks no PRM"):
        label.main([*line, "mc_visits", "--label.num_scorers", "2"])
    with pytest.raises(UserError, match="has the key 'score', which --label.num_scorers"):
        label.main([*line, "autopsv", "--label.options", '{"prm": "p", "score": 1}'])
    assert not (tmp_path / "none").exists()


def test_the_command_gives_a_judge_the_engine(verifier, count_store, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(scored, "judge_by", lambda prm, name, reasoner, part: given.append(reasoner) or judge_by(prm, name, None, part))
    line = ["--data.dataset", str(count_store), "--label.name", "autopsv", "--label.output", str(tmp_path / "out")]
    assert label.main([*line, "--label.options", json.dumps({"prm": verifier(3)})]) == 0
    assert given == [reasoner_if_loadable]


@pytest.mark.host
def test_a_judge_that_reasons_does_so_by_the_engine(tiny, count_store, tmp_path):
    judge = tmp_path / "judge"
    shutil.copytree(tiny, judge)
    about = {"template": "{{ action }}", "verdict": " at ", "yes": ["up"], "no": ["stop"], "max_tokens": 4, "samples": 2}
    (judge / "generative.json").write_text(json.dumps(about))
    line = ["--data.dataset", count_store, "--label.options", json.dumps({"prm": str(judge), "threshold": -0.1})]
    module("label", *line, "--label.name", "autopsv", "--label.output", tmp_path / "out")
    assert read_about(tmp_path / "out")["figures"]["labelled"] > 0
    [journal] = (tmp_path / "out").glob("scored-*.jsonl")
    scores = [q for row in rows_of(journal) for q in row["q"]]
    assert all(0 < q < 1 for q in scores) and len(set(scores)) > 3
    first, size = (tmp_path / "out/labels.json").read_text(), journal.stat().st_size
    module("label", *line, "--label.name", "autopsv", "--label.output", tmp_path / "out")
    assert journal.stat().st_size == size and json.loads(first)["figures"] == read_about(tmp_path / "out")["figures"]


@pytest.fixture
def two_nodes():
    """The environment of a command that joins a cluster of two raylets, each with one processor."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield {**os.environ, "RAY_ADDRESS": cluster.address}
    finally:
        cluster.shutdown()


@pytest.mark.host
def test_verifiers_and_policies_that_ray_places_on_two_nodes(verifier, tiny, count_store, tmp_path, two_nodes):
    """A node has a processor for one worker, so that two workers at a time are on two."""
    prm = verifier(3)
    plain = autopsv.annotate(EpisodeStore(count_store), prm=prm)
    plain.save(tmp_path / "here", {"method": "autopsv"})
    line = ["--data.dataset", count_store, "--label.options", json.dumps({"prm": prm})]
    done = module("label", *line, "--label.name", "autopsv", "--label.output", tmp_path / "ray", "--label.num_scorers", 2, env=two_nodes)
    assert read_labels(str(tmp_path / "ray")).keys() == read_labels(str(tmp_path / "here")).keys(), done.stderr[-2000:]
    for episode, (targets, _) in read_labels(str(tmp_path / "here")).items():
        assert [None if math.isnan(t) else t for t in read_labels(str(tmp_path / "ray"))[episode][0]] == [
            None if math.isnan(t) else t for t in targets
        ]
    [journal] = (tmp_path / "ray").glob("scored-*.jsonl")
    assert len(list(rows_of(journal))) == sum(e.status.has_outcome for e in EpisodeStore(count_store).episodes())
    line = ["--data.dataset", count_store, "--policy.model_name_or_path", tiny, "--completions.num_engines", 2]
    module("label", *line, "--label.name", "next_actions", "--label.output", tmp_path / "actions", env=two_nodes)
    actions, _ = read_next_actions([str(tmp_path / "actions")])
    turns = {e.episode_id: len(e.turns) for e in EpisodeStore(count_store).episodes() if e.status.has_outcome}
    assert {name: len(own) for name, own in actions.items()} == turns and read_about(tmp_path / "actions")["cost"]["sampled_tokens"] > 0
