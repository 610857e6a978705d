"""The alarm's rule: its parts by hand, and how often it rings where it should and should not."""

import math
import random

import pytest

from openrlhf_agentprm.core.alarm import KEEPS_UP, LEAST, Point, Rule, gap, judge, origin_of, rise, success_variance


def series(rewards, successes, episodes=100, spread=1.0):
    return [Point(t + 1, episodes, x, spread, y) for t, (x, y) in enumerate(zip(rewards, successes, strict=True))]


def verdict(points, rule=None):
    return judge(points, origin_of(points[0]), rule or Rule())


def test_a_line_and_its_error_by_hand():
    # Σ (t − t̄)² = 5; b = (−1.5·0 − 0.5·1 + 0.5·2 + 1.5·3)/5 = 1
    found, error = rise([1, 2, 3, 4], [0.0, 1.0, 2.0, 3.0], [0.2] * 4)
    assert found == pytest.approx(3.0) and error == pytest.approx(3 * math.sqrt(0.2 / 5))
    # residuals of 0, 2, 0, 2 around 0.4 + 0.4·(0 … 3): −0.4, 1.2, −1.2, 0.4; Σ e² = 3.2; Var b = 3.2/(2·5)
    found, error = rise([1, 2, 3, 4], [0.0, 2.0, 0.0, 2.0], [1e-9] * 4)
    assert found == pytest.approx(1.2) and error == pytest.approx(3 * math.sqrt(0.32))
    # uneven steps: t̄ = 10, centred −10, 0, 10 … of steps 0, 10, 20
    assert rise([0, 10, 20], [0.0, 0.1, 0.4], [0.0] * 3)[0] == pytest.approx(0.4)


def test_no_success_at_all_is_not_certain():
    assert success_variance(0.0, 12) == pytest.approx((2 / 16) * (14 / 16) / 16)
    assert success_variance(0.5, 96) == pytest.approx(0.25 / 100)
    assert success_variance(0.5, 10**6) == pytest.approx(0.25e-6, rel=1e-4)


def test_the_gap_is_told_in_spreads():
    first = Point(1, 96, 2.0, 0.5, 0.5)
    origin = origin_of(first)
    assert origin.success_spread == pytest.approx(0.5)
    assert gap(first, origin) == 0
    assert gap(Point(5, 96, 3.0, 9.0, 0.4), origin) == pytest.approx(2.0 + 0.2)
    flat = Point(1, 96, 2.0, 0.0, 0.5)
    assert origin_of(flat).spread == 1.0 and origin_of(flat, first).spread == 0.5


def test_a_rule_by_hand():
    found = verdict(series([0.0, 0.5, 1.0, 1.5], [0.6, 0.5, 0.4, 0.3], episodes=96))
    assert found.reward_rise == pytest.approx(1.5) and found.success_rise == pytest.approx(-0.3)
    sigma = math.sqrt((0.6 * 96 + 2) / 100 * (1 - (0.6 * 96 + 2) / 100))
    assert found.gap_slope == pytest.approx((1.5 + 0.3 / sigma) / 3)
    e_r = 3 * math.sqrt(1 / 96 / 5)
    variances = [success_variance(y, 96) for y in (0.6, 0.5, 0.4, 0.3)]
    e_s = 3 * math.sqrt(sum(c * c * v for c, v in zip((-1.5, -0.5, 0.5, 1.5), variances, strict=True))) / 5
    missing = (KEEPS_UP * 1.5 + 0.3 / sigma) / math.hypot(KEEPS_UP * e_r, e_s / sigma)
    assert found.evidence == pytest.approx(min(1.5 / e_r, missing)) and found.rings


@pytest.mark.parametrize(
    ("rewards", "successes", "episodes", "rings"),
    [
        ([0, 1, 2, 3], [0.6, 0.6, 0.6, 0.6], 200, True),
        ([0, 1, 2, 3], [0.6, 0.6, 0.6, 0.6], 4, False),  # four episodes a batch would not have told a rise
        ([0, 1, 2, 3], [0.3, 0.4, 0.5, 0.6], 200, False),  # it learns
        ([3, 2, 1, 0], [0.6, 0.5, 0.4, 0.3], 200, False),  # both fall: no game, but not well either
        ([0, 0.03, 0.06, 0.09], [0.6, 0.5, 0.4, 0.3], 10**6, False),  # certain, and less than a tenth of a spread
        ([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0], 10**4, True),  # success cannot rise, so this is paid for something else
        ([0, 1, 2, 3], [0.5, 0.55, 0.5, 0.55], 200, True),  # as good as not at all
        ([0, 10, 20, 30], [0.5, 0.55, 0.6, 0.65], 1000, False),  # success surely rises, however little beside the reward
        ([0, 1, 2], [0.6, 0.5, 0.4], 10**6, False),  # too few points
    ],
)
def test_when_it_rings(rewards, successes, episodes, rings):
    found = verdict(series(rewards, successes, episodes))
    assert (found is not None and found.rings) is rings and (found is None) is (len(rewards) < LEAST)


def test_only_the_window_counts_and_spreads_do_not_change_it():
    early = series([0.0, 1.0, 2.0, 3.0] + [3.0] * 12, [0.6] * 16)
    assert verdict(early[:4]).rings and not verdict(early).rings
    scaled = [Point(p.step, p.episodes, 50 * p.reward + 7, 50 * p.spread, p.success) for p in early[:4]]
    assert verdict(scaled).reward_rise == pytest.approx(verdict(early[:4]).reward_rise) and verdict(scaled).rings


def test_half_of_the_window_tells_of_what_begins_suddenly():
    """It learns for six steps, and then games: over all twelve success has risen."""
    points = series([0.0] * 6 + [0.3 * t for t in range(1, 7)], [0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.75, 0.73, 0.7, 0.67, 0.64, 0.6])
    whole, half = judge(points, origin_of(points[0]), Rule(window=24)), verdict(points)
    assert whole.success_rise > 0.1 and not whole.rings
    assert half.rings and half.success_rise < -0.1 and half.reward_rise == pytest.approx(1.5)


def played(seed, steps, episodes, reward, success):
    """A run of batches whose means are drawn as those of so many episodes, and the step at which it rings."""
    draw = random.Random(seed)
    points = []
    for t in range(1, steps + 1):
        wins = sum(draw.random() < success(t) for _ in range(episodes))
        points.append(Point(t, episodes, draw.gauss(reward(t), 1 / math.sqrt(episodes)), 1.0, wins / episodes))
        found = verdict(points)
        if found is not None and found.rings:
            return t
    return None


def test_it_is_seldom_wrong_and_in_time():
    """Thirty runs each: a plateau of 100 steps, one that learns, one whose PRM is pleased as success falls by 2 points a step."""
    runs = {
        "plateau": [played(s, 100, 64, lambda t: 0.0, lambda t: 0.6) for s in range(30)],
        "learns": [played(s, 60, 64, lambda t: 0.05 * t, lambda t: min(0.9, 0.3 + 0.01 * t)) for s in range(30)],
        "games": [played(s, 40, 128, lambda t: 0.3 * t, lambda t: max(0.1, 0.6 - 0.02 * t)) for s in range(30)],
    }
    assert sum(step is not None for step in runs["plateau"]) <= 1
    assert sum(step is not None for step in runs["learns"]) <= 2
    assert all(step is not None for step in runs["games"])
    assert sorted(runs["games"])[15] <= 5, "the median: before success has lost 10 points"
