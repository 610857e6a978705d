"""Search over the steps of one response: real environment processes, an engine that makes a slip by a coin, a scorer that knows."""

import random
import re

import pytest
from sums import LENGTH, TERMS, make_policy, semicolon

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.cli import search as command
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.steps import split_steps
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.rollout.builder import Limits
from openrlhf_agentprm.rollout.engine import Sampled, Sampling
from openrlhf_agentprm.rollout.pool import EnvPool
from openrlhf_agentprm.search.api import make_search
from openrlhf_agentprm.search.budget import Budget, Need
from openrlhf_agentprm.search.methods import parse_method
from openrlhf_agentprm.search.nodes import Candidate, Node
from openrlhf_agentprm.search.options import Options

TASKS = 12


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("sums") / "policy")


@pytest.fixture(scope="module")
def chat(policy):
    return ChatFormat(load_tokenizer(str(policy)))


def read(chat, token_ids):
    """The terms of the question, and what the answer's lines came to."""
    prompt, _, said = chat.tokenizer.decode(list(token_ids)).rpartition("<|assistant|>")
    terms = [int(term.replace(" ", "")) for term in re.findall(r"(?:[+-] )?\d", prompt.rpartition("answer .")[2])]
    lines = [line for line in said.replace("<|im_end|>", "").split(";") if line.strip()]
    return terms, [int(line.partition("=")[2].replace(" ", "")) for line in lines]


class Coin:
    """Writes the next lines, each wrong by one with the chance of a half, up to the first token that stops it."""

    max_model_len = LENGTH

    def __init__(self, chat):
        self.chat, self.random, self.queue, self.sampled = chat, random.Random(0), [], 0

    def submit(self, request_id, token_ids, sampling, max_tokens, stop_token_ids):
        terms, came = read(self.chat, token_ids)
        value, lines = (came or terms)[-1] if came else terms[0], []
        for term in terms[len(came) + 1 :]:
            result = value + term + (self.random.random() < 0.5)
            lines.append(f"{value} {'+' if term > 0 else '-'} {abs(term)} = {result}")
            value = result
        tokens = self.chat.encode_action(";".join(lines))
        end = next(i for i, token in enumerate(tokens) if token in stop_token_ids) + 1
        self.sampled += end
        assert end <= max_tokens
        self.queue.append(Sampled(request_id, tokens[:end]))

    def step(self):
        return [self.queue.pop()]

    unfinished = property(lambda self: len(self.queue))


def knows(chat, sign=1.0):
    def score(candidates):
        found = []
        for candidate in candidates:
            pair = [read(chat, tokens) for tokens in (candidate.token_ids, candidate.parent.token_ids)]
            found.append(tuple(sign * float(came == [sum(terms[: k + 2]) for k in range(len(came))]) for terms, came in pair))
        return found

    return score


def run(chat, method, sign=1.0, steps=True, **options):
    engine = Coin(chat)
    options = Options(step_tokens=semicolon(chat)[0] if steps else (), **options)
    with EnvPool("arithmetic", TERMS, 2) as pool:
        tasks = list(pool.tasks("test", 0, TASKS))
        limits = Limits(1, LENGTH, 40)
        search = make_search(parse_method(method), engine, pool, chat, knows(chat, sign), Sampling(), limits, options)
        found = search.run(tasks)
    assert sum(r.sampled_tokens for r in found) == engine.sampled
    return found


@pytest.mark.parametrize("method", ["1x12", "2x6", "mcts:6", "lookahead:1x12x0"])
def test_a_scorer_that_knows_picks_right_steps_and_its_opposite_wrong_ones(chat, method):
    """12 samples of a step: a right one and a wrong one are among them but for 2 · 2^−12 of the steps; of whole answers an eighth is right."""
    extra = {"mcts_actions": 12, "mcts_rule": "puct"} if method.startswith("mcts") else {}
    assert all(r.outcome == 1.0 for r in run(chat, method, **extra))
    assert all(r.outcome == 0.0 for r in run(chat, method, -1.0, **extra))


def test_the_environment_is_given_the_whole_response_once(chat):
    for result in run(chat, "1x12"):
        path = result.path
        assert result.turns == 1 and result.sampled_actions == 36 and len(path.actions) == 1 and len(path.scores) == len(path.spans) == 3
        start, end = path.spans[0][0], len(path.token_ids)
        assert split_steps(path.token_ids, (start, end), semicolon(chat)) == path.spans, "its steps are those that training would see"
        assert chat.action_text(path.token_ids[start:]).count("=") == 3 and path.actions[0].count(";") == 2
    whole = run(chat, "1x12", steps=False)
    assert all(r.sampled_actions == 12 and len(r.path.spans) == 1 for r in whole)


def test_best_of_n_and_a_budget_go_on_inside_responses(chat):
    ahead = run(chat, "lookahead:1x12x1")  # which judges a step by how one more goes, and that is right or wrong by the coin
    assert all(r.path.finished and len(r.path.spans) == 3 for r in ahead) and sum(r.outcome for r in ahead) > 0
    alone = run(chat, "bon:12")
    assert sum(r.outcome for r in alone) >= 4 and all(r.turns <= 12 and len(r.path.actions) == 1 for r in alone)
    tight = run(chat, "1x12", budget=Budget(tokens=60))
    assert all(r.path.finished and r.sampled_tokens <= 60 and r.outcome in (0.0, 1.0) for r in tight)


def test_delimiters_in_a_row_end_one_step_as_in_training(chat):
    end, word = semicolon(chat)[0][0], chat.encode_action("1")[0]
    coin = random.Random(3)
    with EnvPool("arithmetic", TERMS, 1) as pool:
        options = Options(step_tokens=semicolon(chat)[0])
        search = make_search(parse_method("1x4"), Coin(chat), pool, chat, knows(chat), Sampling(), Limits(1, LENGTH, 40), options)
    for _ in range(50):
        response = [coin.choice([word, end]) for _ in range(9)] + [word]
        node, at = Node([word] * 5), 0
        while True:
            stop = response.index(end, at) + 1 if end in response[at:] else len(response)
            step = Candidate(node, response[at:stop], extends=search._extends(node, response[at:stop]))
            if stop == len(response):
                break
            node, at = search.states._inside(step), stop
        wanted = split_steps([word] * 5 + response, (5, 15), semicolon(chat))
        assert step.spans == wanted and len(step.scores(0.5)) == len(wanted)


def test_the_worst_cost_is_that_of_every_node(chat):
    with EnvPool("arithmetic", TERMS, 1) as pool:
        make = lambda method: make_search(  # noqa: E731
            parse_method(method),
            Coin(chat),
            pool,
            chat,
            knows(chat),
            Sampling(),
            Limits(4, 400, 40),
            Options(step_tokens=semicolon(chat)[0]),
        )
        inside = Node([5] * 50, action_start=15)  # 5 tokens are left of its response, and 40 of one that begins behind it
        mcts = make("mcts:6")
        assert mcts.room(inside) == 5 and mcts._cost(inside) == Need(mcts.options.mcts_actions * 40, 1)
        late, early = Node([5] * 50, actions=["a"] * 3), Node([5] * 50)
        assert make("lookahead:2x2x2")._need([late, early]) == Need(40 + 120, 1 + 3)


def test_an_answer_that_the_cap_cuts_is_played_as_it_is(chat):
    engine = Coin(chat)
    first = len(chat.encode_action("1 + 1 = 2;")) - 1
    with EnvPool("arithmetic", TERMS, 1) as pool:
        options = Options(step_tokens=semicolon(chat)[0])
        limits = Limits(1, LENGTH, first)
        tasks = list(pool.tasks("test", 0, 3))
        found = make_search(parse_method("1x4"), engine, pool, chat, knows(chat), Sampling(), limits, options).run(tasks)
    assert all(r.path.finished and len(r.path.spans) == 1 and r.outcome in (0.0, 1.0) for r in found)


def test_delimiters_of_the_command(policy, chat, tmp_path):
    line = ["--env.name", "arithmetic", "--policy.model_name_or_path", policy, "--search.output", tmp_path / "s.json"]
    for told, flags in {
        "stops the engine at one token": ["--prm.step_delimiter", "5,6"],
        "has the token 4000": ["--prm.step_delimiter", 4000],
        "leave out the other": ["--prm.step_delimiter", "none", 5],
    }.items():
        with pytest.raises(UserError, match=told):
            command.main([str(word) for word in [*line, *flags]])
    from types import SimpleNamespace

    from openrlhf_agentprm.cli.search_flags import as_now, step_tokens

    Record(method="td_qv", step_delimiter=[[7], [8, 9]]).save(tmp_path)
    flags = SimpleNamespace(step_delimiter=None, step_delimiter_text=None, name="scalar")
    args = SimpleNamespace(prm=flags, policy=SimpleNamespace(model_name_or_path=str(policy)))
    assert step_tokens(args, [str(tmp_path)]) == (7,) and step_tokens(args, []) == ()
    flags.step_delimiter_text = ";"
    assert step_tokens(args, []) == semicolon(chat)[0]
    assert as_now({"beams": 1, "actions": 4})["step_tokens"] == [], "an entry of an earlier version searched over turns"
