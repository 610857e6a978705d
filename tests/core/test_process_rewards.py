"""What keeps process rewards in bounds; running statistics; and that a potential changes no policy while other rewards do."""

import itertools

import pytest
import torch
from two_episodes import NAN, batch

from openrlhf_agentprm.core.process_rewards import Shaping, against_references, of_scores, potential, returns_to_go, running_moments

P = torch.tensor([[0.1, 0.5], [-0.3, NAN]])


def test_running_moments_are_those_of_all_values_so_far():
    running = {}
    values = torch.randn(1000, dtype=torch.float64) * 3 + 2
    for part in values.split([1, 7, 400, 592]):
        mean, std = running_moments(part, running)
    assert mean == pytest.approx(float(values.mean())) and std == pytest.approx(float(values.std(unbiased=False)))
    assert running_moments(torch.tensor([]), running) == (mean, std), "nothing new"
    assert running_moments(torch.tensor([2.0, 2.0]), None) == (2.0, 1.0), "what does not vary is not divided"


def test_scaling_and_clipping_by_hand():
    known = {"process": torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64)}  # one value of 0.4 before
    # over 0.4, 0.1, 0.5, −0.3: mean 0.175, variance 0.096875
    scaled = Shaping(scaling="scale")(P, batch(running=known))
    torch.testing.assert_close(scaled, torch.tensor([[0.1, 0.5], [-0.3, 0.0]]) / 0.096875**0.5)
    standard = Shaping(scaling="standard", process_clip=1.0)(P, batch())
    # over 0.1, 0.5, −0.3: mean 0.1, variance 0.32 / 3
    torch.testing.assert_close(standard, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    assert Shaping()(P, batch()).tolist() == [[pytest.approx(0.1), 0.5], [pytest.approx(-0.3), 0.0]]


def test_par_is_a_mean_of_preferences_over_the_other_samples():
    mask_BK = torch.tensor([[True, True], [True, False], [True, False], [False, False]])
    p_BK = torch.tensor([[0.1, 0.5], [-0.3, NAN], [0.7, NAN], [NAN, NAN]])
    found = against_references(p_BK, mask_BK, torch.tensor([0, 0, 0, 0]))
    sigmoid = lambda x: float(torch.tensor(x).sigmoid())  # noqa: E731
    assert found[0, 0] == pytest.approx((sigmoid(0.1 + 0.3) + sigmoid(0.1 - 0.7)) / 2)
    assert found[1, 0] == pytest.approx((sigmoid(-0.3 - 0.3) + sigmoid(-0.3 - 0.7)) / 2), "the first one's mean is 0.3"
    assert not found[3].any()
    alone = against_references(p_BK[:1], mask_BK[:1], torch.tensor([0]))
    assert alone[0].tolist() == pytest.approx([sigmoid(-0.2), sigmoid(0.2)]), "beside its own mean"
    everything = Shaping(bound="par")(1e3 * torch.randn(4, 2), batch(mask_BK=mask_BK, group_B=torch.zeros(4, dtype=torch.long)))
    assert float(everything.min()) >= 0 and float(everything.max()) <= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bound": "pra"}, "bound is 'pra'"),
        ({"scaling": "std"}, "scaling is 'std'; wanted one of none, scale, standard"),
        ({"process_clip": 0.0}, "process_clip is 0.0; wanted a number above 0"),
    ],
)
def test_wrong_bounds_are_named(options, told):
    with pytest.raises(ValueError, match=told):
        Shaping(**options)


# A deterministic walk over states 0…3 in at most 4 turns: act 0 stays, act 1 goes on; to stand at 3 ends it and pays 1.
GAMMA, LIMIT = 0.9, 4


def play(actions):
    states, rewards = [0], []
    for action in actions:
        states.append(states[-1] + action)
        rewards.append(float(states[-1] == 3))
        if states[-1] == 3:
            break
    return states, rewards


def returns_of_all(shape):
    """{actions that were taken: discounted return with shaped rewards} for every way to act."""
    found = {}
    for actions in itertools.product((0, 1), repeat=LIMIT):
        states, rewards = play(actions)
        r_BK = torch.tensor([rewards]) + shape(states, len(rewards))
        found[actions[: len(rewards)]] = float(returns_to_go(r_BK, torch.ones_like(r_BK, dtype=torch.bool), GAMMA)[0, 0])
    return found


def test_a_potential_changes_no_policy_and_a_dense_promise_does():
    value_of = torch.tensor([0.9, 0.1, 0.95, 0.3])  # a PRM that knows nothing, and likes to stay
    plain = returns_of_all(lambda states, turns: torch.zeros(1, turns))
    mask = lambda turns: torch.ones(1, turns, dtype=torch.bool)  # noqa: E731
    shaped = returns_of_all(lambda states, turns: potential(value_of[states[:turns]][None], mask(turns), gamma=GAMMA))
    for actions, value in plain.items():
        assert shaped[actions] == pytest.approx(value - 0.9, abs=1e-6), "−Φ(s_0) whatever is done"
    dense = returns_of_all(lambda states, turns: value_of[states[1 : turns + 1]][None])
    best = {name: max(table, key=table.get) for name, table in (("plain", plain), ("shaped", shaped), ("dense", dense))}
    assert best["plain"] == best["shaped"] == (1, 1, 1) and best["dense"] != (1, 1, 1)


def test_the_optimal_policy_of_a_stochastic_walk_is_kept_by_a_potential():
    """Acts slip with probability 0.3; every deterministic policy of (state, turn) is valued exactly."""
    value_of = [0.2, 0.9, 0.4, 0.0]

    def worth(policy, shaped, state=0, turn=0):
        if turn == LIMIT or state == 3:
            return 0.0
        total = 0.0
        for moved, chance in ((policy[state], 0.7), (1 - policy[state], 0.3)):
            following = state + moved
            reward, over = float(following == 3), following == 3 or turn + 1 == LIMIT
            if shaped:
                v_BK = torch.tensor([[value_of[state], value_of[following]]])
                pair = torch.tensor([[True, not over]])
                reward += float(potential(v_BK, pair, gamma=GAMMA)[0, 0])
            total += chance * (reward + GAMMA * worth(policy, shaped, following, turn + 1))
        return total

    table = {policy: (worth(policy, False), worth(policy, True)) for policy in itertools.product((0, 1), repeat=3)}
    assert max(table, key=lambda policy: table[policy][0]) == (1, 1, 1) == max(table, key=lambda policy: table[policy][1])
    assert all(shaped == pytest.approx(plain - value_of[0], abs=1e-6) for plain, shaped in table.values())


def test_scores_of_other_kinds_are_named():
    with pytest.raises(ValueError, match="process_reward is 'advantage'; wanted one of none, promise"):
        of_scores(batch(), "advantage")
    with pytest.raises(ValueError, match="q_BK is None"):
        of_scores(batch(q_BK=None), "promise")
