"""Labels by a verifier, by agreement, by search and by distance, and preference pairs: by hand on small stores, and split by task."""

import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.annotate import paths
from openrlhf_agentprm.annotate.completions import StoreStates
from openrlhf_agentprm.annotate.judged import autopsv, consensus
from openrlhf_agentprm.annotate.montecarlo import mc_soft, shaped
from openrlhf_agentprm.annotate.omega import omega
from openrlhf_agentprm.annotate.relabel import relabel
from openrlhf_agentprm.annotate.rest import rest_mcts
from openrlhf_agentprm.cli import label
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.data.pairs import Pair, read_pairs
from openrlhf_agentprm.data.sidecar import Sidecar, read_about, read_labels, table_of, targets_outside
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.prm.dataset import split_by_task
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all

NAN = math.nan


def episode(sample, actions, outcome, task="t", status=None):
    """A prompt of two tokens, then one token for each action and one for each observation."""
    tokens, turns = [1, 2], []
    for action in actions:
        turns.append(Turn("o", str(action), len(tokens), len(tokens) + 1))
        tokens += [action, 3]
    return Episode(
        env="e", task_id=task, split="train", seed=0, sample=sample, policy="p", policy_digest="d", sampling={},
        status=status or (Status.SUCCESS if outcome else Status.FAILURE), outcome=outcome, terminated=True, truncated=False,
        token_ids=tokens[:-1], turns=turns,
    )  # fmt: skip


def written(folder, episodes):
    with EpisodeWriter(folder) as writer:
        for e in episodes:
            writer.add(e)
    return EpisodeStore(folder)


def labels(folder, episodes, targets):
    """A sidecar with these targets, NaN: not kept."""
    rows = [(e.episode_id, turn, target) for e, own in zip(episodes, targets, strict=True) for turn, target in enumerate(own)]
    ids, turns, values = zip(*rows, strict=True)
    keep = [not math.isnan(v) for v in values]
    Sidecar(table_of(ids, turns, values, keep, [1.0] * len(ids))).save(folder, {"method": "given"})
    return str(folder)


def targets(sidecar, episodes, tmp_path):
    sidecar.save(tmp_path / "made", {})
    found = read_labels(tmp_path / "made")
    return [found.get(e.episode_id, ([], []))[0] for e in episodes]


def alike(found, wanted):
    assert len(found) == len(wanted)
    for own, theirs in zip(found, wanted, strict=True):
        assert own == pytest.approx(theirs, nan_ok=True)


class Values:
    """Completions that succeed with a state's value, given by its task and actions; what was asked for is kept, call by call."""

    cost = {"sampled_tokens": 7}

    def __init__(self, value):
        self.value, self.calls = value, []

    def __call__(self, states, samples):
        self.calls.append([(s.episode.task_id, tuple(int(t.action) for t in s.prefix.turns)) for s in states])
        return {s.key: self.outcomes(self.value(*asked), samples) for s, asked in zip(states, self.calls[-1], strict=True)}

    def outcomes(self, value, samples):
        return [] if math.isnan(value) else [float(n < round(value * samples)) for n in range(samples)]


# three samples begin with 7 and two of them go on with 8; 6 is never right
TREE = [episode(0, [7, 8, 9], 1.0), episode(1, [7, 8, 5, 5], 0.0), episode(2, [7, 4], 0.0), episode(3, [6], 0.0)]


@pytest.fixture
def tree(tmp_path):
    return written(tmp_path / "store", TREE)


def test_values_along_the_way_by_hand(tree, tmp_path):
    """Along the success m = 3, 2, 1, and 4 at the start; a wrong turn takes the last right one's."""
    third, two = 1 / 3, 2 / 3
    hard = [[third, two, 1.0], [third, two, 1 / 2, 1 / 4], [third, 1 / 9], [0.0]]  # 2/3 − 1/3 · 1/2, 1/2 − 1/2 · 1/2, 1/3 − 2/3 · 1/3
    alike(targets(rest_mcts.annotate(tree), TREE, tmp_path), hard)
    soft = [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0], [0.0]]  # MC = 1/3, 1/2, 1: r = −1/3, 0, 1
    alike(targets(rest_mcts.annotate(tree, quality="soft"), TREE, tmp_path), soft)
    mc = labels(tmp_path / "mc", TREE, [[0.8, 1.0, 1.0], [0.8, NAN, 0.0, 0.0], [0.8, 0.0], [0.5]])
    given = [[0.2, 0.6, 1.0], [0.2, NAN, NAN, NAN], [0.2, 0.0], [0.0]]  # 0.6/3, 0.2 + 0.8/2; 0.2 − 0.8/3 is below 0
    alike(targets(rest_mcts.annotate(tree, mc=mc), TREE, tmp_path), given)


def test_a_task_never_solved_has_no_value_on_the_way(tmp_path):
    a = [*TREE, episode(0, [7], 0.0, task="hopeless"), episode(1, [7], 1.0, task="broken", status=Status.ENV_ERROR)]
    sidecar = rest_mcts.annotate(written(tmp_path / "store", a))
    assert [math.isnan(own[0]) if own else None for own in targets(sidecar, a, tmp_path)] == [False] * 4 + [True, None]
    assert sidecar.figures["never_solved"] == 1 and sidecar.figures["starts"] == 2
    with pytest.raises(UserError, match="was ever solved"):
        rest_mcts.annotate(written(tmp_path / "hopeless", a[4:5]))


def test_labels_are_kept_where_two_judges_agree(tree, tmp_path):
    mc = labels(tmp_path / "mc", TREE, [[0.5, 0.5, 1.0], [0.5, 0.25, 0.0, 0.0], [0.5, 0.0], [NAN]])
    judge = labels(tmp_path / "judge", TREE, [[0.9, 0.4, 1.0], [0.9, 0.6, 0.7, 0.1], [0.2, 0.1], [0.9]])
    sidecar = consensus.annotate(tree, mc=mc, judge=judge)
    kept = [[0.5, NAN, 1.0], [0.5, 0.25, NAN, 0.0], [NAN, 0.0], [NAN]]
    alike(targets(sidecar, TREE, tmp_path), kept)
    assert sidecar.figures["judged_by_both"] == 9 and sidecar.figures["share_kept"] == pytest.approx(6 / 9)
    assert sidecar.figures["share_right_of_kept"] == pytest.approx(4 / 6)
    alike(targets(consensus.annotate(tree, mc=mc, judge=judge, hard=True), TREE, tmp_path)[:2], [[1.0, NAN, 1.0], [1.0, 1.0, NAN, 0.0]])
    whole = targets(consensus.annotate(tree, mc=mc, judge=judge, whole=True, judge_threshold=0.3), TREE, tmp_path)
    alike(whole, [[0.5, 0.5, 1.0], [NAN] * 4, [NAN, NAN], [NAN]])  # the first wrong turn is none for both; then the third and the fourth
    with pytest.raises(UserError, match="agree on no turn"):
        consensus.annotate(tree, mc=mc, judge=judge, threshold=2.0, judge_threshold=-2.0)


def test_a_reference_policy_shapes_a_value(tree, tmp_path):
    mu = Values(lambda task, path: {(): 0.5, (7,): 0.75, (7, 8): 1.0, (7, 8, 5): 0.25}[path])
    q = labels(tmp_path / "q", TREE, [[0.4, 0.6, 1.0], [0.4, 0.6, 0.0, 0.0], [0.4, NAN], [0.0]])
    sidecar = shaped.annotate(tree, complete=mu, q=q, samples=4, alpha=0.5)
    # A^μ: 0.75 − 0.5, 1 − 0.75, 1 − 1; then 0.25 − 1 and 0 − 0.25; 0 − 0.75 without a Q; 0 − 0.5
    wanted = [[0.325, 0.425, 0.5], [0.325, 0.425, -0.375, -0.125], [0.325, NAN], [-0.25]]
    alike(targets(sidecar, TREE, tmp_path), wanted)
    assert sidecar.figures["targets_from_to"] == [-0.375, 0.5] and sidecar.cost == {"sampled_tokens": 7} and len(mu.calls[0]) == 4
    found = targets_outside(read_labels(tmp_path / "made"), 0, 1)
    assert f"episode {TREE[1].episode_id}, turn 2 has the target -0.375; wanted 0 to 1" in found and len(found) == 3
    many = {str(n): ([2.0], [1.0]) for n in range(12)}
    assert len(targets_outside(many, 0, 1)) == 11 and targets_outside(many, 0, 1)[-1] == "… and 2 more"


def test_the_first_fatal_turn_by_hand(tree, tmp_path):
    """Of (7, 8, 5, 5) two turns are alive by the success; (7, 8, 5) is asked. Of (7, 4) the last can only be fatal, and so of (6)."""
    mc = Values(lambda task, path: {(7, 8, 5): 0.0}[path])
    sidecar = omega.annotate(tree, complete=mc, samples=4)
    assert mc.calls == [[("t", (7, 8, 5))]]
    alike(targets(sidecar, TREE, tmp_path), [[1 / 3, 1 / 2, 1.0], [1 / 3, 1 / 2, 0.0, 0.0], [1 / 3, 0.0], [0.0]])
    alive = omega.annotate(tree, complete=Values(lambda task, path: 0.25), samples=4)
    assert targets(alive, TREE, tmp_path)[1] == pytest.approx([1 / 3, 1 / 2, 0.25, 0.0])
    assert (omega.scale({"label": "hard"}), omega.scale({})) == ("judgement", "probability")
    hard = omega.annotate(tree, complete=Values(lambda task, path: 0.25), samples=4, label="hard")
    assert targets(hard, TREE, tmp_path)[:2] == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]]
    undecided = omega.annotate(tree, complete=Values(lambda task, path: NAN), samples=4)
    alike(targets(undecided, TREE, tmp_path)[1:2], [[1 / 3, 1 / 2, NAN, 0.0]])
    assert undecided.figures["undecided"] == 1 and sidecar.figures["undecided"] == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 19)), min_size=1, max_size=5), st.booleans())
def test_the_search_finds_what_completing_every_state_finds(tmp_path_factory, shapes, shared):
    """Tasks that fail at a turn of their own; with `shared` the actions, and so the states, are those of one task."""
    folder = tmp_path_factory.mktemp("search")
    lengths = [(length, min(fatal, length - 1)) for length, fatal in shapes]
    if shared:
        lengths = [(length, min(lengths[0][1], length - 1)) for length, _ in lengths]
    a = [episode(n, [7] * length, 0.0, task="t" if shared else str(n)) for n, (length, _) in enumerate(lengths)]
    fatal_of = {e.task_id: fatal for e, (_, fatal) in zip(a, lengths, strict=True)}
    if shared:
        fatal_of = {"t": min(shapes[0][1], lengths[0][0] - 1)}
    store = written(folder / "store", a)
    mc = Values(lambda task, path: 0.5 * (len(path) <= fatal_of[task]))
    sidecar = omega.annotate(store, complete=mc, samples=2)
    every = mc_soft.annotate(store, complete=Values(mc.value), samples=2)
    for own, linear in zip(targets(sidecar, a, folder), targets(every, a, folder), strict=True):
        fatal = linear.index(0.0)
        assert own[fatal:] == linear[fatal:] and not any(value == 0 for value in own[:fatal])
        assert [v for v in own if v > 0] == [0.5] * sum(v > 0 for v in own)
    asked = [asked for call in mc.calls for asked in call]
    assert len(asked) == len(set(asked)) == sidecar.figures["states_completed"]
    longest = max(len(e.turns) for e in a)
    assert sidecar.figures["most_states_of_an_episode"] <= math.ceil(math.log2(longest)) and len(mc.calls) <= math.ceil(math.log2(longest))


def test_a_budget_goes_to_the_most_promising_failures(tmp_path):
    """Behind 7 three of four succeed, behind 6 none; a short failure behind 7 comes before a long one, then the state was searched already."""
    wins = [episode(n, [7, 9], 1.0) for n in range(3)]
    lost = [episode(3, [7, 5, 5], 0.0), episode(4, [7, 4, 4, 4, 4, 4], 0.0), episode(5, [6, 5, 5], 0.0)]
    store = written(tmp_path / "store", [*wins, *lost])
    asked = []
    for searches in (1, 2, 3):
        mc = Values(lambda task, path: 0.0)
        sidecar = omega.annotate(store, complete=mc, samples=2, searches=searches, alpha=0.1, c_puct=0.0, scale=5)
        assert sidecar.figures["searched"] == searches
        asked.append({path[:2] for call in mc.calls for _, path in call})
    assert asked[0] == {(7, 5)} and asked[1] == {(7, 5), (7, 4)} and (6, 5) in asked[2]
    mc = Values(lambda task, path: 0.0)
    omega.annotate(store, complete=mc, samples=2, searches=2, alpha=0.1, c_puct=10.0, scale=5)
    assert any(path[0] == 6 for call in mc.calls for _, path in call)  # what was searched less counts for more
    unsearched = targets(omega.annotate(store, complete=Values(lambda *_: 0.0), samples=2, searches=1, scale=5, c_puct=0.0), lost, tmp_path)
    alike(unsearched[2:], [[NAN, NAN, 0.0]])  # nothing is made up about what was not searched


def test_pairs_of_actions_at_one_state(tree, tmp_path):
    """At the start 7 is worth 1/3 and 6 nothing; behind 7, 8 is worth 1/2 and 4 nothing; behind (7, 8), 9 is worth 1 and 5 nothing."""
    sidecar = relabel.annotate(tree)
    sidecar.save(tmp_path / "pairs", {"method": "relabel"})
    a, b, c, d = (e.episode_id for e in TREE)
    first = {d: 3, a: 0, b: 1, c: 2}
    found = sorted(read_pairs(tmp_path / "pairs"), key=lambda p: p.chosen_turn)
    assert [(first[p.rejected_episode], p.chosen_turn, p.rejected_turn) for p in found] == [(3, 0, 0), (2, 1, 1), (1, 2, 2)]
    assert [p.margin for p in found] == pytest.approx([1 / 3, 1 / 2, 1.0]) and {p.weight for p in found} == {1.0}
    assert read_about(tmp_path / "pairs")["figures"] == sidecar.figures and sidecar.figures["states_with_pairs"] == 3
    assert len(relabel.annotate(tree, margin=0.4).rows) == 2 and len(relabel.annotate(tree, margin=0.5).rows) == 1
    given = labels(tmp_path / "given", TREE, [[0.1, 0.2, 0.3], [0.3, 0.2, 0.9, 0.0], [0.2, 0.6], [0.9]])
    relabel.annotate(tree, targets=given, weight="state").save(tmp_path / "pairs", {})
    pairs = sorted(read_pairs(tmp_path / "pairs"), key=lambda p: p.chosen_turn)
    assert [(p.chosen_turn, p.margin) for p in pairs] == [(0, pytest.approx(0.7)), (1, pytest.approx(0.4)), (2, pytest.approx(0.6))]
    assert pairs[0].chosen_episode == d and pairs[2] == Pair(b, 2, a, 2, pytest.approx(0.6), 1.0)
    with pytest.raises(UserError, match="differ by more than the margin 2 .3 of 4 states have a choice"):
        relabel.annotate(tree, margin=2)


def test_the_pairs_of_a_state_can_count_once(tmp_path):
    a = [episode(n, [action], outcome) for n, (action, outcome) in enumerate([(4, 1.0), (5, 0.5), (6, 0.0)])]
    relabel.annotate(written(tmp_path / "store", a), weight="state").save(tmp_path / "pairs", {})
    assert [p.weight for p in read_pairs(tmp_path / "pairs")] == pytest.approx([1 / 3] * 3)


TWINS = [episode(n, actions, outcome * (task == "won"), task=task)
         for task in ("won", "lost") for n, (actions, outcome) in enumerate([([7, 8], 1.0), ([7, 6], 0.0), ([5, 8], 1.0)])]  # fmt: skip


def test_no_offline_label_leaks_over_a_split_by_task(tmp_path):
    """Two tasks whose episodes look the same to the policy, token by token: what is known of one must not reach the labels of the other."""
    store, alone = written(tmp_path / "store", TWINS), written(tmp_path / "alone", [e for e in TWINS if e.task_id == "lost"])
    lost = [e for e in TWINS if e.task_id == "lost"]
    q = labels(tmp_path / "q", TWINS, [[0.5, e.outcome] for e in TWINS])
    made = {
        "rest_mcts": lambda s: rest_mcts.annotate(s),
        "omega": lambda s: omega.annotate(s, complete=Values(lambda task, path: float(task == "won")), samples=2),
        "shaped": lambda s: shaped.annotate(s, complete=Values(lambda task, path: float(task == "won")), q=q, samples=2),
        "consensus": lambda s: consensus.annotate(s, mc=q, judge=q),
    }
    for name, annotate in made.items():
        found = targets(annotate(store), lost, tmp_path)
        if name == "rest_mcts":  # the other task's success would give it a distance
            assert all(math.isnan(t) for own in found for t in own)
        else:
            alike(found, targets(annotate(alone), lost, tmp_path))
    relabel.annotate(store).save(tmp_path / "pairs", {})
    pairs, task_of = read_pairs(tmp_path / "pairs"), {e.episode_id: e.task_id for e in TWINS}
    assert pairs and all(task_of[p.chosen_episode] == task_of[p.rejected_episode] == "won" for p in pairs)
    for share in (0.2, 0.5, 0.8):  # so a split by task never parts a pair, whichever way it falls
        train, held_out = ({e.episode_id for e in side} for side in split_by_task(TWINS, share))
        assert all({p.chosen_episode, p.rejected_episode} <= train or {p.chosen_episode, p.rejected_episode} <= held_out for p in pairs)


@pytest.fixture(scope="module")
def verifier(tiny, tmp_path_factory):
    """A PRM of the counting game's tokens with random scores, far from 0."""
    model = start_from(str(tiny), dtype="fp32", seed=3)
    with torch.no_grad():
        model.score.weight.mul_(40)
    folder = tmp_path_factory.mktemp("verifier") / "prm"
    save_prm(model, load_tokenizer(str(tiny)), folder, Record(method="outcome_all", values="previous_q"))
    return str(folder)


def test_a_real_verifiers_drops_and_its_judgement(verifier, count_store, tmp_path, monkeypatch):
    monkeypatch.setattr("openrlhf_agentprm.annotate.scored._AT_ONCE", 40)  # of 96 episodes
    store = EpisodeStore(count_store)
    a = [e for e in store.episodes() if e.status.has_outcome]
    scores = score_all(ScalarPRM.load(verifier), [e.token_ids for e in a], [spans_of(e) for e in a])
    sidecar = autopsv.annotate(store, prm=verifier, threshold=-0.2)
    for own, (q_K, v_K) in zip(targets(sidecar, a, tmp_path), scores, strict=True):
        before = [float(v_K[0]), *q_K[:-1].tolist()]
        wanted = [float((q - v) / v > -0.2 if v > 0 else q > v) for q, v in zip(q_K.tolist(), before, strict=True)]
        assert own == wanted
    assert 0 < sidecar.figures["mean_target"] < 1 and sidecar.cost["scored_tokens"] == sum(len(e.token_ids) for e in a)
    first = targets(autopsv.annotate(store, prm=verifier, threshold=-0.2, from_first_error=True), a, tmp_path)
    assert all(own == sorted(own, reverse=True) for own in first)
    outcome = labels(tmp_path / "mc", a, [[e.outcome] * len(e.turns) for e in a])
    kept = targets(consensus.annotate(store, mc=outcome, prm=verifier, judge_threshold=0.0), a, tmp_path)
    for e, own, (q_K, _) in zip(a, kept, scores, strict=True):
        assert own == pytest.approx([e.outcome if (q > 0) == (e.outcome > 0) else NAN for q in q_K.tolist()], nan_ok=True)


def test_a_verifier_without_a_value_leaves_the_first_turn_out(verifier, tiny, count_store, tmp_path):
    save_prm(
        ScalarPRM.load(verifier).model, load_tokenizer(str(tiny)), tmp_path / "orm", Record(method="outcome_last", value_trained=False)
    )
    a = list(EpisodeStore(count_store).episodes())
    found = targets(autopsv.annotate(EpisodeStore(count_store), prm=str(tmp_path / "orm")), a, tmp_path)
    assert all(math.isnan(own[0]) and not any(map(math.isnan, own[1:])) for own in found if own)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/ensemble.json").write_text(json.dumps({"members": ["../orm", verifier]}))
    found = targets(autopsv.annotate(EpisodeStore(count_store), prm=str(tmp_path / "two")), a, tmp_path)
    assert all(math.isnan(own[0]) for own in found if own), "one member of which has no V(s_0)"


def test_the_command_labels_and_refuses(verifier, count_store, tmp_path, capsys):
    line = ["--data.dataset", str(count_store), "--label.output", str(tmp_path / "out"), "--label.name"]
    assert label.main([*line, "autopsv", "--label.options", f'{{"prm": "{verifier}"}}']) == 0
    about = read_about(tmp_path / "out")
    assert about["scale"] == "judgement" and consensus.scale({"mc": str(tmp_path / "out")}) == "judgement"
    mc = labels(tmp_path / "of_outcomes", list(EpisodeStore(count_store).episodes())[:1], [[1.0]])
    assert consensus.scale({"mc": mc}) == "probability" and consensus.scale({"mc": mc, "hard": True}) == "judgement"
    assert about["method"] == "autopsv" and about["kind"] == "targets" and {"seconds", "scored_tokens"} <= about["cost"].keys()
    assert "mean target" in capsys.readouterr().out and read_labels(tmp_path / "out")
    unnamed = tmp_path / "unnamed"
    unnamed.mkdir()
    (unnamed / "labels.json").write_text("[]")
    refused = {
        "autopsv: prm is not given": ["autopsv"],
        "autopsv: threshold is 0.5; wanted a number from -1 to 0": ["autopsv", '{"prm": "x", "threshold": 0.5}'],
        "autopsv: from_first_error is 1; allowed": ["autopsv", '{"prm": "x", "from_first_error": 1}'],
        "consensus: mc is not given": ["consensus"],
        "consensus: give one second judge": ["consensus", '{"mc": "x"}'],
        "holds no finished labels": ["consensus", f'{{"mc": "{tmp_path}", "judge": "x"}}'],
        "rest_mcts: quality is 'best'; allowed: hard, soft": ["rest_mcts", '{"quality": "best"}'],
        "relabel: margin is -1; wanted": ["relabel", '{"margin": -1}'],
        "relabel: gamma is 'one'; wanted": ["relabel", '{"gamma": "one"}'],
        "relabel: prm is 7; wanted a folder": ["relabel", '{"prm": 7}'],
        "mc_visits: dense is 'yes'; allowed: true, false": ["mc_visits", '{"dense": "yes"}'],
        "qlass: dense is 1; allowed": ["qlass", '{"dense": 1}'],
        "best_episodes: min_outcome is 'high'; wanted a number": ["best_episodes", '{"min_outcome": "high"}'],
        "best_episodes: prm is ['x']; wanted a PRM's checkpoint": ["best_episodes", '{"prm": ["x"]}'],
        "good_turns: min_outcome is True; wanted a number": ["good_turns", '{"prm": "x", "min_outcome": true}'],
        "ranked_pairs: prm is False; wanted": ["ranked_pairs", '{"prm": false}'],
        "is the folder that --label.options gives as 'mc'": ["rest_mcts", f'{{"mc": "{tmp_path / "out"}"}}'],
        "labels.json is no JSON object": ["consensus", f'{{"mc": "{unnamed}", "judge": "x"}}'],
        "no model could be loaded": ["autopsv", '{"prm": "no/such"}'],
    }
    for told, (name, *options) in refused.items():
        with pytest.raises(UserError) as raised:
            label.main([*line, name, *(["--label.options", *options] if options else [])])
        assert any(told in problem for problem in raised.value.problems), raised.value.problems
    other = labels(tmp_path / "other", TREE, [[0.5] * len(e.turns) for e in TREE])
    with pytest.raises(UserError, match="has a label for no episode of"):
        relabel.annotate(EpisodeStore(count_store), targets=other)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (omega, {"samples": True}), (omega, {"label": "both"}), (omega, {"alpha": 2}), (omega, {"searches": -1}), (omega, {"scale": 0}),
        (shaped, {"alpha": -0.1}), (shaped, {"q": None}),
    ],
)  # fmt: skip
def test_bad_options_of_completions_are_told(tree, method, options):
    with pytest.raises(UserError, match=f"{next(iter(options))} is"):
        method.annotate(tree, complete=Values(lambda *_: 0.0), **({"q": "somewhere"} if method is shaped else {}) | options)


def test_states_of_a_twin_task_are_others(tmp_path):
    found = StoreStates.of(written(tmp_path / "store", TWINS)).paths
    keys = [{s.key for e, path in found if e.task_id == task for s in path} for task in ("won", "lost")]
    assert keys[0] and not keys[0] & keys[1]


def test_a_progress_bar_knows_how_much_there_is_and_shows_only_where_it_takes_long(tree, monkeypatch, capsys):
    bar = paths.progress_over(tree)
    assert bar.total == len(TREE) and bar.delay > 0
    bar.close()
    rest_mcts.annotate(tree)
    assert "episodes" not in capsys.readouterr().err
    monkeypatch.setattr(paths, "_DELAY", 0.0)
    rest_mcts.annotate(tree)
    assert "episodes: 100%" in capsys.readouterr().err
