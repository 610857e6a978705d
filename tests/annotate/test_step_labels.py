"""Labels of steps inside one response: visits, and completions that go on from the middle of an answer."""

import json
import re

import pytest
from launching import module
from sums import LENGTH, TERMS, make_policy, make_store, right_so_far, semicolon

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.annotate.completer import Completer
from openrlhf_agentprm.annotate.completions import StoreStates
from openrlhf_agentprm.annotate.given import targets_in
from openrlhf_agentprm.annotate.montecarlo import mc_soft
from openrlhf_agentprm.cli import label
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.sidecar import read_about, read_labels
from openrlhf_agentprm.data.step_store import StepStore
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.rollout.builder import Assignment, EpisodeBuilder, Limits
from openrlhf_agentprm.rollout.collect import play_episodes
from openrlhf_agentprm.rollout.engine import Sampled, Sampling
from openrlhf_agentprm.rollout.pool import EnvPool
from openrlhf_agentprm.rollout.prefix import prefix_of

SAMPLES = 6


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("sums") / "policy")


@pytest.fixture(scope="module")
def chat(policy):
    return ChatFormat(load_tokenizer(str(policy)))


@pytest.fixture(scope="module")
def store(policy, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("sums") / "store", policy, tasks=5, samples=SAMPLES)


def run_label(store, output, *flags):
    label.main([str(word) for word in ("--data.dataset", store.path, "--label.output", output, *flags)])
    return read_labels(output), read_about(output)


def test_visits_are_counted_by_step(policy, store, tmp_path):
    """Episodes of one task that begin with the same lines share the labels of these steps: the mean of all their outcomes."""
    flags = ["--label.name", "mc_visits", "--prm.step_delimiter_text", ";", "--policy.model_name_or_path", policy]
    labels, about = run_label(store, tmp_path / "visits", *flags)
    assert about["steps_per_turn"] == 3.0 and about["step_delimiter"] == [[semicolon(load_tokenizer(str(policy)))[0][0]]]
    episodes = list(store.episodes())
    shared = 0
    for episode in episodes:
        lines = re.split("(?<=;)", episode.turns[0].action)
        targets, _ = labels[episode.episode_id]
        assert len(targets) == len(lines) == 3
        for k, target in enumerate(targets):
            alike = [e.outcome for e in episodes if e.task_id == episode.task_id and e.turns[0].action.startswith("".join(lines[: k + 1]))]
            assert target == pytest.approx(sum(alike) / len(alike))
            shared += len(alike) > 1
    assert shared > 10
    whole, plain = run_label(store, tmp_path / "whole", "--label.name", "mc_visits")
    assert "step_delimiter" not in plain and all(len(targets) == 1 for targets, _ in whole.values())


class Calculator:
    """An engine that writes the rest of an answer rightly from wherever it stands."""

    max_model_len = LENGTH

    def __init__(self, chat):
        self.chat, self.queue = chat, []

    def submit(self, request_id, token_ids, sampling, max_tokens, stop_token_ids):
        text = self.chat.tokenizer.decode(list(token_ids))
        prompt, _, said = text.rpartition("<|assistant|>")
        assert said == "" or said.rstrip().endswith(";"), "a completion begins where a step ended"
        terms = [int(term.replace(" ", "")) for term in re.findall(r"(?:[+-] )?\d", prompt.rpartition("answer .")[2])]
        done = said.count(";")
        value = int(said.rstrip(" ;").rpartition("=")[2].replace(" ", "")) if done else terms[0]
        lines = []
        for term in terms[done + 1 :]:
            lines.append(f"{value} {'+' if term > 0 else '-'} {abs(term)} = {value + term}")
            value += term
        self.queue.append(Sampled(request_id, self.chat.encode_action(";".join(lines))))
        assert len(self.queue[-1].token_ids) <= max_tokens

    def step(self):
        return [self.queue.pop()]

    unfinished = property(lambda self: len(self.queue))


def test_completions_go_on_from_the_middle_of_an_answer(chat, store, tmp_path):
    """By one who makes no further mistake a step is worth 1 as long as what the answer has come to is right, and 0 from the slip on."""

    def play(missing):
        return play_episodes(missing, pool, Calculator(chat), chat, Sampling(), Limits(1, LENGTH, 40))

    divided = StepStore(store.path, semicolon(chat))
    complete = Completer(tmp_path / "completions", play, policy="p", policy_digest="d", sampling={}, seed=0)
    with EnvPool("arithmetic", TERMS, 4) as pool:
        sidecar = mc_soft.annotate(divided, complete=complete, samples=2)
    sidecar.save(tmp_path / "labels", {})
    labels = read_labels(tmp_path / "labels")
    slipped = 0
    for episode in store.episodes():
        wanted = [float(right) for right in right_so_far(episode)]
        assert labels[episode.episode_id][0] == wanted
        slipped += 0.0 in wanted
    assert slipped > 5
    states = {s.key: s for _, path in StoreStates.of(divided).paths for s in path}
    behind = 0
    for done in EpisodeStore(tmp_path / "completions").episodes():
        state = states[done.sampling["from"]]
        assert tuple(done.token_ids[: state.position]) == state.prefix.token_ids
        turn = done.turns[0]
        assert len(done.turns) == 1 and turn.action == chat.action_text(done.token_ids[turn.action_start :]) and turn.action.count("=") == 3
        behind += len(done.token_ids) - state.position
    assert sidecar.cost["sampled_tokens"] == behind and sidecar.cost["environment_steps"] == sidecar.cost["completions"]


def test_the_environment_is_given_whole_actions_and_the_cap_counts_what_was_begun(chat, store):
    divided = next(iter(StepStore(store.path, semicolon(chat)).episodes()))
    start, inside = (prefix_of(divided, k) for k in (0, 2))
    assert start.action_start is None and start.turns == () and start.observation == divided.turns[0].observation
    assert inside.action_start == divided.turns[0].action_start and inside.turns == () and inside.observation == start.observation
    assert inside.token_ids == tuple(divided.token_ids[: divided.turns[2].action_start])
    a = Assignment("arithmetic", divided.task_id, "train", divided.seed, 0, "p", "d", {}, prefix=inside)
    builder = EpisodeBuilder(a, chat, Limits(1, LENGTH, 40))
    assert builder.request() == {"do": "replay", "task_id": divided.task_id, "seed": divided.seed, "actions": []}
    builder.resume([{"observation": inside.observation, "instruction": divided.instruction}])
    begun = len(inside.token_ids) - inside.action_start
    assert begun > 10 and builder.budget == 40 - begun
    rest = divided.token_ids[divided.turns[2].action_start :]
    whole = next(e for e in EpisodeStore(store.path).episodes() if e.episode_id == divided.episode_id)
    assert builder.act(rest, []) == chat.parse(whole.turns[0].action)
    ended = {
        "observation": "",
        "reward": 1.0,
        "terminated": True,
        "truncated": False,
        "valid_action": True,
        "success": True,
        "outcome": None,
    }
    builder.observe(ended)
    assert builder.episode().token_ids == whole.token_ids and builder.episode().turns == [
        type(whole.turns[0])(inside.observation, whole.turns[0].action, inside.action_start, len(whole.token_ids), 1.0, True)
    ]


def test_turns_before_a_response_are_played_again_whole(chat):
    """Two responses of two steps each, and a state inside the second: the first is replayed by its text, the second is not."""
    from openrlhf_agentprm.data.episode import Episode, Status, Turn
    from openrlhf_agentprm.data.steps import in_steps

    first, second = (chat.encode_action(text) for text in ("1 + 1 = 2; 2 + 1 = 3", "3 - 1 = 2; 2 - 1 = 1"))
    tokens = chat.first("", "a")
    turns = [Turn("a", chat.action_text(first), len(tokens), len(tokens) + len(first))]
    tokens = tokens + first + chat.following("b", closed=True)
    turns.append(Turn("b", chat.action_text(second), len(tokens), len(tokens) + len(second)))
    episode = Episode(
        env="e", task_id="t", split="train", seed=0, sample=0, policy="p", policy_digest="d", sampling={}, status=Status.SUCCESS,
        outcome=1.0, terminated=True, truncated=False, token_ids=tokens + second, turns=turns,
    )  # fmt: skip
    divided = in_steps(episode, semicolon(chat))
    assert len(divided.turns) == 4
    prefix = prefix_of(divided, 3)
    assert prefix.action_start == len(tokens) and prefix.observation == "b" and len(prefix.turns) == 1
    builder = EpisodeBuilder(Assignment("e", "t", "train", 0, 0, "p", "d", {}, prefix=prefix), chat, Limits(4, 200))
    assert builder.request()["actions"] == [turns[0].action]
    builder.resume([{"observation": "a", "instruction": ""}, {"observation": "b", "terminated": False, "truncated": False}])
    assert builder.act(divided.token_ids[divided.turns[3].action_start :], []) == turns[1].action
    assert [(t.observation, t.action, t.action_start, t.action_end) for t in builder.turns] == [
        (t.observation, t.action, t.action_start, t.action_end) for t in turns
    ]


def test_a_delimiter_that_is_not_met_is_told_with_counts(policy, store, tmp_path, caplog):
    run_label(store, tmp_path / "none", "--label.name", "mc_visits", "--prm.step_delimiter", 7777, 1)
    assert "none of the 30 turns" in caplog.text and "1.0 steps a turn" in caplog.text and "end with 1 7777" in caplog.text
    assert read_about(tmp_path / "none")["steps_per_turn"] == 1.0


def test_a_judge_trained_on_steps_judges_steps(policy, store, tmp_path):
    """Without a word of the flags, as in evaluation and search."""
    delimiters = [list(ids) for ids in semicolon(load_tokenizer(str(policy)))]
    save_prm(
        start_from(str(policy), dtype="fp32"),
        load_tokenizer(str(policy)),
        tmp_path / "prm",
        Record(method="outcome_all", step_delimiter=delimiters),
    )
    found, about = run_label(
        store, tmp_path / "labels", "--label.name", "autopsv", "--label.options", json.dumps({"prm": str(tmp_path / "prm")})
    )
    assert about["steps_per_turn"] > 1 and max(len(targets) for targets, _ in found.values()) > 1


def test_bad_delimiters_are_refused(policy, store, tmp_path):
    cases = {
        "has the token 7777, but the tokenizer": ["--prm.step_delimiter", 5, 7777],
        "--prm.step_delimiter is '5;6'; wanted token ids divided by commas": ["--prm.step_delimiter", "5;6"],
        "0 or more is allowed": ["--prm.step_delimiter=-1"],
        "takes at least one value": ["--prm.step_delimiter"],
        "step_delimiter_text is empty": ["--prm.step_delimiter_text", ""],
        "has no token that ends with '\\\\n\\\\n'": ["--prm.step_delimiter_text", "\\n\\n"],
        "leave out the other delimiters": ["--prm.step_delimiter", "none", 5],
    }
    for told, flags in cases.items():
        with pytest.raises(UserError, match=told):
            flags = [*flags, "--label.name", "mc_soft", "--policy.model_name_or_path", policy]
            run_label(store, tmp_path / "none", *flags)
    with pytest.raises(UserError, match="no tokenizer could be loaded from 'slips'"):  # which is who played the episodes
        run_label(store, tmp_path / "none", "--label.name", "mc_visits", "--prm.step_delimiter_text", ";")
    assert not (tmp_path / "none").exists()


def test_labels_of_whole_responses_are_not_taken_for_those_of_steps(store, chat, tmp_path):
    run_label(store, tmp_path / "whole", "--label.name", "mc_visits")
    assert len(targets_in(str(tmp_path / "whole"), store)) == len(store)
    with pytest.raises(UserError, match="labels whole responses, but the store is read in steps that end with"):
        targets_in(str(tmp_path / "whole"), StepStore(store.path, semicolon(chat)))


@pytest.mark.host
def test_the_real_engine_goes_on_with_the_same_tokens(policy, chat, tmp_path):
    store = make_store(tmp_path / "store", policy, tasks=4, samples=2)
    flags = ["--label.name", "mc_soft", "--label.options", '{"samples": 2}', "--prm.step_delimiter_text", ";", "--env.num_workers", 4]
    module("label", "--data.dataset", store.path, "--label.output", tmp_path / "soft", "--policy.model_name_or_path", policy, *flags)
    about = json.loads((tmp_path / "soft" / "labels.json").read_text())
    states = {s.key: s for _, path in StoreStates.of(StepStore(store.path, semicolon(chat))).paths for s in path if s.turns}
    found = list(EpisodeStore(tmp_path / "soft" / "completions").episodes())
    assert len(found) == 2 * len(states) == about["cost"]["completions"] and about["steps_per_turn"] == 3.0
    for done in found:
        state = states[done.sampling["from"]]
        assert tuple(done.token_ids[: state.position]) == state.prefix.token_ids, "nothing is encoded again, nothing put in between"
        assert len(done.turns) <= 1 and all(t.action_end - t.action_start <= 40 and t.action_start < state.position for t in done.turns)
        assert all(logprob < 0 for logprob in done.logprobs[state.position :])
    assert sum(len(e.token_ids) - states[e.sampling["from"]].position for e in found) == about["cost"]["sampled_tokens"]
