"""The figures that tell whether a policy games its PRM, worked by hand."""

import math

import pytest
import torch

from openrlhf_agentprm.core import monitors
from openrlhf_agentprm.core.batches import ProcessScores

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_ks_distance_by_hand():
    x, y = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.25, 0.35, 0.45, 0.55])
    # behind 0.2: 2/4 against 0; behind 0.3: 3/4 against 1/4; behind 0.4: 1 against 2/4
    assert monitors.ks_distance(x, y) == pytest.approx(0.5)
    assert monitors.ks_distance(x, x.flip(0)) == 0 and monitors.ks_distance(x, x + 1) == 1
    atoms = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert monitors.ks_distance(atoms, torch.tensor([0.0, 1.0])) == pytest.approx(0.25), "equal values count together"
    assert math.isnan(monitors.ks_distance(x, x[:0]))


def test_ks_distance_is_the_largest_of_all_differences():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(37, generator=generator), (2 * torch.randn(90, generator=generator)).round(decimals=1)
    largest = max(abs(float((x <= u).float().mean() - (y <= u).float().mean())) for u in torch.cat([x, y]))
    assert monitors.ks_distance(x, y) == pytest.approx(largest)


def test_quantile_points_stand_for_the_sample():
    sample = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    points = monitors.quantile_points(sample)
    assert len(points) == monitors.POINTS and points == sorted(points)
    assert monitors.score_drift(sample, points) <= 0.5 / monitors.POINTS + 0.001
    assert monitors.score_drift(sample + 1.0, points) == pytest.approx(0.38, abs=0.03), "2 Φ(½) − 1"
    assert monitors.quantile_points(torch.tensor([0.0, 0.0, 0.0, 1.0]), 4) == [0.0, 0.0, 0.0, 1.0]
    assert monitors.quantile_points(torch.tensor([3.0]), 3) == [3.0] * 3


def test_actions_are_equal_where_their_tokens_are():
    # one episode: (5 6) (6 5) (5 6), the second and the third with nothing between them; another: (5) (5 5) (5)
    tokens = torch.tensor([[9, 5, 6, 9, 6, 5, 5, 6], [5, 9, 5, 5, 9, 9, 5, 9]])
    turns = torch.tensor([[-1, 0, 0, -1, 1, 1, 2, 2], [0, -1, 1, 1, -1, -1, 2, -1]])
    keys = monitors.action_keys(tokens, turns, 3)
    assert keys[0, 0] == keys[0, 2] != keys[0, 1] and keys[1, 0] == keys[1, 2] != keys[1, 1]
    assert keys[0, 0] == 6 + 7 * 1_000_003
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(monitors.repeated_share(keys, mask), torch.tensor([1 / 3, 1 / 3], dtype=torch.float64))
    longer = torch.nn.functional.pad(turns, (0, 200), value=-1), torch.nn.functional.pad(tokens, (0, 200), value=7)
    assert torch.equal(monitors.action_keys(longer[1], longer[0], 3), keys), "padding changes nothing"
    assert monitors.action_keys(tokens, torch.full_like(turns, -1), 1).tolist() == [[0], [0]]


def test_what_is_masked_is_no_action():
    keys = torch.tensor([[4, 4, 4], [4, 4, 4]])
    assert monitors.repeated_share(keys, MASK).tolist() == pytest.approx([2 / 3, 0.0])


def test_sums_over_turns():
    x = torch.tensor([[0.1, 0.2, 0.3], [0.4, math.nan, math.nan]])
    assert monitors.episode_sums(x, MASK).tolist() == pytest.approx([0.6, 0.4])
    none = torch.zeros(1, 3, dtype=torch.bool)
    assert monitors.episode_sums(x[1:], none).tolist() == [0.0]


def test_the_figures_of_a_batch_by_hand():
    paid = torch.tensor([[0.5, 0.25, 0.25], [0.5, math.nan, math.nan]])
    keys = torch.tensor([[7, 7, 8], [7, 0, 0]])
    found = monitors.batch_figures(paid, MASK, torch.tensor([1.0, 0.0]), keys, 8)
    assert found == pytest.approx(
        {
            "episodes": 2, "success": 0.5, "prm_reward": 0.75, "prm_reward_std": 0.25, "correlation": 1.0, "turns": 2.0, "turns_std": 1.0,
            "repeated_actions": 1 / 6, "action_tokens": 2.0,
        }
    )  # fmt: skip
    assert monitors.drift(4.0, found, "turns") == 2.0
    alike = monitors.batch_figures(paid[1:], MASK[1:], torch.tensor([1.0]), keys[1:], 1)
    assert "correlation" not in alike and monitors.drift(4.0, alike, "turns") == 3.0, "where nothing varied, in turns"


def test_an_ensembles_members_disagree():
    from openrlhf_agentprm.prm.kinds.ensemble import EnsemblePRM

    class Fixed:
        def __init__(self, q):
            self.q = q

        def score(self, batch):
            return ProcessScores(torch.tensor([self.q]), torch.zeros(1, 2))

    scores = EnsemblePRM([Fixed([0.2, 0.5]), Fixed([0.6, 0.5])]).score(None)
    torch.testing.assert_close(scores.disagreement_BK, torch.tensor([[0.2, 0.0]]))
    torch.testing.assert_close(scores.q_BK, torch.tensor([[0.4, 0.5]]))
