"""Every estimator beside turn_gae, token_gae and progress, with numbers worked by hand on the two episodes of `two_episodes`."""

import pytest
import torch
from two_episodes import NAN, advantages, batch, of_tokens, tokens

from openrlhf_agentprm.core.batches import TurnBatch
from openrlhf_agentprm.core.estimators.gae import bi_level, turn_gae
from openrlhf_agentprm.core.estimators.outcome import implicit, outcome
from openrlhf_agentprm.core.estimators.returns import clip, clip_delta, delta, min_form, potential, promise, spa
from openrlhf_agentprm.core.estimators.turns import gigpo, pav, progress

near = pytest.approx


def test_promise_is_added_up_less_the_mean_of_the_other_samples_turns():
    # G = 0.6 + 0.9, 0.9, mean 1.2; the other's 0.2
    assert advantages(promise(batch(), whiten="none")) == near((1.3, 0.7, -1.0), abs=1e-6)
    # with the outcome, ±1 by leave-one-out
    assert advantages(promise(batch(), whiten="none", outcome_weight=1.0)) == near((2.3, 1.7, -2.0), abs=1e-6)
    # γ = 0.5: G = 0.6 + 0.45, 0.9, mean 0.975
    assert advantages(promise(batch(), whiten="none", gamma=0.5)) == near((0.85, 0.7, 0.2 - 0.975), abs=1e-6)


def test_clip_never_pays():
    # p = 0, 0 and −0.3
    assert advantages(clip(batch(), whiten="none")) == near((1.3, 1.3, -1.3), abs=1e-6)


def test_delta_adds_up_to_the_score():
    # G = 0.6, 0.9, mean 0.75; 0.2
    assert advantages(delta(batch(), whiten="none")) == near((1.4, 1.7, -1.55), abs=1e-6)
    # min(Q − 0.7, 0) = −0.1, 0, mean −0.05; −0.5
    assert advantages(clip_delta(batch(), eta=0.7, whiten="none")) == near((1.4, 1.5, -1.45), abs=1e-6)


def test_min_form_soft_and_strict():
    strict = min_form(batch(), strict=True, whiten="none")
    assert advantages(strict) == near((1.4, 1.7, -1.55), abs=1e-6), "min(0.6, 0.9) = 0.6, then 0.9"
    falling = batch(q_BK=torch.tensor([[0.9, 0.3], [0.2, NAN]]))
    assert advantages(min_form(falling, strict=True, whiten="none")) == near((1.1, 1.1, -1.1), abs=1e-6), "0.3 from both turns on"
    # τ = 1: weights e^−0.6, e^−0.9 over their sum: p* = 0.344666, 0.383002; G = 0.727668, 0.383002, mean 0.555335
    soft = min_form(batch(), temperature=1.0, outcome_weight=0.0, whiten="none")
    assert advantages(soft) == near((0.527668, 0.183002, 0.2 - 0.555335), abs=1e-5)
    near_strict = min_form(falling, temperature=0.01, outcome_weight=1.0, whiten="none")
    assert advantages(near_strict)[0] == near(1 + 0.3 - 0.2, abs=1e-5)
    with pytest.raises(ValueError, match="temperature is 0.0; wanted a number above 0"):
        min_form(batch(), temperature=0.0)


def test_spa_shares_the_outcome_out_and_pays_for_valid_actions():
    # c = 0.1, 0.3 and −0.2; G = 0.4, 0.3, mean 0.35
    assert advantages(spa(batch(), whiten="none")) == near((0.6, 0.5, -0.55), abs=1e-6)
    # the first and the third action were valid: p = 0.6, 0.3 and 0.3; G = 0.9, 0.3, mean 0.6
    assert advantages(spa(batch(), grounding_weight=0.5, whiten="none")) == near((0.6, 0.0, -0.3), abs=1e-6)


def test_potential_shaping_telescopes():
    # Σ r − V = 0.5, 0.4, mean 0.45; −0.4
    assert advantages(potential(batch(), whiten="none")) == near((0.9, 0.8, -0.85), abs=1e-6)
    by_gae = turn_gae(batch(), values="prm", lambd=1.0, whiten="none")
    assert advantages(by_gae) == near((0.5, 0.4, -0.4), abs=1e-6), "the same, before its baseline"


def test_pav_with_the_best_of_four_and_with_another_prover():
    # 1 − (1 − Q)^4 less 1 − (1 − V)^4: 0.9744 − 0.9375, 0.9999 − 0.9744, 0.5904 − 0.8704
    assert advantages(pav(batch(), whiten="none")) == near((0.5 + 3 * 0.0369, 0.5 + 3 * 0.0255, -0.5 - 3 * 0.28), abs=1e-5)
    judged = batch(prover_q_BK=torch.tensor([[0.3, 0.4], [0.1, NAN]]), prover_v_BK=torch.tensor([[0.1, 0.3], [0.2, NAN]]))
    assert advantages(pav(judged, alpha=2.0, base="prm", whiten="none")) == near((0.1 + 0.4, 0.3 + 0.2, -0.2 - 0.2), abs=1e-6)
    assert advantages(pav(judged, alpha=0.0, whiten="none")) == near((0.5, 0.5, -0.5), abs=1e-6)


@pytest.mark.parametrize("outcome", [0.1, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("samples", [8, 16])
def test_gigpo_of_equal_graded_outcomes_is_zero(outcome, samples):
    equal = TurnBatch(
        rewards_BK=torch.full((samples, 1), outcome), mask_BK=torch.ones(samples, 1, dtype=torch.bool),
        turn_ids_BT=torch.zeros(samples, 1, dtype=torch.long), action_mask_BT=torch.ones(samples, 1, dtype=torch.bool),
        outcome_B=torch.full((samples,), outcome), group_B=torch.zeros(samples, dtype=torch.long), sample_B=torch.arange(samples),
        state_key_BK=torch.zeros(samples, 1, dtype=torch.long),
    )  # fmt: skip
    assert not gigpo(equal, whiten="none").advantages_BT.any()


def test_gigpo_compares_turns_that_begin_in_one_state():
    half = 0.5**0.5
    # R = 0.5, 1 and 0; the state 7 has 0.5 and 0, whose std is 0.5 / √2; 8 has one turn
    assert advantages(gigpo(batch(), gamma=0.5, whiten="none")) == near((2 * half, half, -2 * half), abs=1e-4)
    plain = gigpo(batch(), gamma=0.5, divide_by_std=False, step_weight=2.0, whiten="none")
    assert advantages(plain) == near((0.5 + 0.5, 0.5, -0.5 - 0.5), abs=1e-6)
    assert plain.metrics["turns/shared_states"] == near(2 / 3)
    apart = gigpo(batch(group_B=torch.tensor([0, 1]), sample_B=torch.tensor([0, 0])), whiten="none")
    assert not any(advantages(apart)), "samples of two prompts are not compared"


def test_bi_level_is_the_turns_return_less_each_tokens_value():
    # turn_gae at λ = 0.5 gives G = 0.5 + 0.3, 0.6 + 0.4 and 0.4 − 0.4
    by_return = bi_level(batch(), lambd=0.5, whiten="none")
    assert tokens(by_return) == near([0.8 - 0.5, 0.8 - 7.0, 1.0 - 0.6, -0.4, -7.0, -7.0], abs=1e-5)
    one_step = bi_level(batch(), lambd=0.5, token_lambd=0.0, whiten="none")
    assert tokens(one_step) == near([7.0 - 0.5, 0.8 - 7.0, 1.0 - 0.6, 7.0 - 0.4, 0.0, -7.0], abs=1e-5)
    one_token = bi_level(batch(), lambd=0.5, whiten="none").advantages_BT[0, 5]
    assert one_token == near(turn_gae(batch(), lambd=0.5, whiten="none").advantages_BT[0, 5].item(), abs=1e-6)
    charged = bi_level(batch(), lambd=0.5, kl_coef=1.0, whiten="none")
    assert tokens(charged)[:2] == near([0.8 - 0.5 - 0.2, 0.8 - 7.0 - 0.1], abs=1e-5)


def test_implicit_is_a_return_of_token_rewards_by_leave_one_out():
    # the first episode's mean is 0.2, the second's 0: 0.6, 0.5, 0.3 less 0; then −0.1 − 0.2 twice and 0.2 − 0.2
    assert tokens(implicit(batch(), whiten="none")) == near([1.6, 1.5, 1.3, -1.6, -1.3, -1.0], abs=1e-6)
    discounted = implicit(batch(), gamma=0.5, outcome_weight=0.0, process_weight=2.0, whiten="none")
    assert tokens(discounted)[:3] == near([2 * (0.1 + 0.1 + 0.075), 2 * (0.2 + 0.15), 0.6], abs=1e-6)


def test_outcome_with_a_process_term():
    assert tokens(outcome(batch())) == near([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    # KL as the host pays it: −0.1 β at every token, added up from the end
    assert tokens(outcome(batch(), kl_coef=1.0)) == near([0.7, 0.8, 0.9, -1.3, -1.2, -1.1], abs=1e-6)
    added = outcome(batch(), process_reward="progress", process_weight=2.0)
    assert advantages(added) == near((1.2, 1.6, -1.4), abs=1e-6)
    to_go = outcome(batch(), process_reward="progress", process_form="return", process_weight=2.0)
    assert advantages(to_go) == near((1 + 2 * 0.6, 1 + 2 * 0.5, -1 - 2 * 0.55), abs=1e-6), "spa's numbers, doubled"
    norm = advantages(outcome(batch(), baseline="group_norm"))
    assert norm == near((0.5**0.5, 0.5**0.5, -(0.5**0.5)), abs=1e-6)


def test_a_limit_differs_from_an_end():
    cut = batch(truncated_B=torch.tensor([False, True]))
    options = {"values": "prm", "bootstrap": True, "whiten": "none"}
    assert advantages(turn_gae(batch(), **options))[2] == near(-0.4, abs=1e-6)
    assert advantages(turn_gae(cut, **options))[2] == near(0.2 - 0.4, abs=1e-6), "the PRM's Q of the last turn stands for what would follow"
    with pytest.raises(ValueError, match="bootstrap needs values='prm'"):
        turn_gae(batch(), bootstrap=True)


def test_process_rewards_of_turn_gae_have_options_of_their_own():
    found = turn_gae(batch(), process_reward="clip", process_options={"eta": 0.7}, lambd=1.0, whiten="none")
    # r + min(Q − 0.7, 0) = −0.1, 1 and −0.5, less V = 0.5, 0.6 and 0.4
    assert advantages(found) == near((0.9 - 0.5, 1 - 0.6, -0.5 - 0.4), abs=1e-6)
    with pytest.raises(TypeError, match="unexpected keyword argument 'etta'"):
        turn_gae(batch(), process_reward="clip", process_options={"etta": 0.7})
    with pytest.raises(ValueError, match="potential as a reward count progress twice"):
        turn_gae(batch(), values="prm", process_reward="potential")


def test_a_turn_weighs_the_same_however_long_its_action_is():
    plain, corrected = (progress(batch(), whiten="none", length_correction=how) for how in ("none", "turn"))
    # 6 tokens in 3 turns: 2 on average; the turns have 2, 1 and 3
    assert advantages(corrected) == near([a * f for a, f in zip(advantages(plain), (1, 2, 2 / 3), strict=True)], abs=1e-6)


def test_whitening_over_tokens_turns_and_groups():
    a = [0.1, 0.1, 0.3, -0.2, -0.2, -0.2]
    mean, std = torch.tensor(a).mean(), torch.tensor(a).std(unbiased=False)
    assert tokens(progress(batch())) == near([(x - float(mean)) / float(std) for x in a], abs=1e-5)
    by_turn = torch.tensor([0.1, 0.3, -0.2])
    expected = (by_turn - by_turn.mean()) / by_turn.std(unbiased=False)
    assert advantages(progress(batch(), whiten="turns")) == near(expected.tolist(), abs=1e-5)
    assert advantages(progress(batch(), whiten="groups")) == near(expected.tolist(), abs=1e-5), "one prompt: its turns are all turns"
    apart = progress(batch(group_B=torch.tensor([0, 1])), whiten="groups")
    assert advantages(apart) == near((-1.0, 1.0, 0.0), abs=1e-5)


def test_kl_outside_is_charged_to_its_token():
    assert tokens(delta(batch(), kl_coef=1.0, kl_placement="token", whiten="none")) == near([1.3, 1.3, 1.6, -1.65, -1.65, -1.65], abs=1e-6)
    assert advantages(progress(batch(), kl_coef=1.0, whiten="none")) == near((0.1 - 0.2, 0.3 - 0.1, -0.2 - 0.3), abs=1e-6)


def test_an_option_that_is_not_there_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
        min_form(batch(), temprature=0.1)
    with pytest.raises(ValueError, match="process_reward is 'progres'; wanted one of none, promise, progress, clip"):
        outcome(batch(), process_reward="progres")
    with pytest.raises(ValueError, match="process_logratio_BT is None"):
        implicit(batch(process_logratio_BT=None))
    assert of_tokens([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])[0, 5] == 3.0
