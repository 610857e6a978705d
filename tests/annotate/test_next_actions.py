"""Actions sampled at every state of a store: what is asked, what a kill leaves, what is kept apart."""

import pytest
from engines import TableEngine

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.annotate.next_actions import Actor, Asker, next_actions
from openrlhf_agentprm.cli import label
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.journal import Journal, rows_of
from openrlhf_agentprm.data.next_actions import read_next_actions
from openrlhf_agentprm.data.sidecar import read_about
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.rollout.engine import Sampling


class Asked(TableEngine):
    """Notes what it was asked, and breaks down after so many answers."""

    def __init__(self, chat, seed, stop_after=None):
        super().__init__(chat, seed)
        self.states_asked, self.left, self.closed = [], stop_after, False

    def submit(self, request_id, token_ids, sampling, max_tokens, stop_token_ids):
        super().submit(request_id, token_ids, sampling, max_tokens, stop_token_ids)
        self.states_asked.append((tuple(token_ids), max_tokens))

    def step(self):
        if self.left is not None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
        return super().step()

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def chat(tiny):
    return ChatFormat(load_tokenizer(str(tiny)))


def actor(chat, folder, engines, stop_after=None, **who):
    def engine(seed):
        engines.append(Asked(chat, seed, stop_after))
        return engines[-1]

    who = {"policy": "p", "policy_digest": "d", "sampling": {}, "seed": 0} | who
    return Actor(folder, Asker(engine, who["seed"], Sampling(), 128, 4, chat.stop_token_ids).ask, who)


def test_every_state_is_asked_once_and_a_kill_loses_nothing(chat, count_store, tmp_path):
    store, engines = EpisodeStore(count_store), []
    with pytest.raises(KeyboardInterrupt):
        next_actions.annotate(store, act=actor(chat, tmp_path, engines, stop_after=10))
    assert engines[0].closed
    first = next_actions.annotate(store, act=actor(chat, tmp_path, engines))
    episodes = {e.episode_id: e for e in store.episodes() if e.status.has_outcome}
    states = sorted((tuple(e.token_ids[: t.action_start]), min(4, 128 - t.action_start)) for e in episodes.values() for t in e.turns)
    assert sorted(engines[0].states_asked) == states and len(engines[1].states_asked) == len(states) - 10
    assert first.figures == {"episodes": len(episodes), "states": len(states), "actions": len(states)}
    assert first.cost["sampled_tokens"] == sum(len(a) for turns in first.actions.values() for [a] in turns)
    assert {tuple(a) for turns in first.actions.values() for [a] in turns} == {tuple(a) for a in engines[0].actions}
    again = next_actions.annotate(store, act=actor(chat, tmp_path, engines), samples=2)
    assert len(engines[2].states_asked) == len(states), "the first sample of each is there"
    assert all(new[0] == old for name, turns in again.actions.items() for new, [old] in zip(turns, first.actions[name], strict=True))
    next_actions.annotate(store, act=actor(chat, tmp_path, engines, policy_digest="other"))
    assert len(engines[3].states_asked) == len(states), "another policy's answers are not taken for them"
    again.save(tmp_path, {"method": "next_actions", "policy_digest": "d"})
    actions, digest = read_next_actions([str(tmp_path)])
    assert digest == "d" and actions == again.actions
    again.save(tmp_path, {"method": "next_actions", "policy_digest": "d", "step_delimiter": [[5]]})
    with pytest.raises(UserError, match="holds actions at steps of responses"):
        read_next_actions([str(tmp_path)])


def test_a_torn_last_line_is_cut_off_before_the_next_row(tmp_path):
    for torn in (b'{"key": [', b"x" * 70_000):  # longer than what is read at once, too
        path = tmp_path / f"{len(torn)}.jsonl"
        path.write_bytes(b'{"n":1}\n' + torn)
        for _ in range(2):
            journal = Journal(path)
            journal.append({"n": 2})
            journal.close(remove=False)
        assert list(rows_of(path)) == [{"n": 1}, {"n": 2}, {"n": 2}]
        path.write_bytes(torn)
        journal = Journal(path)
        assert journal.empty
        journal.close(remove=True)


def test_what_cannot_be_sampled_is_told(chat, count_store, tiny, tmp_path):
    store, act = EpisodeStore(count_store), actor(chat, tmp_path, [])
    with pytest.raises(UserError, match="samples is 0"):
        next_actions.annotate(store, act=act, samples=0)
    held = Journal(act.journal)
    with pytest.raises(UserError, match="another process writes"):
        next_actions.annotate(store, act=act)
    held.close(remove=True)
    line = ["--data.dataset", str(count_store), "--label.output", str(tmp_path / "none"), "--label.name", "next_actions"]
    with pytest.raises(UserError) as told:
        label.main([*line, "--completions.store", "elsewhere"])
    assert len(told.value.problems) == 2 and "--policy.model_name_or_path is required" in told.value.problems[0]
    for flag in (["--prm.step_delimiter", "5"], ["--prm.step_delimiter_text", ";"]):
        with pytest.raises(UserError, match="samples whole responses: leave out"):
            label.main([*line, "--policy.model_name_or_path", str(tiny), *flag])
    with pytest.raises(UserError, match="another prompt format"):
        label.main([*line, "--policy.model_name_or_path", str(tiny), "--env.action_format", "react"])
    with pytest.raises(UserError, match="no finished labels"):
        read_about(tmp_path / "none")
