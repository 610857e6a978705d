"""`mc_visits` and its sidecar: numbers by hand, a try to leak over a split by task, a real training on them."""

import math
import random

import pyarrow.parquet as pq
import pytest
import torch
from launching import here, module

from openrlhf_agentprm.annotate.visits import mc_visits, qlass
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.core.visits import returns_behind, visit_means
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.sidecar import read_about, read_labels
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.prm.dataset import PRMData, attach_labels, collate


def episode(sample, actions, outcome, task="t", status=None, rewards=None):
    """A prompt of two tokens, then one token for each action and one for each observation."""
    tokens, turns = [1, 2], []
    for k, action in enumerate(actions):
        turns.append(Turn("o", str(action), len(tokens), len(tokens) + 1, rewards[k] if rewards else 0.0))
        tokens += [action, 3]
    return Episode(
        env="e", task_id=task, split="train", seed=0, sample=sample, policy="p", policy_digest="d", sampling={},
        status=status or (Status.SUCCESS if outcome else Status.FAILURE), outcome=outcome, terminated=True, truncated=False,
        token_ids=tokens[:-1], turns=turns,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    def make(*episodes):
        with EpisodeWriter(tmp_path / "store") as writer:
            for e in episodes:
                writer.add(e)
        return EpisodeStore(tmp_path / "store")

    return make


def labels(store, tmp_path, **options):
    mc_visits.annotate(store, **options).save(tmp_path / "labels", {"method": "mc_visits", "options": options})
    return read_labels(tmp_path / "labels")


def test_returns_and_means_by_hand():
    assert returns_behind([0.0, 0.0, 1.0], gamma=0.5) == [0.25, 0.5, 1.0]
    assert returns_behind([0.2, 0.4, 1.0], gamma=0.5, discount_from="start") == pytest.approx([0.65, 0.45, 0.25])
    targets, visits = visit_means(torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64), torch.tensor([0, 0, 1]))
    assert targets.tolist() == [0.5, 0.5, 0.5] and visits.tolist() == [2, 2, 1]


def test_visits_of_one_state_and_action_share_the_mean(store, tmp_path):
    # three samples begin with 7; two go on with 8: Q(s0, 7) = 2/3, Q(s1, 8) = 1/2, Q(s1, 9) = 1
    a = [episode(0, [7, 8], 1.0), episode(1, [7, 8], 0.0), episode(2, [7, 9], 1.0)]
    found = labels(store(*a), tmp_path)
    assert [found[e.episode_id][0] for e in a] == [pytest.approx(t) for t in ([2 / 3, 0.5], [2 / 3, 0.5], [2 / 3, 1.0])]
    assert all(weights == [1.0, 1.0] for _, weights in found.values())
    assert read_about(tmp_path / "labels")["figures"]["states_and_actions"] == 3
    assert pq.read_table(tmp_path / "labels/labels.parquet").column_names == ["episode_id", "turn", "target", "keep", "weight"]


def test_rare_pairs_are_left_out_and_each_pair_can_count_once(store, tmp_path):
    a = [episode(0, [7, 8], 1.0), episode(1, [7, 8], 0.0), episode(2, [7, 9], 1.0), episode(3, [7], 1.0, status=Status.ENV_ERROR)]
    found = labels(store(*a), tmp_path, min_visits=2, weight="pair", gamma=0.5)
    targets, weights = found[a[2].episode_id]
    assert targets[0] == pytest.approx((0.5 + 0 + 0.5) / 3) and math.isnan(targets[1]) and weights == pytest.approx([1 / 3, 0.0])
    assert a[3].episode_id not in found


def test_qlass_backs_the_best_up_through_the_tree(store, tmp_path):
    """By hand, and against the Bellman recursion over the tree written out."""
    a = [episode(0, [7, 8, 5], 1.0), episode(1, [7, 8], 0.0), episode(2, [7, 9], 0.0), episode(3, [6], 0.0)]
    qlass.annotate(store(*a), gamma=0.5).save(tmp_path / "labels", {})
    found = read_labels(tmp_path / "labels")
    assert [found[e.episode_id][0] for e in a] == [[0.25, 0.5, 1.0], [0.25, 0.5], [0.25, 0.0], [0.0]]

    def backup(path):
        behind = {tuple(int(t.action) for t in e.turns[: len(path) + 1]) for e in a if len(e.turns) > len(path)}
        behind = {p for p in behind if p[: len(path)] == path}
        ended = [e.outcome for e in a if tuple(int(t.action) for t in e.turns) == path]
        return max(ended + [0.5 * backup(p) for p in behind])

    for e in a:
        path = tuple(int(t.action) for t in e.turns)
        assert found[e.episode_id][0] == [backup(path[: k + 1]) for k in range(len(path))]
    with pytest.raises(UserError, match="qlass: gamma is 2"):
        qlass.annotate(EpisodeStore(tmp_path / "store"), gamma=2)
    with pytest.raises(UserError, match="mc_visits: gamma is '0.9'; wanted a number from 0 to 1"):
        mc_visits.annotate(EpisodeStore(tmp_path / "store"), gamma="0.9")


def test_dense_rewards_are_brought_to_the_unit_interval(store, tmp_path):
    a = [episode(0, [7, 8], 1.0, rewards=[1.0, 2.0]), episode(1, [9], 0.0, rewards=[-1.0])]
    found = labels(store(*a), tmp_path, dense=True)  # returns 3, 2 and −1
    assert found[a[0].episode_id][0] == pytest.approx([1.0, 0.75]) and found[a[1].episode_id][0] == [0.0]


def test_no_outcome_leaks_over_a_split_by_task(store, tmp_path):
    """Two tasks that look the same to the policy, one always won and one always lost: their labels must not meet."""
    a = [episode(n, [7, 8], float(task == "won"), task=task) for n in range(3) for task in ("won", "lost")]
    found = labels(store(*a), tmp_path)
    assert {(e.task_id, tuple(found[e.episode_id][0])) for e in a} == {("won", (1.0, 1.0)), ("lost", (0.0, 0.0))}


def test_arrow_batches_give_what_the_episodes_say(store, tmp_path):
    """Against a plain loop over Episode objects, with shards, a filter and a journal in play."""
    rng = random.Random(0)
    a = [
        episode(
            n,
            rng.choices([4, 5, 6], k=rng.randint(1, 6)),
            float(rng.random() < 0.5),
            rng.choice("ab"),
            rng.choice([None, None, Status.TIMEOUT]),
        )
        for n in range(300)
    ]
    found = labels(store(*a), tmp_path, gamma=0.9)
    groups: dict = {}
    for e in (e for e in a if e.status.has_outcome):
        for k, turn in enumerate(e.turns):
            key = (e.task_id, tuple(e.token_ids[: turn.action_end]))
            groups.setdefault(key, []).append(0.9 ** (len(e.turns) - 1 - k) * e.outcome)
    for e in (e for e in a if e.status.has_outcome):
        wanted = [sum(g) / len(g) for g in (groups[e.task_id, tuple(e.token_ids[: t.action_end])] for t in e.turns)]
        assert found[e.episode_id][0] == pytest.approx(wanted)
    assert len(found) == sum(e.status.has_outcome for e in a)


def test_bad_options_and_torn_sidecars_are_told(store, tmp_path):
    made = store(episode(0, [7], 1.0))
    with pytest.raises(UserError) as raised:
        mc_visits.annotate(made, gamma=2.0, min_visits=0, discount_from="end", weight="x")
    assert len(raised.value.problems) == 4
    with pytest.raises(UserError, match="was visited 2 times"):
        mc_visits.annotate(made, min_visits=2)
    with pytest.raises(UserError, match="holds no finished labels"):
        read_labels(tmp_path)
    labels(made, tmp_path)
    (tmp_path / "labels/labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="make them again"):
        read_labels(tmp_path / "labels")


def test_labels_that_are_made_anew_are_unfinished_until_they_are_whole(store, tmp_path):
    """A write that breaks off does not leave the old description beside whatever rows there are."""
    made = store(episode(0, [7], 1.0))
    labels(made, tmp_path)
    sidecar = mc_visits.annotate(made)
    sidecar.rows = sidecar.rows.drop(["target"])
    with pytest.raises((KeyError, ValueError)):
        sidecar.save(tmp_path / "labels", {"method": "other"})
    with pytest.raises(UserError, match="holds no finished labels"):
        read_labels(tmp_path / "labels")


def test_labels_of_another_store_are_told():
    one, two = episode(0, [7, 8], 1.0), episode(1, [7], 0.0)
    data = PRMData([one, two])
    attach_labels(data, {one.episode_id: ([math.nan, 0.5], [0.0, 1.0])})
    assert data.episodes == [one] and data.left_out["no label"] == 1
    batch = collate(data.episodes, labels=data.labels)
    assert batch.targets_BK[0, 0].isnan() and batch.targets_BK[0, 1] == 0.5 and batch.weights_BK.tolist() == [[0.0, 1.0]]
    with pytest.raises(UserError, match="behind the last turn of 1 episode"):
        attach_labels(PRMData([two]), {two.episode_id: ([0.5, 0.5], [1.0, 1.0])})
    with pytest.raises(UserError, match="none of the 1 episodes has a label"):
        attach_labels(PRMData([two]), {two.episode_id: ([math.nan], [0.0])})


@pytest.mark.host
def test_a_prm_is_trained_on_labels_made_beforehand(tiny, count_store, tmp_path):
    line = ["--data.dataset", count_store, "--label.name", "mc_visits", "--label.options", '{"gamma": 0.9, "weight": "pair"}']
    done = here("label", *line, "--label.output", tmp_path / "labels")
    assert "states and actions" in done.stdout and "seconds" in done.stdout
    common = [
        "--model.model_name_or_path",
        tiny,
        "--data.dataset",
        count_store,
        "--ckpt.output_dir",
        tmp_path / "prm",
        "--data.max_len",
        128,
    ]
    common += ["--train.batch_size", 16, "--train.micro_batch_size", 8, "--adam.lr", "1e-3", "--ds.param_dtype", "fp32", "--loss.beta", 0]
    refused = here("train_prm", *common, "--label.name", "mc_visits")
    assert refused.returncode == 2 and "cli.label --label.name mc_visits" in refused.stderr
    refused = here("train_prm", *common, "--label.name", "td_gae", "--label.sidecar", tmp_path / "labels")
    assert refused.returncode == 2 and "was made by mc_visits" in refused.stderr
    module("train_prm", *common, "--label.sidecar", tmp_path / "labels", "--loss.kind", "soft_bce", "--train.max_epochs", 2)
    from openrlhf_agentprm.prm.record import Record

    assert Record.load(tmp_path / "prm").method == "mc_visits"


def test_labels_of_several_stores_are_read_together_if_made_alike(tmp_path):
    stores = []
    for name, actions in (("one", [7, 8]), ("two", [7, 9])):
        with EpisodeWriter(tmp_path / name) as writer:
            writer.add(episode(0, actions, float(name == "one"), task=name))
        stores.append(EpisodeStore(tmp_path / name))
        mc_visits.annotate(stores[-1]).save(tmp_path / f"{name}-labels", {"method": "mc_visits"})
    folders = f"{tmp_path / 'one-labels'},{tmp_path / 'two-labels'}"
    found = read_labels(folders)
    assert sorted(targets for targets, _ in found.values()) == [[0.0, 0.0], [1.0, 1.0]] and read_about(folders)["method"] == "mc_visits"
    qlass.annotate(stores[1]).save(tmp_path / "two-labels", {"method": "qlass", "scale": "order"})
    with pytest.raises(
        UserError, match="one-labels and of .*two-labels differ in method, scale; labels that are read together are made alike"
    ):
        read_labels(folders)
