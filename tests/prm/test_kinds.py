"""Kinds of reward models that train: every objective is the same however its batch is cut, reads scores as it trained them, and refuses what
it does not read."""

import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.cli.train_prm import build_parser, fill_in, split
from openrlhf_agentprm.cli.train_prm_checks import problems_of_flags
from openrlhf_agentprm.core.arguments import parse_nested
from openrlhf_agentprm.core.batches import ProcessScores
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Turn
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.data.pairs import Pair, PairsSidecar
from openrlhf_agentprm.data.sidecar import Sidecar, table_of
from openrlhf_agentprm.host.ppo_checks import _critic_problems, _value_problems
from openrlhf_agentprm.prm.dataset import collate
from openrlhf_agentprm.prm.kinds import check_reward_model, load_kind, trainable
from openrlhf_agentprm.prm.kinds.ensemble import EnsemblePRM
from openrlhf_agentprm.prm.kinds.heads import poisson
from openrlhf_agentprm.prm.kinds.hierarchical import compressed, with_spans
from openrlhf_agentprm.prm.kinds.spa import SpaPRM
from openrlhf_agentprm.prm.kinds.trajectory import outcome_pairs
from openrlhf_agentprm.prm.model import Record, load_prm, save_prm, start_from
from openrlhf_agentprm.prm.scoring import load_reward_model, make_batch, score_all

SPANS = [[(4, 6), (9, 10), (14, 17)], [(3, 5)], [(2, 4), (4, 7)], [(3, 6), (8, 9), (11, 12), (13, 15)], [(5, 7), (9, 12)], [(2, 3), (6, 8)]]


def episode(number, spans=None, outcome=None, task=None):
    g = torch.Generator().manual_seed(number)
    spans = SPANS[number] if spans is None else spans
    tokens = torch.randint(5, 60, (spans[-1][1],), generator=g).tolist()
    won = number % 2 == 0 if outcome is None else outcome
    return Episode(
        env="e", task_id=task or f"task-{number // 3}", split="train", seed=0, sample=number, policy="p", policy_digest="d", sampling={},
        status="success" if won else "failure", outcome=float(won), terminated=True, truncated=False, token_ids=tokens,
        turns=[Turn(f"o{k}", f"a{k}", start, end) for k, (start, end) in enumerate(spans)], logprobs=[-0.5] * len(tokens), episode_id=f"e{number}",
    )  # fmt: skip


EPISODES = [episode(k) for k in range(6)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The models are so small that threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sidecars of targets and of pairs."""
    folder = tmp_path_factory.mktemp("made")
    rows = [
        (e.episode_id, k, 0.3 * k + (i % 3) / 5, k != 1 or i != 3, 1.0 + k) for i, e in enumerate(EPISODES) for k in range(len(e.turns))
    ]
    Sidecar(table_of(*zip(*rows, strict=True)), {}, {}).save(folder / "targets", {"method": "mc_soft"})
    pairs = [
        Pair("e0", 1, "e2", 0, 0.5, 1.0),
        Pair("e2", 1, "e0", 1, 0.2, 2.0),
        Pair("e0", 2, "e1", 0, 0.9, 0.5),
        Pair("e5", 0, "e3", 3, 0.4, 1.0),
    ]
    PairsSidecar.of(pairs, {}, {}).save(folder / "pairs", {"method": "relabel"})
    return folder


def flags_of(policy, *more):
    line = ["--model.model_name_or_path", policy, "--data.dataset", "d", "--train.batch_size", 2, "--train.micro_batch_size", 2]
    args = parse_nested(build_parser(), [str(word) for word in (*line, *more)])
    fill_in(args)
    return args


def objective_of(args):
    from openrlhf_agentprm.data.sidecar import read_labels

    labels = read_labels(args.label.sidecar) if args.label.sidecar and args.loss.kind != "pairs" else None
    return trainable(args.prm.name).objective(EPISODES, args, labels)


def model_of(args):
    """A model to train whose every score matters: heads with large weights."""
    kind = trainable(args.prm.name)
    further = kind.start_options(args) if hasattr(kind, "start_options") else {}
    model = kind.start(args.model.model_name_or_path, dtype="fp32", seed=1, **further)
    with torch.no_grad():
        model.score.weight.mul_(30)
    kind.on_call(model)
    return model


def loss_of(objective, model, cuts):
    """Loss and gradient of a step on all items, cut into micro-batches."""
    parts = [objective.batch(items) for items in cuts]
    counts = torch.stack([objective.counts(part) for part in parts]).sum(0)
    model.zero_grad()
    total = 0.0
    for part in parts:
        loss, figures = objective.loss(model, part, counts)
        assert all(math.isfinite(float(f)) for f in figures.values())
        loss.backward()
        total += float(loss.detach())
    return total, model.score.weight.grad.clone()


INVERSE = ["--prm.name", "inverse", "--data.expert_dataset", "d"]
PATIENCE = ["--eval.share", "0.2", "--eval.patience", "2"]
WAYS = {
    "mse": [],
    "soft_bce": ["--loss.kind", "soft_bce", "--label.name", "outcome_all", "--loss.reduce", "episodes"],
    "pqm": ["--loss.kind", "pqm", "--label.sidecar", "<targets>"],
    "pqm of outcomes": ["--loss.kind", "pqm", "--label.name", "outcome_all"],
    "pairs": ["--loss.kind", "pairs", "--label.sidecar", "<pairs>", "--loss.margin_coef", "0.5"],
    "two_head": ["--prm.name", "two_head"],
    "two_head at states": ["--prm.name", "two_head", "--label.name", "td_qv", "--loss.beta", "0.5"],
    "two_head by episodes": ["--prm.name", "two_head", "--loss.reduce", "episodes", "--label.sidecar", "<targets>"],
    "spa": ["--prm.name", "spa"],
    "trajectory": ["--prm.name", "trajectory"],
    "hierarchical": ["--prm.name", "hierarchical", "--prm.compressed_copies", "2"],
    "hierarchical of a sidecar": ["--prm.name", "hierarchical", "--label.sidecar", "<targets>"],
    "heads": ["--prm.name", "heads", "--prm.heads", "3"],
    "heads by episodes": [
        "--prm.name",
        "heads",
        "--loss.kind",
        "soft_bce",
        "--label.name",
        "outcome_all",
        "--loss.reduce",
        "episodes",
        "--prm.bootstrap_disable",
    ],
}


def at(made, words):
    """`<targets>` and `<pairs>` as the folders that hold them."""
    return [made / word[1:-1] if word in ("<targets>", "<pairs>") else word for word in words]


def way(name, policy, made):
    return flags_of(policy, *at(made, WAYS[name]))


@pytest.mark.parametrize("name", WAYS)
def test_a_step_is_the_same_however_its_batch_is_cut(name, bpe_policy, made):
    args = way(name, bpe_policy, made)
    assert problems_of_flags(args) == []
    objective, model = objective_of(args), model_of(args)
    items = list(range(len(objective.lengths)))
    whole, gradient = loss_of(objective, model, [items])
    assert whole > 0 and gradient.abs().sum() > 0
    halves, of_halves = loss_of(objective, model, [items[::2], items[1::2]])
    single, of_single = loss_of(objective, model, [[i] for i in items])
    assert halves == pytest.approx(whole, rel=1e-4) and single == pytest.approx(whole, rel=1e-4)
    for other in (of_halves, of_single):
        torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", WAYS)
def test_a_finished_model_scores_as_it_did_in_training(name, bpe_policy, made, tmp_path):
    args = way(name, bpe_policy, made)
    objective, model = objective_of(args), model_of(args)
    part = collate(EPISODES)
    with torch.no_grad():
        q_BK, v_BK = objective.scores(model, part)
    del model.__dict__["forward"]
    kind = trainable(args.prm.name)
    options = {"combine": args.prm.combine, "kappa": args.prm.kappa}
    record = Record(kind=args.prm.name, method="m", options=options, **kind.recorded(args))
    save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path, record)
    assert load_kind("auto", str(tmp_path)) is kind
    prm = load_reward_model("auto", str(tmp_path))
    found = score_all(prm, [e.token_ids for e in EPISODES], [spans_of(e) for e in EPISODES])
    for row, (q_K, v_K) in enumerate(found):
        torch.testing.assert_close(q_K, q_BK[row, : len(q_K)], atol=1e-5, rtol=1e-4)
        if args.prm.name in ("two_head", "spa"):
            torch.testing.assert_close(v_K, v_BK[row, : len(v_K)], atol=1e-5, rtol=1e-4)
        elif record.values != "state" and args.prm.name != "heads":
            assert torch.equal(v_K[1:], q_K[:-1]) and bool(v_K[0] == 0) == (record.values == "previous_q_from_0")
    ids = torch.tensor([EPISODES[0].token_ids])
    if args.prm.name not in ("two_head", "heads"):
        plain = load_prm(str(tmp_path))
        with torch.no_grad():
            logits = plain(ids).logits[0, [end - 1 for _, end in SPANS[0]], 0]
        expected = logits.cumsum(0) if args.prm.name == "spa" else logits.sigmoid() if record.output == "sigmoid" else logits
        torch.testing.assert_close(expected, found[0][0], atol=1e-5, rtol=1e-4)
    else:
        with pytest.raises(UserError, match="scores . labels a token; a scalar PRM has 1"):
            load_reward_model("scalar", str(tmp_path))


def test_scales_tell_what_a_score_is(bpe_policy, made):
    scales = {
        name: (args := way(name, bpe_policy, made), trainable(args.prm.name).recorded(args).get("scale", "probability"))[1] for name in WAYS
    }
    assert {n for n, s in scales.items() if s == "order"} == {"pqm", "pqm of outcomes", "pairs", "trajectory"}
    assert {n for n, s in scales.items() if s == "share"} == {"spa"}
    assert all(objective_of(way(name, bpe_policy, made)).scale == scale for name, scale in scales.items())


@pytest.mark.parametrize("kind", ["scalar", "two_head", "heads", "hierarchical"])
def test_labels_that_do_not_estimate_the_outcome_say_so_in_the_record(kind, bpe_policy, made, tmp_path):
    about = json.loads((made / "targets/labels.json").read_text())
    folder = shutil.copytree(made / "targets", tmp_path / "rpe")
    (folder / "labels.json").write_text(json.dumps(about | {"method": "rpe", "scale": "judgement"}))
    args = flags_of(bpe_policy, "--prm.name", kind, "--label.sidecar", folder)
    assert problems_of_flags(args) == [] and objective_of(args).scale == "judgement"
    record = Record(kind=kind, **trainable(kind).recorded(args))
    advantage = SimpleNamespace(estimator="turn_gae", values="prm", process_reward="none")
    told = _value_problems("prm", record, SimpleNamespace(algo=SimpleNamespace(advantage=advantage)), True)
    assert record.scale == "judgement" and "does not estimate the outcome; take --algo.advantage.values critic" in told[0]
    (folder / "labels.json").write_text(json.dumps(about | {"scale": "dB"}))
    assert "says the scale 'dB'" in problems_of_flags(args)[-1]


class Fixed:
    """A model that gives known scores: token t at its place, times the head's number + 1."""

    def __init__(self, heads=None):
        self.heads = heads

    def __call__(self, ids, attention, q, v):
        read = [ids.gather(1, at).float() / 10 for at in (q, v)]
        return tuple(x if self.heads is None else torch.stack([x * (h + 1) for h in range(self.heads)], -1) for x in read)


def test_pairs_by_hand_with_both_sides_in_one_pass(bpe_policy, made):
    objective = objective_of(way("pairs", bpe_policy, made))
    part = objective.batch([0, 1, 2])
    assert part.input_ids_BT.shape[0] == 3, "each episode once, though two pairs name e0 and e2"
    assert part.positions.mask_BK.sum(1).tolist() == [2, 2, 1] and objective.lengths[0] == 10 + 4
    assert objective.widths[0] == 2 * 10, "with the shorter row padded"
    end = lambda e, t: EPISODES[e].token_ids[SPANS[e][t][1] - 1] / 10  # noqa: E731
    terms = [(end(0, 1) - end(2, 0) - 0.25, 1.0), (end(2, 1) - end(0, 1) - 0.1, 2.0), (end(0, 2) - end(1, 0) - 0.45, 0.5)]
    loss, figures = objective.loss(Fixed(), part, objective.counts(part))
    assert float(loss) == pytest.approx(sum(w * math.log1p(math.exp(-x)) for x, w in terms) / 3.5, rel=1e-4)
    right = [end(0, 1) > end(2, 0), end(2, 1) > end(0, 1), end(0, 2) > end(1, 0)]
    assert float(figures["pair_accuracy"]) == pytest.approx(sum(w * ok for (_, w), ok in zip(terms, right, strict=True)) / 3.5)


def test_pairs_of_other_episodes_and_turns_that_are_not_there(bpe_policy, made, tmp_path, caplog):
    args = way("pairs", bpe_policy, made)
    kind = trainable("scalar")
    assert len(kind.objective(EPISODES[:3], args, None).pairs) == 3 and "1 of 4 pairs name episodes" in caplog.text
    with pytest.raises(UserError, match="none of the 4 pairs is between two of the 1 episodes"):
        kind.objective(EPISODES[4:5], args, None)
    PairsSidecar.of([Pair("e0", 1, "e1", 7, 0.5, 1.0)], {}, {}).save(tmp_path, {"method": "relabel"})
    with pytest.raises(UserError, match="rejected_turn=7.*no such turn"):
        kind.objective(EPISODES, flags_of(bpe_policy, "--loss.kind", "pairs", "--label.sidecar", tmp_path), None)


def test_whole_episodes_are_compared_within_their_task():
    won, lost, graded = episode(0, task="a"), episode(1, task="a"), replace(episode(2, task="a"), outcome=0.5)
    other = [episode(4, task="b"), replace(episode(5, task="b"), outcome=1.0)]
    pairs = outcome_pairs([won, lost, graded, *other], per_task=0, seed=0)
    assert {(p.chosen_episode, p.chosen_turn, p.rejected_episode, p.rejected_turn, p.margin) for p in pairs} == {
        ("e0", 2, "e1", 0, 1.0), ("e0", 2, "e2", 1, 0.5), ("e2", 1, "e1", 0, 0.5)
    }  # fmt: skip
    many = [replace(episode(k % 6, task=f"t{k % 2}"), episode_id=f"n{k}", outcome=float(k % 4 < 2)) for k in range(40)]
    drawn = outcome_pairs(many, per_task=5, seed=1)
    tasks = Counter(int(p.chosen_episode[1:]) % 2 for p in drawn)
    assert tasks == {0: 5, 1: 5} and len(set(drawn)) == 10
    assert drawn == outcome_pairs(many[::-1][::-1], per_task=5, seed=1) != outcome_pairs(many, per_task=5, seed=2)


def test_two_heads_by_hand(bpe_policy):
    """Labels are the outcome, 1, at every turn: Â is 1 − V(s_0) first, then 0; head 0 is token / 10, head 1 twice that."""
    args = flags_of(bpe_policy, "--prm.name", "two_head", "--label.name", "outcome_all", "--loss.beta", 0.5, "--loss.value_coef", 0.25)
    objective = objective_of(args)
    part = objective.batch([0])
    loss, _ = objective.loss(Fixed(2), part, objective.counts(part))
    tokens = EPISODES[0].token_ids
    q = [tokens[end - 1] / 10 for _, end in SPANS[0]]
    v = [tokens[start - 1] / 10 for start, _ in SPANS[0]]
    progress = [1 - v[0], 0.0, 0.0]
    expected = sum((x - 1) ** 2 for x in q) / 6 + 0.25 * sum((x - 1) ** 2 for x in v) / 6
    expected += 0.5 * sum((2 * x - a) ** 2 for x, a in zip(q, progress, strict=True)) / 6
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    args.loss.value_coef = 0.0
    assert objective.counts(part).tolist() == [3.0, 2.0, 1.0, 2.0, 1.0, 1.0], "without V(s_0) the first turn has no progress to learn"


def test_contributions_add_up_to_q(bpe_policy):
    class Read(SpaPRM):
        def read(self, batch):
            return torch.tensor([[0.2, 0.5, -0.1], [0.4, math.nan, math.nan]]), None

    scores = Read(None, Record()).score(make_batch([[1] * 9, [1] * 9], [[(1, 2), (3, 4), (5, 6)], [(1, 2)]]))
    torch.testing.assert_close(scores.q_BK, torch.tensor([[0.2, 0.7, 0.6], [0.4, 0.0, 0.0]]))
    torch.testing.assert_close(scores.v_BK, torch.tensor([[0.0, 0.2, 0.7], [0.0, 0.0, 0.0]]))


def test_a_span_is_two_actions_without_what_stands_between():
    whole = episode(3)
    copy = compressed(whole, 2)  # turns 1 and 2: [8, 9) and [11, 12)
    assert spans_of(copy) == [(3, 6), (8, 10), (11, 13)]
    assert copy.token_ids == whole.token_ids[:9] + whole.token_ids[11:] and len(copy.logprobs) == len(copy.token_ids)
    assert [t.action for t in copy.turns] == ["a0", "a1\na2", "a3"] and [t.observation for t in copy.turns] == ["o0", "o1", "o3"]
    assert spans_of(whole) == SPANS[3], "the episode itself stays"


def test_spans_take_the_label_of_their_second_turn():
    labels = {e.episode_id: ([0.1 * k for k in range(len(e.turns))], [1.0] * len(e.turns)) for e in EPISODES}
    episodes, of_all = with_spans(EPISODES, labels, copies=9, seed=0)
    assert len(episodes) == 6 + sum(len(e.turns) - 1 for e in EPISODES), "every span once, and none of a single turn"
    assert of_all["e3/2"][0] == pytest.approx([0.0, 0.2, 0.3]) and of_all["e3/1"][0] == pytest.approx([0.1, 0.2, 0.3])
    one, _ = with_spans(EPISODES, None, copies=1, seed=0)
    assert len(one) == 11 and one != with_spans(EPISODES, None, copies=1, seed=1)[0]
    only_first = {e.episode_id: ([0.5], [1.0]) for e in EPISODES}
    assert "e2/1" not in with_spans(EPISODES, only_first, copies=1, seed=0)[1], "a copy without a label is none"


def test_bootstrap_samples_are_poisson_and_differ_by_head():
    draws = torch.tensor([[poisson(f"0 e{n} {m}") for m in range(2)] for n in range(4000)]).double()
    assert draws.mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.05) and draws.var(0).tolist() == pytest.approx([1.0, 1.0], abs=0.1)
    assert abs(float(torch.corrcoef(draws.T)[0, 1])) < 0.05
    assert float((draws == 0).double().mean()) == pytest.approx(math.exp(-1), abs=0.02)


def test_each_head_learns_from_its_own_sample(bpe_policy):
    """An episode of which a head's sample holds none gives that head no gradient; without bootstrap every head is a scalar PRM."""
    args = flags_of(bpe_policy, "--prm.name", "heads", "--prm.heads", "4", "--label.name", "outcome_all")
    objective, model = objective_of(args), model_of(args)
    number = next(n for n in range(6) if 0 < sum(poisson(f"{args.train.seed} e{n} {m}") > 0 for m in range(4)) < 4)
    _, gradient = loss_of(objective, model, [[number]])
    held = [poisson(f"{args.train.seed} e{number} {m}") > 0 for m in range(4)]
    assert (gradient.abs().sum(1) > 0).tolist() == held
    args.prm.bootstrap_disable = True
    total, _ = loss_of(objective, model, [[0, 1, 2, 3, 4, 5]])
    alone = trainable("scalar").objective(EPISODES, args, None)
    one_by_one = []
    for m in range(4):
        part = alone.batch(range(6))
        loss, _ = alone.loss(lambda *a, m=m: [x[..., m] for x in model(*a)], part, alone.counts(part))
        one_by_one.append(float(loss.detach()))
    assert total == pytest.approx(sum(one_by_one) / 4, rel=1e-5)


def test_an_ensemble_takes_members_of_any_kind_that_mean_the_same(bpe_policy, made, tmp_path):
    for name in ("two_head", "hierarchical", "trajectory"):
        args = way(name, bpe_policy, made)
        model, kind = model_of(args), trainable(args.prm.name)
        del model.__dict__["forward"]
        save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path / name, Record(kind=args.prm.name, method="m", **kind.recorded(args)))
    (tmp_path / "both").mkdir()
    (tmp_path / "both/ensemble.json").write_text(json.dumps({"members": ["../two_head", "../hierarchical"]}))
    batch = make_batch([EPISODES[0].token_ids], [SPANS[0]])
    each = [load_reward_model("auto", str(tmp_path / n)).score(batch) for n in ("two_head", "hierarchical")]
    scores = load_reward_model("auto", str(tmp_path / "both")).score(batch)
    assert isinstance(scores, ProcessScores)
    torch.testing.assert_close(scores.q_BK, (each[0].q_BK + each[1].q_BK) / 2)
    torch.testing.assert_close(scores.v_BK, (each[0].v_BK + each[1].v_BK) / 2)
    (tmp_path / "both/ensemble.json").write_text(json.dumps({"members": ["../two_head", "../trajectory"]}))
    with pytest.raises(UserError, match="unlike outputs or values.*order"):
        EnsemblePRM.load(str(tmp_path / "both"))
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested/ensemble.json").write_text(json.dumps({"members": ["../both", "../two_head"]}))
    with pytest.raises(UserError, match="are ensembles themselves"):
        EnsemblePRM.load(str(tmp_path / "nested"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--prm.name", "spa", "--label.name", "td_gae"], "--label.name is given, but --prm.name spa does not read it"),
        (["--prm.name", "spa", "--loss.kind", "soft_bce"], "--loss.kind is given, but --prm.name spa does not read it"),
        (["--prm.name", "trajectory", "--label.sidecar", "<targets>"], "--label.sidecar is given, but --prm.name trajectory does not read it"),
        (["--prm.name", "trajectory", "--loss.pairs_per_task", "-1"], "--loss.pairs_per_task is -1"),
        (["--prm.name", "two_head", "--loss.kind", "soft_bce"], "--loss.kind is given, but --prm.name two_head does not read it"),
        (["--prm.name", "two_head", "--label.name", "outcome_last"], "trains no progress"),
        (["--prm.name", "two_head", "--loss.beta", "0"], "--loss.beta 0 trains no progress"),
        (["--prm.name", "heads", "--prm.heads", "1"], "--prm.heads is 1; wanted 2 or more"),
        (["--prm.name", "heads", "--loss.kind", "pqm"], "--loss.kind pqm is of --prm.name scalar"),
        (["--prm.name", "heads", "--loss.reduce", "episodes"], "divides an episode's weight out again, and with it the bootstrap samples"),
        (["--prm.name", "hierarchical", "--prm.compressed_copies", "0"], "--prm.compressed_copies is 0"),
        (["--prm.heads", "3"], "--prm.heads is given, but --prm.name scalar with --loss.kind mse does not read it"),
        (["--loss.zeta", "2"], "--loss.zeta is given, but --prm.name scalar with --loss.kind mse does not read it"),
        (["--loss.kind", "pqm"], "--loss.kind pqm wants turns that are right .* give --label.sidecar"),
        (["--loss.kind", "pqm", "--label.sidecar", "<targets>", "--loss.beta", "2"], "--loss.beta is given, but .* pqm does not read it"),
        (["--label.name", "outcome_all", "--label.gamma", "0.9"], "--label.gamma is given, .* not read it .labels td_gae and td_qv do"),
        (["--label.sidecar", "<targets>", "--label.lambd", "0.5"], "--label.lambd is given, but"),
        (["--label.sidecar", "<targets>", "--label.bootstrap_enable"], "--label.bootstrap_enable is given, but"),
        (["--label.name", "outcome_last", "--label.dense_rewards_enable"], "--label.dense_rewards_enable is given, but"),
        (["--prm.name", "heads", "--prm.kappa", "2"], "--prm.kappa is given, .* .heads with --prm.combine lcb does"),
        ([*INVERSE, "--loss.target_every", "3"], "--loss.target_every is given, .* --loss.inverse_next target does"),
        (["--eval.metric", "auc_last"], "--eval.metric auc_last is what --eval.patience goes by, which is not given"),
        ([*INVERSE, *PATIENCE], "brier_last, which these scores do not have .only which of two scores is higher.*take --eval.metric auc_last"),
        (["--prm.name", "trajectory", *PATIENCE], "brier_last, which these scores do not have"),
        (["--prm.name", "implicit", "--loss.implicit_output", "linear", *PATIENCE], "brier_last, which these scores do not have"),
        (["--loss.kind", "pairs"], "--loss.kind pairs wants preference pairs"),
        (["--loss.kind", "pairs", "--label.sidecar", "<targets>"], "holds targets, but --loss.kind pairs wants pairs"),
        (["--label.sidecar", "<pairs>"], "holds pairs, but --loss.kind mse wants targets of turns"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_flags_that_are_not_read_or_make_no_sense_are_refused(flags, told, bpe_policy, made):
    problems = problems_of_flags(flags_of(bpe_policy, *at(made, flags)))
    assert len(problems) == 1 and re.search(told, problems[0]), problems


def test_training_goes_on_from_the_same_head_only(bpe_policy, tmp_path):
    """Two labels of ours are two heads, and no label 0 and 1 whose difference is a score."""
    for name, kind, labels in (("scalar", "scalar", 1), ("two_head", "two_head", 2), ("heads", "heads", 2), ("spa", "spa", 1)):
        model = start_from(str(bpe_policy), dtype="fp32", labels=labels)
        save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path / name, Record(kind=kind, method="td_gae"))
    Record(kind="implicit", method="outcome", output="sigmoid").save(shutil.copytree(bpe_policy, tmp_path / "implicit"))
    with pytest.raises(UserError, match="scores 2 labels a token; a scalar PRM has 1$"):
        start_from(str(tmp_path / "two_head"), dtype="fp32")
    refused = {
        ("two_head", "scalar"): "is of kind two_head; --prm.name scalar goes on from one of kind scalar, or starts from a language model",
        ("heads", "two_head"): "is of kind heads; --prm.name two_head goes on from one of kind two_head, or",
        ("heads", "heads"): "--prm.heads is 4, but .*heads has 2",
        ("spa", "trajectory"): "is of kind spa; --prm.name trajectory goes on from one of kind trajectory or scalar, or",
        ("scalar", "heads"): "is of kind scalar; --prm.name heads",
    }
    for (start, name), told in refused.items():
        problems = problems_of_flags(flags_of(tmp_path / start, "--prm.name", name))
        assert len(problems) == 1 and re.search(told, problems[0]), problems
    sigmoid = problems_of_flags(flags_of(tmp_path / "scalar", "--loss.kind", "soft_bce", "--label.name", "outcome_all"))
    assert len(sigmoid) == 1 and "--loss.kind soft_bce trains a sigmoid output, but" in sigmoid[0]
    for start, *flags in (("scalar", "spa"), ("two_head", "two_head"), ("heads", "heads", "--prm.heads", 2), ("implicit", "scalar")):
        assert problems_of_flags(flags_of(tmp_path / start, "--prm.name", *flags)) == []


def test_a_kind_that_has_other_heads_than_the_checkpoint_is_told_from_its_files(bpe_policy, tmp_path):
    """Before PPO or a search starts anything: without a look at the weights."""
    for name, labels in (("one", 1), ("two_head", 2), ("three", 3)):
        model = start_from(str(bpe_policy), dtype="fp32", labels=labels)
        save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path / name, Record(method="td_gae"))
        (tmp_path / name / "model.safetensors").unlink()
    for name, kind, told in (
        ("two_head", "scalar", "scores 2 labels a token; a scalar PRM has 1$"),
        ("three", "two_head", "scores 3 labels"),
    ):
        with pytest.raises(UserError, match=told):
            check_reward_model(kind, str(tmp_path / name))
    for name, kind in (("one", "scalar"), ("two_head", "two_head"), ("three", "heads")):
        check_reward_model(kind, str(tmp_path / name))


def test_another_makers_two_labels_go_on_as_one_score_only(bpe_policy, tmp_path):
    """With a bias or without, right and wrong are no promise and progress, nor a bootstrap's two heads."""
    start_from(str(bpe_policy), dtype="fp32", labels=2).save_pretrained(tmp_path / "trl")
    for flags in (["two_head"], ["heads", "--prm.heads", "2"], ["implicit"]):
        problems = problems_of_flags(flags_of(tmp_path / "trl", "--prm.name", *flags))
        assert len(problems) == 1 and "is a two-label classifier of another maker, which goes on as --prm.name scalar" in problems[0]
    for kind in ("scalar", "spa", "trajectory", "hierarchical"):
        assert problems_of_flags(flags_of(tmp_path / "trl", "--prm.name", kind)) == []


def test_flags_that_are_read_are_taken(bpe_policy, made):
    for flags in (
        ["--label.name", "td_qv", "--label.gamma", "0.9", "--label.bootstrap_enable"],
        ["--prm.name", "heads", "--prm.combine", "lcb", "--prm.kappa", "2"],
        [*INVERSE, "--loss.inverse_next", "target", "--loss.target_every", "3", *PATIENCE, "--eval.metric", "auc_last"],
        ["--prm.name", "implicit", *PATIENCE],
        ["--prm.name", "spa", *PATIENCE],
    ):
        assert problems_of_flags(flags_of(bpe_policy, *flags)) == []


def test_a_split_that_leaves_nothing_to_train_on_is_refused(bpe_policy):
    args = flags_of(bpe_policy, "--eval.share", "0.999999")
    with pytest.raises(UserError, match="--eval.share 0.999999 holds out all 2 task.s. of d, and none is left"):
        split(EPISODES, args)
    args.eval.share = 0.0
    assert split(EPISODES, args) == (EPISODES, [])


def test_tasks_of_one_outcome_have_nothing_to_compare(bpe_policy):
    args = flags_of(bpe_policy, "--prm.name", "trajectory")
    with pytest.raises(UserError, match="none of the 1 tasks has episodes of different outcomes"):
        trainable("trajectory").objective([episode(0, task="a"), episode(2, task="a")], args, None)


@pytest.mark.parametrize(
    ("way_name", "told"), [("trajectory", "only which of two scores is higher"), ("spa", "the share of the outcome"), ("two_head", None)]
)
def test_ppo_takes_values_and_critics_only_from_scores_that_are_values(way_name, told, bpe_policy, made, tmp_path, caplog):
    args = way(way_name, bpe_policy, made)
    model, kind = model_of(args), trainable(args.prm.name)
    del model.__dict__["forward"]
    save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path, Record(kind=args.prm.name, method="m", **kind.recorded(args)))
    advantage = SimpleNamespace(estimator="turn_gae", values="prm", process_reward="none")
    ppo = SimpleNamespace(algo=SimpleNamespace(advantage=advantage), critic=SimpleNamespace(model_name_or_path=str(tmp_path)))
    found = _value_problems(str(tmp_path), Record.load(tmp_path), ppo, True)
    assert (found == []) if told is None else (len(found) == 1 and told in found[0] and "values critic" in found[0])
    advantage.values = "critic"
    assert _value_problems(str(tmp_path), Record.load(tmp_path), ppo, True) == []
    assert ("the unit of its process rewards is arbitrary" in caplog.text) is (way_name == "trajectory")
    caplog.clear()
    told_of_critic = _critic_problems(ppo)
    if way_name == "two_head":
        assert "has 2 heads (kind two_head), and a critic reads one" in told_of_critic[0]
    else:
        assert told_of_critic == [] and ("is no value" in caplog.text or "was not trained at the states" in caplog.text)
