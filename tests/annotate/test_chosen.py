"""What a policy learns from: selections and pairs by hand, by a real PRM through the command line, and a real SFT on selected turns."""

import json
import math

import pytest
import torch
from launching import here, module

from openrlhf_agentprm.annotate.chosen import _start, best_episodes, good_turns, ranked_pairs
from openrlhf_agentprm.annotate.relabel import relabel
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.pairs import EpisodePair, Pair, read_any_pairs, read_pairs
from openrlhf_agentprm.data.selection import read_selection
from openrlhf_agentprm.data.sidecar import read_about
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter

# task, sample: (q_K, v_K), outcome
PLAYED = {
    ("t", 0): (([0.2, 0.9], [0.5, 0.2]), 0.0),
    ("t", 1): (([0.6, 0.8], [0.5, 0.6]), 1.0),
    ("t", 2): (([0.1, 0.3], [0.5, 0.1]), 1.0),
    ("u", 0): (([0.4, 0.4], [0.5, 0.4]), 0.0),
    ("u", 1): (([0.4, 0.6], [0.5, 0.4]), 0.0),
}


def episode(task, sample, outcome):
    tokens = [1, 2, 10 + sample, 3, 20 + sample]
    return Episode(
        env="e", task_id=task, split="train", seed=0, sample=sample, policy="p", policy_digest="d", sampling={},
        status=Status.SUCCESS if outcome else Status.FAILURE, outcome=outcome, terminated=True, truncated=False, token_ids=tokens,
        turns=[Turn("o", "a", 2, 3), Turn("o", "b", 4, 5)], episode_id=f"{task}{sample}",
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with EpisodeWriter(tmp_path / "store") as writer:
        for (task, sample), (_, outcome) in PLAYED.items():
            writer.add(episode(task, sample, outcome))
    return EpisodeStore(tmp_path / "store")


def test_episodes_are_compared_where_they_began_alike():
    one, same, other = (episode("t", n, 1.0) for n in range(3))
    other.token_ids = [9, *other.token_ids[1:]]
    assert _start(one) == _start(same) != _start(other)


class Given:
    """The numbers above, as a PRM's scores."""

    values_start = True

    def __init__(self, store, prm, reward_model):
        self.store, self.cost = store, {"scored_tokens": 25}

    def __iter__(self):
        for e in self.store.episodes():
            (q, v), _ = PLAYED[(e.task_id, e.sample)]
            yield e, torch.tensor(q, dtype=torch.float64), torch.tensor(v, dtype=torch.float64)


class NoStart(Given):
    values_start = False


def test_best_episodes_by_hand(store, tmp_path):
    by_prm = {"prm": "x", "score": Given}
    assert set(best_episodes.annotate(store, **by_prm).turns) == {"t0", "u1"}, "by the last turn: 0.9 and 0.6"
    assert set(best_episodes.annotate(store, **by_prm, aggregate="min").turns) == {"t1", "u0"}, "0.6; 0.4 twice, the first id"
    assert set(best_episodes.annotate(store, **by_prm, k=2).turns) == {"t0", "t1", "u0", "u1"}
    assert set(best_episodes.annotate(store, **by_prm, min_outcome=1.0).turns) == {"t1"}, "the failure that scores higher is left out first"
    found = best_episodes.annotate(store)
    assert set(found.turns) == {"t1"}, "by the outcome; a task without a success has none"
    assert found.figures == {"tasks": 2, "tasks_kept": 1, "episodes": 5, "episodes_kept": 1, "turns": 10, "turns_kept": 2,
                             "mean_outcome": 0.4, "mean_outcome_kept": 1.0}  # fmt: skip
    found.save(tmp_path / "best", {"method": "best_episodes"})
    assert read_selection(tmp_path / "best") == {"t1": {0, 1}} and read_about(tmp_path / "best")["kind"] == "selection"
    with pytest.raises(UserError, match="k is 0; wanted a whole number from 1"):
        best_episodes.annotate(store, k=0)
    with pytest.raises(UserError, match="no episode of .* reaches the outcome"):
        best_episodes.annotate(store, min_outcome=2.0)


def test_good_turns_by_hand(store):
    found = good_turns.annotate(store, prm="x", score=Given)
    assert found.turns == {"t0": [1], "t1": [0, 1], "t2": [1], "u1": [1]}
    assert good_turns.annotate(store, prm="x", score=Given, threshold=0.5).turns == {"t0": [1]}, "0.7"
    assert good_turns.annotate(store, prm="x", score=Given, min_outcome=1.0).turns == {"t1": [0, 1], "t2": [1]}
    assert good_turns.annotate(store, prm="x", score=NoStart).turns["t1"] == [1], "no V(s_0), no first turn"
    with pytest.raises(UserError, match="prm is not given"):
        good_turns.annotate(store)
    with pytest.raises(UserError, match="no turn of .* has progress above 5"):
        good_turns.annotate(store, prm="x", score=Given, threshold=5.0)


def test_pairs_by_hand(store, tmp_path):
    found = ranked_pairs.annotate(store, prm="x", score=Given)
    assert [tuple(p)[:2] for p in found.pairs] == [("t0", "t2"), ("u1", "u0")]
    assert [p.margin for p in found.pairs] == pytest.approx([0.6, 0.2])
    assert found.figures["mean_outcome_chosen"] == 0.0 and found.figures["mean_outcome_rejected"] == 0.5
    assert [tuple(p)[:2] for p in ranked_pairs.annotate(store, prm="x", score=Given, margin=0.3, pairs=9).pairs] == [("t0", "t2")]
    assert [tuple(p) for p in ranked_pairs.annotate(store).pairs] == [("t1", "t0", 1.0)], "by the outcome; equal ones are no pair"
    found.save(tmp_path / "ranked", {"method": "ranked_pairs"})
    assert read_any_pairs(tmp_path / "ranked")[0] == EpisodePair("t0", "t2", pytest.approx(0.6))
    with pytest.raises(UserError, match="holds pairs of episodes, where preference pairs are wanted"):
        read_pairs(tmp_path / "ranked")
    steps = relabel.annotate(store, prm="x", score=Given, margin=0.3)
    steps.save(tmp_path / "steps", {"method": "relabel"})
    pairs = read_any_pairs(tmp_path / "steps")
    assert {(p.chosen_episode, p.chosen_turn, p.rejected_episode) for p in pairs} == {("t1", 0, "t0"), ("t1", 0, "t2")}
    assert all(isinstance(p, Pair) for p in pairs) and steps.cost == {"scored_tokens": 25}
    with pytest.raises(UserError, match="give one Q"):
        relabel.annotate(store, prm="x", targets="y", score=Given)


def test_the_loss_is_of_the_selected_turns_alone(store, tmp_path):
    from openrlhf_agentprm.host.sft import EpisodeDataset, _Rows

    good_turns.annotate(store, prm="x", score=Given).save(tmp_path / "good", {"method": "good_turns"})
    data = EpisodeDataset(_Rows([str(store.path)]), None, 64, None, selection=str(tmp_path / "good"))
    masks = {e.episode_id: data[i][2][0].tolist() for i, e in enumerate(data.episodes)}
    assert masks == {"t0": [0, 0, 0, 1, 0], "t1": [0, 1, 0, 1, 0], "t2": [0, 0, 0, 1, 0], "u1": [0, 0, 0, 1, 0]}
    with pytest.raises(UserError, match="none with|0 with outcome ≥ 2.0 in --data.selection"):
        EpisodeDataset(_Rows([str(store.path)]), None, 64, 2.0, selection=str(tmp_path / "good"))


@pytest.mark.host
def test_a_prm_selects_and_sft_learns_the_selected_turns(tiny, sampled_store, tmp_path):
    from openrlhf_agentprm.agents.chat import load_tokenizer
    from openrlhf_agentprm.prm.model import save_prm, start_from
    from openrlhf_agentprm.prm.record import Record

    model = start_from(str(tiny), dtype="fp32", seed=3)
    with torch.no_grad():
        model.score.weight.mul_(40)
    save_prm(model, load_tokenizer(str(tiny)), tmp_path / "prm", Record(method="td_gae"))
    options = json.dumps({"prm": str(tmp_path / "prm")})
    flags = ["--data.dataset", sampled_store, "--label.name", "good_turns", "--label.options", options, "--label.output", tmp_path / "good"]
    assert "turns kept" in module("label", *flags).stdout
    about = read_about(tmp_path / "good")
    assert 0 < about["figures"]["turns_kept"] < about["figures"]["turns"] and about["cost"]["scored_tokens"] > 0
    train = [
        "--model.model_name_or_path", tiny, "--data.dataset", sampled_store, "--data.selection", tmp_path / "good", "--data.max_len", 128,
        "--ckpt.output_dir", tmp_path / "out", "--train.batch_size", 16, "--train.micro_batch_size", 16, "--train.max_epochs", 2,
        "--adam.lr", 1e-3, "--ds.zero_stage", 0, "--ds.attn_implementation", "sdpa", "--ds.param_dtype", "fp32",
    ]  # fmt: skip
    module("train_sft", *train)
    assert _gain(tiny, tmp_path / "out", sampled_store, tmp_path / "good") > 0.1, "selected actions became likelier"
    text = tmp_path / "text"
    text.mkdir()
    (text / "data.jsonl").write_text('{"input": "a", "output": "b"}\n')
    refused = here("train_sft", *train, "--data.dataset", text)
    assert refused.returncode == 2 and "--data.selection is of turns of episode stores" in refused.stderr
    wrong = here("train_sft", *train, "--data.selection", tmp_path / "prm")
    assert wrong.returncode == 2 and "holds no finished labels" in wrong.stderr
    prm = here("train_prm", "--model.model_name_or_path", tiny, "--data.dataset", sampled_store, "--label.sidecar", tmp_path / "good",
                 "--ckpt.output_dir", tmp_path / "no")  # fmt: skip
    assert prm.returncode == 2 and "holds selected turns, where targets of turns are wanted" in prm.stderr


def _gain(before, after, store, selection):
    """By how much the log-probability of a selected action rose, on average."""
    from transformers import AutoModelForCausalLM

    chosen, episodes = read_selection(selection), list(EpisodeStore(store).episodes())
    values = []
    for path in (before, after):
        model, total, count = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), 0.0, 0
        for e in episodes:
            ids = torch.tensor([e.token_ids])
            with torch.no_grad():
                logp = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
            for k in chosen.get(e.episode_id, ()):
                total, count = total + float(logp[e.turns[k].action_start - 1 : e.turns[k].action_end - 1].sum()), count + 1
        values.append(total / count)
    assert all(map(math.isfinite, values))
    return values[1] - values[0]
