"""Thoughts written afterwards: what is asked, what an episode becomes, and a store of them by the real engine."""

import json
import re
from dataclasses import replace

import pytest
from launching import here, module

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.agents.parsing import react
from openrlhf_agentprm.data.episode import Status, problems_of
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.rollout.engine import Sampling
from openrlhf_agentprm.rollout.rationalise import TEMPLATE, Writer, _unfit, clean
from openrlhf_agentprm.rollout.retell import retell

QUESTION = "$history see: $observation do: $action why?"


@pytest.fixture(scope="module")
def episodes(count_store):
    return sorted(EpisodeStore(count_store).episodes(), key=lambda e: e.task_id)


@pytest.fixture(scope="module")
def writer(bpe_policy):
    tokenizer = load_tokenizer(str(bpe_policy))
    return Writer(ChatFormat(tokenizer), ChatFormat(tokenizer, action_format="react"), str.strip, Sampling(), QUESTION, 8, 256)


def test_an_episode_told_in_its_own_words_is_itself(episodes, tiny):
    chat = ChatFormat(load_tokenizer(str(tiny)))
    assert {e.status for e in episodes} >= {Status.SUCCESS, Status.FAILURE} and max(len(e.turns) for e in episodes) > 2
    for episode in episodes:
        again = retell(episode, episode.sampling, chat, 128, [turn.action for turn in episode.turns])
        assert replace(again, logprobs=episode.logprobs) == episode and again.logprobs == []
    longest = max(episodes, key=lambda e: len(e.token_ids))
    for room in (len(longest.token_ids) - 1, longest.turns[-1].action_start):
        told = retell(longest, longest.sampling, chat, room, [turn.action for turn in longest.turns])
        assert told.status is Status.CONTEXT_OVERFLOW


def test_the_question_shows_the_action_and_as_many_turns_as_fit(episodes, writer):
    episode = max(episodes, key=lambda e: len(e.turns))
    last = len(episode.turns) - 1
    text = writer.chat.tokenizer.decode(writer.question(episode, last))
    assert text.count("You saw:") == last and f"do: {episode.turns[last].action} why?" in text
    short = replace(writer, max_len=len(writer.question(episode, last)) + writer.max_tokens - 1)
    assert writer.chat.tokenizer.decode(short.question(episode, last)).count("You saw:") == last - 1, "the oldest one has no room"
    assert replace(writer, max_len=12).question(episode, last) is None
    assert all(f"${name}" in TEMPLATE for name in ("instruction", "history", "observation", "action"))


def test_a_thought_is_one_line_without_the_words_of_the_format():
    assert clean("Thought: it is\n\n shut.\nAction: open") == "it is shut." and clean("\n") == "" and clean("Action: x") == ""


def test_actions_that_could_not_be_read_back_are_left_out(episodes, writer, tiny):
    assert _unfit(episodes[0], writer) is None
    lines = replace(episodes[0], turns=[replace(episodes[0].turns[0], action="one\ntwo"), *episodes[0].turns[1:]])
    assert "cannot be written" in _unfit(lines, writer) and _unfit(replace(episodes[0], turns=[]), writer) == "no action"
    no_words = ChatFormat(load_tokenizer(str(tiny)), action_format="react")  # its vocabulary has no "Action:"
    assert "cannot be written" in _unfit(episodes[0], replace(writer, told=no_words))


@pytest.mark.host
def test_a_store_is_told_again_by_the_real_engine_and_resumes(count_store, bpe_policy, episodes, tmp_path):
    (tmp_path / "question").write_text(QUESTION)

    def told(output, *more, by=here):
        return by(
            "rationalise", "--data.dataset", count_store, "--policy.model_name_or_path", bpe_policy, "--data.max_len", 512,
            "--rationalise.output", tmp_path / output, "--rationalise.template_file", tmp_path / "question", "--rationalise.max_tokens", 8, *more,
        )  # fmt: skip

    told("a", by=module)
    won = {e.task_id: e for e in episodes if e.outcome == 1.0}
    found = {e.task_id: e for e in EpisodeStore(tmp_path / "a").episodes()}
    assert found.keys() == won.keys() and len(won) > 20
    thoughts = []
    for task, new in found.items():
        old = won[task]
        assert problems_of(new) == [] and new.episode_id != old.episode_id and new.sampling["rationalised"]["max_tokens"] == 8
        assert (new.status, new.outcome, new.final_observation) == (old.status, old.outcome, old.final_observation)
        for a, b in zip(old.turns, new.turns, strict=True):
            assert react(b.action) == a.action and (b.observation, b.reward) == (a.observation, a.reward)
            thoughts += re.findall("Thought: (.*)\n", b.action)
    about = json.loads((tmp_path / "a/.rationalise.json").read_text())
    assert about["kept"] == len(won) and about["thoughts"] == len(thoughts) > 20 and len(set(thoughts)) > 10
    assert "0 episodes told again" in told("a").stdout and len(EpisodeStore(tmp_path / "a")) == len(won)
    assert told("a", "--rationalise.template_file", tmp_path / "none").returncode == 2
    assert "lower --data.min_outcome" in told("b", "--data.min_outcome", 2).stderr
