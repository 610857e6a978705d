"""What each kind learns from, by hand: pairs, whole episodes, two heads, contributions, spans, bootstrap samples."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from kinds_at_hand import EPISODES, SPANS, episode, flags_of, loss_of, model_of, objective_of, way

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.data.pairs import Pair, PairsSidecar
from openrlhf_agentprm.prm.kinds import trainable
from openrlhf_agentprm.prm.kinds.heads import poisson
from openrlhf_agentprm.prm.kinds.hierarchical import compressed, with_spans
from openrlhf_agentprm.prm.kinds.spa import SpaPRM
from openrlhf_agentprm.prm.kinds.trajectory import outcome_pairs
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import make_batch

pytestmark = pytest.mark.usefixtures("one_thread")


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
