"""Positions of turns among tokens, in our counting and in the host's."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_agentprm.data.layout import loss_mask, spans_from_turn_numbers, turn_numbers, turn_positions

gaps_and_lengths = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=8)


def spans_of(pairs):
    spans, at = [], 1
    for gap, length in pairs:
        spans.append((at + gap, at + gap + length))
        at += gap + length
    return spans, at


@given(gaps_and_lengths)
def test_turn_numbers_invert_even_without_an_observation_between(pairs):
    spans, length = spans_of(pairs)
    assert spans_from_turn_numbers(turn_numbers(spans, length)[None]) == [spans]


@given(gaps_and_lengths)
def test_masks_agree_with_the_hosts(pairs):
    spans, length = spans_of(pairs)
    hosts = torch.zeros(length)
    for start, end in spans:
        hosts[start:end] = 1  # the host marks action tokens, then drops the first entry
    assert torch.equal(hosts[1:] > 0, turn_numbers(spans, length) > 0)
    assert torch.equal(loss_mask(spans, length)[:-1] > 0, turn_numbers(spans, length) > 0)


def test_positions():
    p = turn_positions([[(2, 4), (7, 8)], [(1, 3)], []])
    assert p.q_BK.tolist() == [[3, 7], [2, 0], [0, 0]] and p.v_BK.tolist() == [[1, 6], [0, 0], [0, 0]]
    assert p.mask_BK.tolist() == [[True, True], [True, False], [False, False]]
