"""States told apart by tokens."""

import numpy as np

from openrlhf_agentprm.data.states import anchor_keys

TOKENS = np.array([1, 1, 5, 6, 5, 7, 5, 9, 5])  # prompt | step 5 6 | step 5 | observation 7 | turn 5 | observation 9 | turn 5
SPANS = [(2, 4), (4, 5), (6, 7), (8, 9)]


def test_equal_observations_are_one_state_and_histories_another():
    first, _, seven, nine = anchor_keys(TOKENS, SPANS, whole=False)
    assert len({first, seven, nine}) == 3
    again = anchor_keys(np.array([1, 1, 8, 7, 5]), [(2, 3), (4, 5)], whole=False)
    assert again == [first, seven], "what was done before does not count"
    assert anchor_keys(np.array([1, 1, 8, 7, 5]), [(2, 3), (4, 5)], whole=True)[1] != anchor_keys(TOKENS, SPANS, whole=True)[2]


def test_steps_of_one_response_are_told_apart_by_what_it_has_written():
    steps = anchor_keys(TOKENS, SPANS, whole=False)
    other = anchor_keys(np.array([1, 1, 8, 8, 5]), [(2, 4), (4, 5)], whole=False)
    assert steps[0] == other[0] and steps[1] != other[1] and steps[1] != steps[0]
