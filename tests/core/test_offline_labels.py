"""The formulas of labels made beforehand: numbers by hand, and plain loops beside what is vectorised or clever."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_agentprm.core.bisection import Bounds, selection_score
from openrlhf_agentprm.core.montecarlo import shaped_values
from openrlhf_agentprm.core.preferences import pairs_by_margin
from openrlhf_agentprm.core.verdicts import agreement, relative_drop, wrong_from_the_first
from openrlhf_agentprm.core.visits import fewest_turns, weighted_values

NAN = math.nan


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def same(found, wanted):
    assert [NAN if math.isnan(x) else pytest.approx(x) for x in wanted] == pytest.approx(found, nan_ok=True)


scores = st.lists(st.one_of(st.floats(-1, 1), st.just(NAN)), min_size=1, max_size=8)


def test_a_verifiers_relative_drop_by_hand():
    # from 0.8 to 0.5 is −37.5 %, to 0.2 is −60 %, to 0.3 is +50 %; from 0 nothing can be lost, and only a rise is right
    assert relative_drop(doubles([0.5, 0.2, 0.3]), 0.8, -0.5).tolist() == [1.0, 0.0, 1.0]
    assert relative_drop(doubles([0.5, 0.2, 0.3]), 0.8, -0.3).tolist() == [0.0, 0.0, 1.0]
    assert relative_drop(doubles([0.0, 0.0, 0.1, -0.2, -0.3]), 0.4, -0.5).tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert relative_drop(doubles([0.5, 0.4]), NAN, -0.5)[0].isnan()
    assert wrong_from_the_first(doubles([1.0, 0.0, 1.0])).tolist() == [1.0, 0.0, 0.0]


@given(scores, st.one_of(st.floats(-1, 1), st.just(NAN)), st.floats(-1, 0))
def test_the_relative_drop_is_what_a_loop_gives(q, v_0, threshold):
    wanted, before = [], v_0
    for score in q:
        if math.isnan(score) or math.isnan(before):
            wanted.append(NAN)
        else:
            wanted.append(float(score - before > threshold * before if before > 0 else score > before))
        before = score
    same(relative_drop(doubles(q), v_0, threshold).tolist(), wanted)
    right, lost = [], False
    for verdict in wanted:
        lost = lost or verdict == 0
        right.append(0.0 if lost else verdict)
    same(wrong_from_the_first(doubles(wanted)).tolist(), right)


def test_agreement_by_hand():
    mc, judge = doubles([0.5, 0.25, 0.0, NAN, 0.0]), doubles([0.9, 0.4, 0.1, 0.1, 0.8])
    assert agreement(mc, judge, 0.0, 0.5).tolist() == [True, False, True, False, False]
    assert agreement(mc, judge, 0.3, 0.5).tolist() == [True, True, True, False, False]
    # above 0.3 the first wrong turn is the second for both; behind it nobody is asked
    assert agreement(mc, judge, 0.3, 0.5, whole=True).tolist() == [True, True, False, False, False]
    assert not agreement(mc, judge, 0.0, 0.5, whole=True).any()  # the third for one, the second for the other
    assert agreement(doubles([1.0, 1.0]), doubles([0.9, 0.9]), 0.0, 0.5, whole=True).all()


@given(st.lists(st.tuples(st.one_of(st.floats(0, 1), st.just(NAN)), st.one_of(st.floats(0, 1), st.just(NAN))), max_size=8), st.booleans())
def test_agreement_is_what_a_loop_gives(pairs, whole):
    known = [not (math.isnan(a) or math.isnan(b)) for a, b in pairs]
    wanted = [k and (a > 0.3) == (b > 0.5) for k, (a, b) in zip(known, pairs, strict=True)]
    if whole:
        first = next((t for t, (a, _) in enumerate(pairs) if known[t] and not a > 0.3), len(pairs))
        second = next((t for t, (_, b) in enumerate(pairs) if known[t] and not b > 0.5), len(pairs))
        wanted = [first == second and known[t] and t <= first for t in range(len(pairs))]
    one, other = (doubles([pair[i] for pair in pairs]) for i in (0, 1))
    assert agreement(one, other, 0.3, 0.5, whole=whole).tolist() == wanted


@given(st.integers(1, 40), st.data())
def test_the_fatal_turn_is_that_of_a_linear_search_and_costs_its_logarithm(turns, data):
    fatal = data.draw(st.integers(0, turns - 1))  # the last turn of a failed episode is fatal if no earlier one is
    values = [0.25 * (turn < fatal) for turn in range(turns)]
    bounds, asked = Bounds(0, turns - 1), []
    while not bounds.found:
        asked.append(bounds.probe)
        bounds = bounds.told(values[bounds.probe])
    assert bounds.high == bounds.low == next(turn for turn, value in enumerate(values) if value == 0)
    assert len(asked) <= math.ceil(math.log2(turns)) and turns - 1 not in asked


def test_which_failure_is_searched_first_by_hand():
    rule = {"alpha": 0.25, "beta": 0.5, "c_puct": 0.5, "scale": 100}
    assert selection_score(1.0, 100, 0, 0, **rule) == 0.5  # 0.25^0 · 0.5^1
    assert selection_score(0.5, 200, 1, 4, **rule) == 0.25 * 0.5 + 0.5 * 2 / 2
    assert selection_score(0.9, 50, 0, 4, **rule) > selection_score(0.1, 50, 0, 4, **rule)
    assert selection_score(0.5, 50, 0, 4, **rule) > selection_score(0.5, 500, 0, 4, **rule)
    assert selection_score(0.5, 50, 0, 4, **rule) > selection_score(0.5, 50, 3, 4, **rule)


def test_values_rise_along_the_way_to_success_by_hand():
    same(weighted_values([1.0] * 4, [4, 3, 2, 1], 5), [0.25, 0.5, 0.75, 1.0])
    # two steps of four taken; a wrong one there counts for 1/2 · 1/3 of the way, as the last right turn was three from the end
    same(weighted_values([1.0, 1.0, 0.0, 0.0], [4, 3, 0, 0], 5), [0.25, 0.5, 1 / 3, 1 / 9])
    same(weighted_values([0.0, 0.75], [0, 2], 3), [0.0, 0.25])  # never below 0; half sure of being right, half of the way to go
    same(weighted_values([NAN, 1.0], [2, 1], 3), [NAN, NAN])
    same(weighted_values([1.0], [1], 0), [NAN])
    left, won, groups = torch.tensor([3, 2, 5, 1]), torch.tensor([True, True, False, False]), torch.tensor([0, 0, 0, 1])
    assert fewest_turns(left, won, groups, 3).tolist() == [2, 0, 0]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 6)), min_size=1, max_size=8), st.integers(1, 9))
def test_values_stay_in_the_unit_interval(turns, start):
    found = weighted_values([mc for mc, _ in turns], [m for _, m in turns], start)
    assert all(0 <= value <= 1 for value in found)


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(0, 3)), max_size=12))
def test_distances_are_what_a_loop_gives(visits):
    left, won, groups = (torch.tensor([v[i] for v in visits], dtype=kind) for i, kind in enumerate((torch.int64, torch.bool, torch.int64)))
    wanted = [min((m for m, w, g in visits if w and g == group), default=0) for group in range(4)]
    assert fewest_turns(left, won, groups, 4).tolist() == wanted


def test_a_shaped_value_by_hand():
    q, own, before = doubles([0.5, 1.0]), doubles([0.25, 1.0]), doubles([0.75, 0.25])
    assert shaped_values(q, own, before, 0.5).tolist() == [0.0, 0.875]  # 0.25 − 0.25, 0.5 + 0.375
    assert torch.equal(shaped_values(q, own, before, 0.0), q) and torch.equal(shaped_values(q, own, before, 1.0), own - before)


@given(st.lists(st.tuples(st.one_of(st.floats(0, 1), st.just(NAN)), st.integers(0, 4)), max_size=14), st.floats(0, 0.5))
def test_pairs_are_those_of_a_loop_over_all_twos(items, margin):
    values, states = doubles([v for v, _ in items]), torch.tensor([s for _, s in items], dtype=torch.int64)
    wanted = set()
    for (i, (a, s)), (j, (b, t)) in combinations(enumerate(items), 2):
        if s == t and abs(a - b) > margin:
            wanted.add((i, j) if a > b else (j, i))
    chosen, rejected = pairs_by_margin(values, states, margin)
    assert len(chosen) == len(wanted) and set(zip(chosen.tolist(), rejected.tolist(), strict=True)) == wanted
