"""Older iterations: their weights by hand, their weight in the loss, and the cap on their share; a warm start keeps the head."""

from collections import Counter

import pytest
import torch
from test_packing import episodes, model_of, objective
from transformers import Qwen3Config

from openrlhf_agentprm.data.store import EpisodeWriter
from openrlhf_agentprm.prm.dataset import load_data
from openrlhf_agentprm.prm.model import start_from
from openrlhf_agentprm.prm.read_out import read_out_on_call
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.replay import cap_older, iterations, replay_weights


def of_iterations(*numbers):
    found = [e for seed in range(4) for e in episodes(seed)][: len(numbers)]
    for place, (episode, number) in enumerate(zip(found, numbers, strict=True)):
        episode.iteration, episode.episode_id = number, f"e{place}"
    return found


def test_an_episode_weighs_less_for_each_iteration_that_it_is_older():
    train = of_iterations(0, 3, 2, 3)
    assert replay_weights(train, 0.5) == [0.125, 1.0, 0.5, 1.0]
    assert iterations(train, 0.5) == {
        "0": {"episodes": 1, "weight": 0.125},
        "2": {"episodes": 1, "weight": 0.5},
        "3": {"episodes": 2, "weight": 1.0},
    }


def test_the_loss_of_a_replayed_episode_is_weighed():
    """Labels are outcomes: L = ½ (Σ w e²/Σ w) + ½ (Σ w d²/Σ w over pairs) + ½ Σ w f²/Σ w, with e of Q, d = e_t − e_{t−1}, f of V."""
    train = of_iterations(1, 3, 2)
    model = model_of(Qwen3Config)
    read_out_on_call(model)
    what = objective(train, decay=0.5)
    what.label = lambda batch: batch.outcome_B[:, None].expand(batch.q_BK.shape)
    part = what.batch([0, 1, 2])
    counts = what.counts(part)
    assert counts.tolist() == [3 * 0.25 + 1 + 3 * 0.5, 2 * 0.25 + 2 * 0.5, 3]
    loss, figures = what.loss(model, part, counts)
    q_BK, v_BK = what.scores(model, part)
    promise = progress = value = 0.0
    for row, (turns, weight) in enumerate([(3, 0.25), (1, 1.0), (3, 0.5)]):
        e, f = ((x[row, :turns] - train[row].outcome).tolist() for x in (q_BK, v_BK))
        promise += weight * sum(x * x for x in e)
        value += weight * sum(x * x for x in f)
        progress += weight * sum((b - a) ** 2 for a, b in zip(e[:-1], e[1:], strict=True))
    assert float(loss.detach()) == pytest.approx(0.5 * promise / 3.25 + 0.5 * progress / 1.5 + 0.5 * value / 3.25, rel=1e-5)
    assert float(figures["promise_error"]) == pytest.approx(promise / 3.25, rel=1e-5)
    plain = objective(train).batch([0, 1, 2])
    assert plain.weights_BK is None, "without decay nothing is weighed"


def test_older_iterations_are_capped_to_a_share_and_the_rest_is_counted():
    train = of_iterations(0, 0, 0, 1, 1, 2, 2, 2)
    left_out = Counter()
    kept = cap_older(train, 0.25, left_out)
    assert [e.iteration for e in kept].count(2) == 3 and len(kept) == 4 and left_out == {"more than --data.replay_share": 4}
    assert [e.episode_id for e in cap_older(train[::-1], 0.25, Counter())][::-1] == [e.episode_id for e in kept], "whatever the order"
    assert len(cap_older(train, 1.0, Counter())) == 8 and len(cap_older(train, 0.0, Counter())) == 3


def test_a_later_store_is_newer_where_none_says_its_iteration(tmp_path):
    for number, name in enumerate(("old", "new")):
        with EpisodeWriter(tmp_path / name) as writer:
            for episode in episodes(number):
                writer.add(episode)
    paths = [str(tmp_path / "old"), str(tmp_path / "new")]
    assert [e.iteration for e in load_data(paths, max_len=100).episodes] == [0, 0, 0, 1, 1, 1]
    with EpisodeWriter(tmp_path / "told") as writer:
        writer.add(of_iterations(4)[0])
    told = load_data([str(tmp_path / "told"), *paths], max_len=100).episodes
    assert [e.iteration for e in told] == [4, 0, 0, 0, 0, 0, 0], "one store says it"


def test_a_warm_start_keeps_the_head_and_a_policy_gets_a_fresh_one(bpe_policy, tmp_path):
    fresh = start_from(str(bpe_policy), dtype="fp32", seed=1)
    with torch.no_grad():
        fresh.score.weight.fill_(0.25)
        fresh.model.norm.weight.mul_(2)
    fresh.save_pretrained(tmp_path / "prm")
    Record(method="td_gae").save(tmp_path / "prm")
    again = start_from(str(tmp_path / "prm"), dtype="fp32", seed=2)
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert float(start_from(str(bpe_policy), dtype="fp32", seed=2).score.weight.detach().std()) == pytest.approx(0.02, rel=0.3)
