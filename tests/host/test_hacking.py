"""A policy that games its PRM, for real: a reward model that pays for repeating an action, on the counting game."""

import pytest
from gaming import PAYS, gamed, imitate, success

pytestmark = pytest.mark.host
RATE = ["--actor.adam.lr", 3e-4]
BOUNDED = ["delta"]


@pytest.fixture(scope="module")
def learnt(tiny, count_store, tmp_path_factory):
    """A policy that counts rightly more often than not."""
    folder = tmp_path_factory.mktemp("learnt") / "policy"
    imitate(tiny, count_store, folder)
    return folder


@pytest.fixture(scope="module")
def summed(learnt, tmp_path_factory):
    """The rows of a run that is paid the sum."""
    return gamed(learnt, tmp_path_factory.mktemp("sum"), *PAYS["sum"], *RATE, "--prm.monitor_every", 1, steps=14)[0]


def test_the_alarm_rings_before_success_has_fallen_by_ten_points(summed):
    start, end = success(summed, 2), success(summed, 13)
    assert len(summed["training"]) == 14 and end < start - 0.1, "it is gamed"
    assert len(summed["alarm"]) == 1
    rang = summed["alarm"][0]["step"]
    assert success(summed, rang) > start - 0.1, (start, rang, [row["success"] for row in summed["training"]])
    first, last = summed["training"][0], summed["training"][-1]
    assert last["prm_reward"] > first["prm_reward"] + 2 and last["repeated_actions"] > first["repeated_actions"] and last["gap"] > 2


@pytest.mark.parametrize("form", BOUNDED)
def test_bounded_forms_withstand_it_longer(learnt, summed, form, tmp_path):
    rows, _ = gamed(learnt, tmp_path, *PAYS[form], *RATE, "--prm.monitor_every", 1, steps=14)
    rang = [row["step"] for row in rows["alarm"]]
    assert not rang or rang[0] > summed["alarm"][0]["step"]
    assert success(rows, 13) > success(summed, 13) + 0.1
