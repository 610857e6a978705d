"""Best-of-N, look-ahead, MCTS, margins and the Python API on the counting game, against what can be worked out by hand."""

import hashlib
import math
from collections import Counter

import pytest
import torch
from engines import TableEngine

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.core.batches import ProcessScores
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.rollout.builder import Limits
from openrlhf_agentprm.rollout.engine import Sampling
from openrlhf_agentprm.rollout.pool import EnvPool
from openrlhf_agentprm.search import Budget, Options, Pav, search
from openrlhf_agentprm.search.mcts import priors
from openrlhf_agentprm.search.methods import Method, parse_method
from openrlhf_agentprm.search.nodes import Candidate, Node

LIMITS = Limits(6, 128, 4)
ALL = ["1x6", "2x4", "bon:6", "mcts:6", "lookahead:1x4x2"]


def test_options_that_name_nothing_are_told_at_once():
    with pytest.raises(UserError) as told:
        Options(mcts_rule="UCT", mcts_prior="log", restore="snapshots")
    assert [p.split(";")[0] for p in told.value.problems] == [
        "mcts_rule is 'UCT'", "mcts_prior is 'log'", "restore is 'snapshots'"
    ]  # fmt: skip


@pytest.fixture(scope="module")
def chat(tiny):
    return ChatFormat(load_tokenizer(str(tiny)))


@pytest.fixture(scope="module")
def pool():
    with EnvPool("thirdparty_count", {}, 4) as pool:
        yield pool


def goal_of(task):
    return int(hashlib.sha256(task.encode()).hexdigest(), 16) % 3


class Judge:
    """A reward model that reads the path: how near it is to stopping at the goal, or what `says` makes of (goal, ups, stopped)."""

    def __init__(self, chat, says=None):
        self.chat = chat
        self.says = says or (lambda goal, ups, stopped: float(ups == goal) if stopped else 0.5 * (ups <= goal))

    def score(self, batch):
        q_BK = torch.zeros(batch.positions.mask_BK.shape)
        words = {"zero": 0, "one": 1, "two": 2, "0": 0, "1": 1, "2": 2}
        for row, (ids, mask) in enumerate(zip(batch.input_ids_BT, batch.positions.mask_BK, strict=True)):
            for k in range(int(mask.sum())):
                text = self.chat.tokenizer.decode(ids[: int(batch.positions.q_BK[row, k]) + 1], skip_special_tokens=True).split()
                goal = words[text[text.index("to") + 1]]
                q_BK[row, k] = self.says(goal, text.count("up"), "stop" in text)
        v_BK = torch.cat([torch.full_like(q_BK[:, :1], 0.5), q_BK[:, :-1]], dim=1)
        return ProcessScores(q_BK, v_BK)


def found(chat, pool, prm, tasks, method, **options):
    """Results, and the engine that sampled for them."""
    engine = TableEngine(chat)
    limits = options.pop("limits", LIMITS)
    pav = options.pop("pav", None)
    results = search(engine, pool, chat, prm, tasks, method=method, sampling=Sampling(), limits=limits, options=Options(**options), pav=pav)
    return results, engine


def paths(results):
    return {r.task_id: (r.path.actions, r.path.scores, r.sampled_actions) for r in results}


@pytest.mark.parametrize("method", ["1x12", "2x6", "bon:24", "mcts:12", "lookahead:1x12x0"])
def test_a_judge_that_knows_finds_the_goal_by_every_method(chat, pool, method):
    tasks = pool.tasks("test", 0, 12)
    options = {"mcts_actions": 12, "exploration": 0.3} if method.startswith("mcts") else {}
    best, _ = found(chat, pool, Judge(chat), tasks, method, **options)
    contrary = Judge(chat, lambda goal, ups, stopped: stopped * (1.0 if ups != goal else -1.0))
    worst, _ = found(chat, pool, contrary, tasks, method, **options)
    assert [r.task_id for r in best] == tasks
    assert all(r.outcome == 1.0 and r.path.actions == ["up"] * goal_of(r.task_id) + ["stop"] for r in best)
    assert all(r.outcome == 0.0 for r in worst)


@pytest.mark.parametrize("method", ALL)
def test_a_search_repeats_itself_and_the_order_of_tasks_changes_nothing(chat, pool, method):
    tasks = pool.tasks("test", 0, 8)
    first, _ = found(chat, pool, None, tasks, method, seed=3)
    again, _ = found(chat, pool, None, tasks, method, seed=3)
    other_order, _ = found(chat, pool, None, tasks[::-1], method, seed=3)
    alone, _ = found(chat, pool, None, tasks[5:6], method, seed=3)
    other_seed, _ = found(chat, pool, None, tasks, method, seed=4)
    assert paths(first) == paths(again) == paths(other_order)
    assert paths(alone)[tasks[5]] == paths(first)[tasks[5]]
    assert paths(first) != paths(other_seed)


def test_best_of_n_merges_equal_episodes_and_takes_the_one_that_ends_best(chat, pool):
    tasks = pool.tasks("test", 0, 6)
    results, engine = found(chat, pool, Judge(chat), tasks, "bon:16")
    for r in results:
        assert r.outcome == 1.0 and r.path.scores[-1] == 1.0 and r.path.scores[:-1] == [0.0] * goal_of(r.task_id)
        # at most "up" and "stop" are ever played at each height
        assert 16 < r.sampled_actions <= 16 * 6 and r.turns <= 2 * 6
    (one,), engine = found(chat, pool, None, tasks[:1], "bon:16")
    episodes = Counter(len(tokens) for _, tokens, _ in engine.asked)
    assert episodes[len(engine.asked[0][1])] == 16 and one.sampled_actions == sum(episodes.values())
    assert list(episodes.values()) == sorted(episodes.values(), reverse=True)  # each episode samples one action a turn until it ends


def test_lookahead_sees_what_the_action_alone_does_not_show(chat, pool):
    """A judge that likes "stop" at once unless it is shown three turns ahead: greedy continuation ("up", "up") ends high."""
    tasks = pool.tasks("test", 0, 4)
    high = Judge(chat, lambda goal, ups, stopped: 0.5 * stopped + 0.4 * (ups >= 3))
    near, _ = found(chat, pool, high, tasks, "1x6")
    far, engine = found(chat, pool, high, tasks, "lookahead:1x6x2")
    assert all(r.path.actions == ["stop"] for r in near)
    assert all(r.path.actions == ["stop"] for r in far)  # 0.4 < 0.5 still
    higher = Judge(chat, lambda goal, ups, stopped: 0.5 * stopped + 0.6 * (ups >= 3))
    near, _ = found(chat, pool, higher, tasks, "1x6")
    far, engine = found(chat, pool, higher, tasks, "lookahead:1x6x2")
    assert all(r.path.actions == ["stop"] for r in near)
    assert all(r.path.actions[:3] == ["up"] * 3 and r.path.scores[0] == pytest.approx(0.6) for r in far)
    assert {s.temperature for _, _, s in engine.asked} == {0.0, 1.0}  # the continuation is greedy
    flat, _ = found(chat, pool, higher, tasks, "lookahead:1x6x0")
    assert paths(flat) == paths(near)  # D = 0 is the beam


def test_mcts_counts_visits_and_backs_up_values(chat, pool):
    """Under UCT both actions of the root are tried; the better one is visited more, and the move's score is its mean value."""
    task = [next(t for t in pool.tasks("test", 0, 20) if goal_of(t) == 0)]
    for rule in ("uct", "puct"):
        results, engine = found(chat, pool, Judge(chat), task, "mcts:8", mcts_rule=rule, exploration=0.5)
        assert results[0].path.actions == ["stop"] and results[0].outcome == 1.0
        assert results[0].path.scores == [1.0]  # each visit of "stop" at the goal brought 1
    blind = Judge(chat, lambda goal, ups, stopped: 0.5)
    tasks = pool.tasks("test", 0, 12)
    without, _ = found(chat, pool, blind, tasks, "mcts:24", mcts_rule="uct", exploration=0.3)
    rolled, _ = found(chat, pool, blind, tasks, "mcts:24", mcts_rule="uct", exploration=0.3, rollout_weight=0.9)
    assert sum(r.outcome for r in rolled) > sum(r.outcome for r in without) + 2  # only rollouts see outcomes


def test_the_prior_is_how_often_an_action_was_sampled_or_its_probability():
    group = [Candidate(Node([1]), [5, 6], copies=3, logprob=math.log(0.5)), Candidate(Node([1]), [7], copies=1, logprob=math.log(0.75))]
    assert priors(group, "frequency") == [0.75, 0.25]
    assert priors(group, "logprob") == pytest.approx([0.25, 0.75])  # 0.5² and 0.75, which add up to 1


def test_an_action_has_to_beat_the_policys_own_by_the_margin(chat, pool):
    """ "up" is judged better by 0.1: without a margin it is played, with 0.2 the action sampled most is, with 0.05 it is "up" again."""
    tasks = pool.tasks("test", 0, 30)
    judge = Judge(chat, lambda goal, ups, stopped: 0.4 if stopped else 0.5)
    most: dict = {}
    for margin in (0.0, 0.2, 0.05):
        results, _ = found(chat, pool, judge, tasks, "1x9", policy_margin=margin)
        most[margin] = [r.path.actions[0] for r in results]
    assert set(most[0.0]) == set(most[0.05]) == {"up"}
    assert set(most[0.2]) == {"up", "stop"}  # a fair coin's majority of nine


def test_the_score_is_mixed_with_the_mean_log_probability(chat, pool):
    engine = TableEngine(chat)
    engine.logprobs = {engine.actions[0][0]: [-3.0, -1.0], engine.actions[1][0]: [-0.5, -0.5]}  # "up" −2 a token, "stop" −0.5
    judge = Judge(chat, lambda goal, ups, stopped: 0.0 if stopped else 0.3)
    how = dict(method="1x9", sampling=Sampling(), limits=LIMITS)
    tasks = pool.tasks("test", 0, 4)
    for weight, first in ((0.0, "up"), (0.1, "up"), (0.3, "stop")):  # 0.3 · 1.5 > 0.3 > 0.1 · 1.5
        results = search(engine, pool, chat, judge, tasks, options=Options(logprob_weight=weight), **how)
        assert {r.path.actions[0] for r in results} == {first}
        if weight == 0.1:
            assert results[0].path.scores[0] == pytest.approx(0.3 - 0.1 * 2)
    engine.logprobs = {}
    for method, options in (("1x9", Options(logprob_weight=0.1)), ("mcts:4", Options(mcts_prior="logprob"))):
        with pytest.raises(UserError, match="the engine gives no log-probabilities"):
            search(engine, pool, chat, judge, tasks, options=options, **(how | {"method": method}))
        engine.queue.clear()


def test_pav_ranks_by_the_effective_reward(chat, pool):
    """Q of both actions is 0.5; the prover gains by "up" alone."""
    tasks = pool.tasks("test", 0, 4)
    even = Judge(chat, lambda goal, ups, stopped: 0.5)

    class Prover(Judge):
        def score(self, batch):
            q_BK = super().score(batch).q_BK
            return ProcessScores(q_BK, torch.full_like(q_BK, 0.25))

    prover = Prover(chat, lambda goal, ups, stopped: 0.0 if stopped else 1.0)
    results, _ = found(chat, pool, even, tasks, "1x9", pav=Pav(0.5, prover))
    assert all(r.path.actions == ["up"] * 6 and r.path.scores == [0.875] * 6 for r in results)  # 0.5 + 0.5 · (1 − 0.25)
    results, _ = found(chat, pool, even, tasks, "1x9", pav=Pav(0.5, k=4))
    assert all(r.path.scores[0] == 0.5 for r in results)  # V = Q: no progress
    with pytest.raises(UserError, match="needs one prover"):
        Pav(0.5)


@pytest.mark.parametrize("method", [*ALL, "bon:3", "mcts:3"])
@pytest.mark.parametrize(("tokens", "turns"), [(1, None), (30, None), (60, None), (200, None), (None, 1), (None, 7), (None, 20), (90, 11)])
def test_a_budget_is_never_exceeded(chat, pool, method, tokens, turns):
    tasks = pool.tasks("test", 0, 8)
    mixed = {"rollout_weight": 0.5} if method == "mcts:3" else {}
    results, _ = found(chat, pool, None, tasks, method, budget=Budget(tokens, turns), **mixed)
    for r in results:
        assert r.sampled_tokens <= (tokens or math.inf) and r.turns <= (turns or math.inf)
        assert not math.isnan(r.outcome)
        if (tokens or 99) >= 24 and (turns or 99) >= 6:  # six turns of four tokens: there is enough for plain play to the end
            assert r.path.finished


@pytest.mark.parametrize("method", ALL)
def test_a_budget_that_is_enough_changes_nothing_and_one_that_ends_is_told(chat, pool, method):
    tasks = pool.tasks("test", 0, 8)
    free, _ = found(chat, pool, Judge(chat), tasks, method)
    same, _ = found(chat, pool, Judge(chat), tasks, method, budget=Budget(10**6, 10**6, 1e6))
    assert paths(free) == paths(same) and not any(r.budget_ended for r in same)
    plain, engine = found(chat, pool, Judge(chat), tasks, method, budget=Budget(seconds=1e-9))
    assert all(r.budget_ended and r.path.actions == ["up"] * 6 for r in plain)  # greedy, by the table's own choice
    assert all(r.sampled_actions == 6 for r in plain)


@pytest.mark.parametrize("method", ALL)
def test_when_time_is_up_the_best_path_so_far_is_played_to_its_end(chat, pool, method, monkeypatch):
    """Time is up at the third look at the clock: what is finished wins if it is the best, else greedy play ends the best path."""
    looks = Counter()

    def late(tree):
        looks[id(tree)] += 1
        return looks[id(tree)] >= 3

    monkeypatch.setattr("openrlhf_agentprm.search.tree.TreeSearch._late", late)
    results, _ = found(chat, pool, Judge(chat), pool.tasks("test", 0, 12), method, seed=1)
    assert all(r.path.finished and not math.isnan(r.outcome) for r in results)
    ended = [r for r in results if r.budget_ended]
    assert ended and all(r.path.actions[2:] in ([], ["up"] * 4) for r in ended if not method.startswith("mcts"))
    if method == "bon:6":  # with a goal of 0 or 1 an episode of the first two turns was right, and is known to be
        assert all(r.outcome == 1.0 for r in ended if goal_of(r.task_id) < 2)


def test_snapshots_lead_where_replay_leads_and_step_less(chat):
    with EnvPool("thirdparty_saved", {}, 3) as pool:
        tasks = pool.tasks("test", 0, 8)
        for method in ALL:
            replayed, _ = found(chat, pool, Judge(chat), tasks, method)
            restored, _ = found(chat, pool, Judge(chat), tasks, method, restore="snapshot")
            assert paths(replayed) == paths(restored)
            assert [r.turns for r in replayed] == [r.turns for r in restored]
            assert sum(r.replayed_turns for r in restored) == 0 < sum(r.replayed_turns for r in replayed)


def test_snapshots_of_an_environment_without_are_refused(chat, pool):
    with pytest.raises(UserError, match="'thirdparty_count' has no snapshot"):
        found(chat, pool, Judge(chat), pool.tasks("test", 0, 1), "1x2", restore="snapshot")


def test_names_of_methods():
    assert parse_method("2×4") == parse_method("2x4") == Method("beam", 2, 4)
    assert parse_method("lookahead:1x4x2") == Method("lookahead", 1, 4, 2) and parse_method("BON:8") == Method("bon", count=8)
    for name in ALL:
        assert parse_method(name).name == name
    for wrong, told in (
        ("bonn:4", "did you mean 'bon'"),
        ("2x", "is not N×M"),
        ("0x4", "is not N×M"),
        ("mcts:0", "is not"),
        ("2x2x2", "is not"),
    ):
        with pytest.raises(UserError, match=told):
            parse_method(wrong)


def test_options_without_a_part_are_refused(chat, pool):
    with pytest.raises(UserError, match="the search bon:2 takes no policy_margin"):
        found(chat, pool, None, pool.tasks("test", 0, 1), "bon:2", policy_margin=0.1)
    with pytest.raises(UserError, match="the search mcts:2 takes no PAV"):
        found(chat, pool, Judge(chat), pool.tasks("test", 0, 1), "mcts:2", pav=Pav(0.5, k=4))
