"""Values from completions: numbers by hand, and plain loops beside the vectorised formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_agentprm.core.montecarlo import entropic_mean, hard_any, relative_progress, soft_mean

NAN = math.nan
OUTCOMES = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, NAN], [NAN, NAN, NAN, NAN], [1.0, NAN, NAN, NAN]], dtype=torch.float64)


def test_values_by_hand():
    soft, hard = soft_mean(OUTCOMES), hard_any(OUTCOMES)
    assert soft[[0, 1, 3]].tolist() == [0.5, 0.0, 1.0] and soft[2].isnan()
    assert hard[[0, 1, 3]].tolist() == [1.0, 0.0, 1.0] and hard[2].isnan()
    entropic = entropic_mean(OUTCOMES, 2.0)
    assert float(entropic[0]) == pytest.approx(math.log((2 * math.e**2 + 2) / 4) / 2)
    assert entropic[[1, 3]].tolist() == pytest.approx([0.0, 1.0]) and entropic[2].isnan()


def test_eta_goes_from_the_mean_to_the_highest():
    table = torch.tensor([[0.0, 0.25, 1.0]], dtype=torch.float64)
    values = [float(entropic_mean(table, eta)) for eta in (0.0, 1e-6, 1.0, 10.0, 1000.0, math.inf)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(values[1], abs=1e-6) and values[4] == pytest.approx(1.0, abs=2e-3) and values[5] == 1.0


def test_progress_is_relative_to_the_states_value():
    q = torch.tensor([0.8, 0.6, 0.0, 0.1, NAN])
    v = torch.tensor([1.0, 0.8, 0.6, 0.0, 0.1])
    assert relative_progress(q, v, 0.8)[:4].tolist() == [1.0, 0.0, 0.0, 1.0]  # 0.6 of 0.8 is 75 %; from nothing any gain is right
    assert relative_progress(q, v, 0.7)[1] == 1.0 and relative_progress(q, v, 0.8)[4].isnan()


rows = st.lists(st.one_of(st.floats(0, 1), st.just(NAN)), min_size=3, max_size=3)


@given(st.lists(rows, min_size=1, max_size=6), st.floats(0.01, 50))
def test_tables_give_what_loops_give(table, eta):
    tensor = torch.tensor(table, dtype=torch.float64)
    for row, soft, hard, entropic in zip(table, soft_mean(tensor), hard_any(tensor), entropic_mean(tensor, eta), strict=True):
        known = [r for r in row if not math.isnan(r)]
        if not known:
            assert soft.isnan() and hard.isnan() and entropic.isnan()
            continue
        assert float(soft) == pytest.approx(sum(known) / len(known)) and float(hard) == max(known)
        assert float(entropic) == pytest.approx(math.log(sum(math.exp(eta * r) for r in known) / len(known)) / eta, abs=1e-9)
