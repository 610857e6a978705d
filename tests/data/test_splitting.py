"""Responses divided into steps: by hand, by properties, and back again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_agentprm.data.episode import Episode, Status, Turn, problems_of
from openrlhf_agentprm.data.step_store import StepStore
from openrlhf_agentprm.data.steps import in_steps, split_steps, whole_turns
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter

D = ((0,),)
ids = st.integers(0, 4)
responses = st.lists(ids, min_size=1, max_size=30)
ways = st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), min_size=0, max_size=3).map(lambda found: tuple(sorted(set(found))))


@pytest.mark.parametrize(
    ("tokens", "delimiters", "steps"),
    [
        ([5, 6, 7], D, [[5, 6, 7]]),  # none met
        ([5, 6, 7], (), [[5, 6, 7]]),
        ([5, 0, 6, 7], D, [[5, 0], [6, 7]]),  # it belongs to the step that it ends; the rest is a step
        ([5, 0, 6, 0], D, [[5, 0], [6, 0]]),  # at the very end it makes no further step
        ([5, 0, 0, 0, 6], D, [[5, 0, 0, 0], [6]]),  # several in a row make no empty step
        ([0, 0, 5, 0, 6], D, [[0, 0, 5, 0], [6]]),  # nor do those at the beginning
        ([0, 0], D, [[0, 0]]),
        ([5, 1, 0, 6, 0, 1, 7], ((1, 0),), [[5, 1, 0], [6, 0, 1, 7]]),  # a sequence, in its order
        ([5, 0, 0, 0, 6], ((0, 0),), [[5, 0, 0], [0, 6]]),  # of three the first two are it
        ([5, 0, 1, 6, 0, 7], ((0,), (0, 1)), [[5, 0, 1], [6, 0], [7]]),  # the longest of those that begin alike
        ([5, 0, 6, 1, 7], ((0,), (1,)), [[5, 0], [6, 1], [7]]),  # several ways
        ([5, 1], ((1, 0),), [[5, 1]]),  # cut within a delimiter
    ],
)
def test_by_hand(tokens, delimiters, steps):
    spans = split_steps([9, *tokens, 0], (1, 1 + len(tokens)), delimiters)  # what stands around it plays no part
    assert [[9, *tokens][a:b] for a, b in spans] == steps


@given(responses, ways)
def test_steps_are_the_response_and_hold_more_than_delimiters(tokens, delimiters):
    whole = [9, *tokens, 9]
    spans = split_steps(whole, (1, len(whole) - 1), delimiters)
    assert spans[0][0] == 1 and spans[-1][1] == len(whole) - 1
    assert all(a < b for a, b in spans) and all(one[1] == two[0] for one, two in zip(spans, spans[1:], strict=False))
    assert [span for own in spans for span in split_steps(whole, own, delimiters)] == spans, "a step is one step"
    if delimiters == D:
        assert len(spans) == 1 or all(any(whole[a:b]) for a, b in spans)
        assert all(whole[b - 1] == 0 and whole[b] != 0 for _, b in spans[:-1])


@given(responses, ways, st.integers(0, 30))
def test_what_is_written_later_moves_no_earlier_step(tokens, delimiters, cut):
    """So a state inside a response is the same in every response that begins so, which completions and search rely on."""
    spans = split_steps(tokens, (0, len(tokens)), delimiters)
    for _, end in spans[:-1]:
        longer = tokens[:end] + [9] + tokens[:cut]
        assert split_steps(longer, (0, len(longer)), delimiters)[: spans.index((_, end)) + 1] == spans[: spans.index((_, end)) + 1]


def episode(*responses):
    """A prompt of two tokens; two tokens of observation between responses."""
    tokens, turns = [9, 9], []
    for number, response in enumerate(responses):
        turns.append(Turn(f"o{number}", f"a{number}", len(tokens), len(tokens) + len(response), float(number + 1), number % 2 == 0))
        tokens += [*response, 9, 9]
    return Episode(
        env="e", task_id="t", split="train", seed=0, sample=0, policy="p", policy_digest="d", sampling={}, status=Status.SUCCESS,
        outcome=1.0, terminated=True, truncated=False, token_ids=tokens[:-2], turns=turns,
    )  # fmt: skip


def test_an_episode_in_steps():
    whole = episode([5, 0, 6, 0, 7], [8])
    found = in_steps(whole, D, lambda tokens: "".join(map(str, tokens)))
    assert found.turns == [
        Turn("o0", "50", 2, 4, 0.0, True),
        Turn("", "60", 4, 6, 0.0, True),
        Turn("", "7", 6, 7, 1.0, True),
        Turn("o1", "a1", 9, 10, 2.0, False),  # a response of one step is as it was
    ]
    assert replace(found, turns=whole.turns) == whole and problems_of(found) == []
    assert in_steps(found, D) == found and in_steps(whole, ()) == whole
    assert [t.action for t in in_steps(whole, D).turns] == ["", "", "", "a1"], "without a tokenizer nobody knows what a step says"


@given(st.lists(responses, min_size=1, max_size=4), ways)
def test_whole_turns_inverts_and_steps_are_idempotent(found, delimiters):
    whole = episode(*found)
    divided = in_steps(whole, delimiters)
    assert in_steps(divided, delimiters) == divided and problems_of(divided) == []
    again = whole_turns(divided.turns)
    texts = [t.action if t.action else was.action for t, was in zip(again, whole.turns, strict=True)]
    assert [replace(t, action=text) for t, text in zip(again, texts, strict=True)] == whole.turns


def test_a_store_in_steps(tmp_path):
    episodes = [episode([5, 0, 6], [7, 0, 8]), replace(episode([5, 6]), sample=1, episode_id="")]
    with EpisodeWriter(tmp_path / "store", shard_size=1) as writer:
        for e in episodes:
            writer.add(e)
    plain, store = EpisodeStore(tmp_path / "store"), StepStore(tmp_path / "store", D)
    by_id = {e.episode_id: e for e in store.episodes()}
    assert by_id == {e.episode_id: in_steps(e, D) for e in plain.episodes()} and len(by_id) == 2
    assert sorted(len(row["turns"]) for row in store.rows(["turns"])) == [1, 4]
    assert store.ids() == plain.ids() and list(store.rows(["outcome"])) == list(plain.rows(["outcome"]))
