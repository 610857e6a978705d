"""Search over turns, against what can be worked out by hand: real environment processes, an engine that draws from a known table."""

import hashlib
import math
import random
from dataclasses import dataclass

import pytest
from engines import TableEngine

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.rollout.builder import Limits
from openrlhf_agentprm.rollout.engine import Sampling
from openrlhf_agentprm.rollout.pool import EnvPool, Timeouts
from openrlhf_agentprm.search.api import make_search
from openrlhf_agentprm.search.choice import choose
from openrlhf_agentprm.search.methods import parse_method
from openrlhf_agentprm.search.nodes import Candidate, Node
from openrlhf_agentprm.search.options import Options
from openrlhf_agentprm.search.scorers import random_scorer


@pytest.fixture(scope="module")
def chat(tiny):
    return ChatFormat(load_tokenizer(str(tiny)))


def goal_of(task):
    return int(hashlib.sha256(task.encode()).hexdigest(), 16) % 3


def knows(chat, sign=1.0):
    """Scores a path by whether it still can end, or has ended, at the goal that its prompt names."""
    words = {0: "zero", 1: "one", 2: "two"}

    def score(token_ids, spans, copies):
        found = []
        for tokens, (start, end) in zip(token_ids, spans, strict=True):
            text = chat.tokenizer.decode(tokens, skip_special_tokens=True)
            goal = next(n for n, word in words.items() if f"to {n}" in text or f"to {word}" in text)
            ups = text.split().count("up")
            stopped = "stop" in chat.tokenizer.decode(tokens[start:end])
            right = ups == goal if stopped else ups <= goal
            found.append(sign * (float(right) + 0.01 * stopped))
        return found

    return score


def by(score):
    """A scorer from what gives numbers for tokens, the actions' spans and how often they were sampled."""
    return lambda cs: [(q, 0.0) for q in score([c.token_ids for c in cs], [c.spans[-1] for c in cs], [c.copies for c in cs])]


def search(chat, pool, score, beams, actions, tasks, max_turns=6, margin=0.0):
    method, options = parse_method(f"{beams}x{actions}"), Options(margin=margin)
    return make_search(method, TableEngine(chat), pool, chat, by(score), Sampling(), Limits(max_turns, 128, 4), options).run(tasks)


@pytest.mark.parametrize(("beams", "actions"), [(1, 12), (2, 6)])
def test_a_scorer_that_knows_solves_everything_and_its_opposite_nothing(chat, beams, actions):
    with EnvPool("thirdparty_count", {}, 4) as pool:
        tasks = list(pool.tasks("test", 0, 30))
        best = search(chat, pool, knows(chat), beams, actions, tasks)
        worst = search(chat, pool, knows(chat, -1.0), beams, actions, tasks)
    assert [r.task_id for r in best] == tasks
    assert all(r.outcome == 1.0 and r.path.actions == ["up"] * goal_of(r.task_id) + ["stop"] for r in best)
    assert all(r.outcome == 0.0 for r in worst)


def test_the_number_of_sampled_actions_is_the_methods(chat):
    """N·M at the root, M at every live node after it."""
    with EnvPool("thirdparty_count", {}, 4) as pool:
        tasks = list(pool.tasks("test", 0, 30))
        for result in search(chat, pool, knows(chat), 1, 12, tasks):
            assert result.sampled_actions == 12 * (goal_of(result.task_id) + 1)
            assert result.sampled_tokens == 2 * result.sampled_actions

        def never_stops(tokens, spans, copies):
            return [-float("stop" in chat.tokenizer.decode(t[a:b])) for t, (a, b) in zip(tokens, spans, strict=True)]

        for result in search(chat, pool, never_stops, 2, 20, tasks, max_turns=3):
            # equal actions of one node are merged: at the root only "up" and "stop" remain, so one beam stops and one goes on
            assert result.sampled_actions == 40 + 20 + 20
            assert result.path.actions == ["up", "up", "up"] and result.outcome == 0.0


def test_a_finished_path_keeps_its_place_until_a_better_one_takes_it(chat):
    with EnvPool("thirdparty_count", {}, 4) as pool:
        tasks = [t for t in pool.tasks("test", 0, 60) if goal_of(t) == 2][:8]
        early_stops_win = search(chat, pool, lambda tokens, spans, copies: [-float(len(t)) for t in tokens], 2, 20, tasks)
        longest_wins = search(chat, pool, lambda tokens, spans, copies: [float(len(t)) for t in tokens], 2, 20, tasks)
    assert all(len(r.path.actions) == 1 for r in early_stops_win)
    assert all(len(r.path.actions) == 6 and not r.path.success for r in longest_wins)


@dataclass
class Entry:
    name: str
    score: float


def test_scores_nearer_than_the_margin_leave_the_first_in_place():
    entries = [Entry("a", 0.5), Entry("b", 0.54), Entry("c", 0.8), Entry("d", 0.79), Entry("e", 0.83)]

    def chosen(count, margin):
        return "".join(entry.name for entry in choose(entries, count, margin))

    assert chosen(3, 0.0) == "ecd" and chosen(9, 0.0) == "ecdba"
    assert chosen(3, 0.05) == "cde" and chosen(9, 0.05) == "cdeab"
    assert chosen(2, 0.02) == "ec" and chosen(2, 1.0) == "ab"


@pytest.mark.parametrize(("beams", "actions"), [(1, 12), (2, 6)])
def test_with_a_margin_a_scorer_that_knows_nothing_leaves_the_policys_own_choice(chat, beams, actions):
    """A scorer with a spread below the margin plays what the engine drew first, a scorer that knows plays as without it."""
    with EnvPool("thirdparty_count", {}, 4) as pool:
        tasks = list(pool.tasks("test", 0, 30))
        flat = search(chat, pool, lambda tokens, spans, copies: [0.0] * len(spans), beams, actions, tasks)
        noise = random.Random(0)
        nearly = search(
            chat, pool, lambda tokens, spans, copies: [0.04 * noise.random() for _ in spans], beams, actions, tasks, margin=0.05
        )
        best = search(chat, pool, knows(chat), beams, actions, tasks, margin=0.005)
    assert [r.path.actions for r in nearly] == [r.path.actions for r in flat]
    assert all(r.outcome == 1.0 for r in best)


def test_random_scores_choose_one_of_the_samples_at_random():
    """Of eight samples, seven alike, the rare one wins an eighth of the time, though equal ones are merged before they are scored."""
    scorer = random_scorer(0)
    pairs = ([Candidate(Node([i]), [1], copies=7), Candidate(Node([i]), [2], copies=1)] for i in range(20_000))
    wins = sum(rare > common for (common, _), (rare, _) in map(scorer, pairs))
    assert abs(wins / 20_000 - 1 / 8) < 0.01  # four standard deviations


def test_scorers_are_told_how_often_an_action_was_sampled(chat):
    told = []

    def score(tokens, spans, copies):
        told.append(copies)
        return [0.0] * len(spans)

    with EnvPool("thirdparty_count", {}, 4) as pool:
        search(chat, pool, score, 1, 12, list(pool.tasks("test", 0, 1)))
    assert all(sum(copies) == 12 and len(copies) <= 2 for copies in told)


def test_a_broken_environment_has_no_outcome_and_costs_no_other_task(chat):
    with EnvPool("thirdparty_faulty", {}, 4, Timeouts(5, 1.0)) as pool:
        found = search(chat, pool, knows(chat), 1, 12, list(pool.tasks("test", 0, 12)))
    assert [r.task_id for r in found if math.isnan(r.outcome)] == ["test-0", "test-10"]
    assert all(r.outcome == 1.0 for r in found if not math.isnan(r.outcome))


def test_a_path_that_the_context_cuts_is_neither_success_nor_failure(chat):
    """Counting up without an end, until there is no room for another action."""
    with EnvPool("thirdparty_count", {}, 4) as pool:
        tasks = list(pool.tasks("test", 0, 6))
        limits = Limits(50, 40, 4)
        longest = by(lambda tokens, spans, copies: [float(len(t)) for t in tokens])
        tree = make_search(parse_method("2x20"), TableEngine(chat), pool, chat, longest, Sampling(), limits)
        found = tree.run(tasks)
    cut = [r for r in found if math.isnan(r.outcome)]
    assert cut and all(r.path.finished and len(r.path.token_ids) >= 40 and len(r.path.actions) < 50 for r in cut)
    assert tree.faults["context_overflow"] >= len(cut) and set(tree.faults) == {"context_overflow"}


def test_a_score_that_is_no_number_is_told(chat):
    with EnvPool("thirdparty_count", {}, 4) as pool, pytest.raises(UserError, match="the PRM gave the score nan to an action"):
        search(chat, pool, lambda tokens, spans, copies: [math.nan] * len(spans), 1, 4, list(pool.tasks("test", 0, 2)))


def test_an_environment_that_replays_differently_is_an_error(chat):
    with EnvPool("thirdparty_moody", {}, 4) as pool, pytest.raises(UserError, match="not replayed alike.*deterministic environment"):
        search(chat, pool, knows(chat), 1, 12, list(pool.tasks("test", 0, 30)))
