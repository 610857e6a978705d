"""PPO in steps, on tensors: turn numbers, rewards and advantages are those of real turns without observations."""

from types import SimpleNamespace

import pytest
import torch

from openrlhf_agentprm.core.advantages import turn_gae
from openrlhf_agentprm.core.estimators.gae import turn_gae as estimator
from openrlhf_agentprm.host import samples
from openrlhf_agentprm.host.ppo_checks import step_delimiters, unread_delimiters
from openrlhf_agentprm.host.turn_batches import turn_batch
from openrlhf_agentprm.prm.record import Record

D = ((0,), (1, 2))
# prompt | three steps | observation | two steps, the second cut by the length
TOKENS = [9, 9, 5, 0, 6, 1, 2, 7, 9, 9, 8, 0, 5, 6]
RANGES = [(2, 8), (10, 20)]
STEPS = [(2, 4), (4, 7), (7, 8), (10, 12), (12, 14)]


def experience(ranges, rewards, delimiters):
    args = SimpleNamespace(agentprm=SimpleNamespace(on=True, step_delimiters=delimiters))
    args.algo = SimpleNamespace(advantage=SimpleNamespace(reward="environment", estimator="gae"))
    args.reward, args.rollout = SimpleNamespace(clip_range=None), SimpleNamespace(n_samples_per_prompt=1)
    mask = torch.zeros(1, len(TOKENS) - 1, dtype=torch.long)
    for start, end in ranges:
        mask[0, start - 1 : end - 1] = 1
    made = SimpleNamespace(sequences=torch.tensor([TOKENS]), action_mask=mask, values=None, kl=torch.zeros(1, len(TOKENS) - 1), index=[0])
    made.rewards = torch.tensor([1.0])
    return args, samples.attach_turns(args, {"action_ranges": ranges, "turn_rewards": rewards, "status": "success"}, made)


def test_steps_are_numbered_and_earn_as_turns_do():
    args, divided = experience(RANGES, [0.5, 1.0], D)
    _, real = experience(STEPS, [0.0, 0.0, 0.5, 0.0, 1.0], ())
    assert torch.equal(divided.turn_numbers, real.turn_numbers) and torch.equal(divided.turn_rewards, real.turn_rewards)
    assert divided.turn_numbers[0].tolist() == [0, 1, 1, 2, 2, 2, 3, 0, 0, 4, 4, 5, 5]
    assert torch.equal(divided.action_mask, real.action_mask), "the policy's loss is over the same tokens"
    batch, other = turn_batch(args, [divided]), turn_batch(args, [real])
    assert batch.rewards_BK.tolist() == [[0.0, 0.0, 0.5, 0.0, 1.0]] == other.rewards_BK.tolist()
    _, whole = experience(RANGES, [0.5, 1.0], ())
    assert whole.turn_numbers.max() == 2


def test_advantages_are_those_of_turns_and_spread_over_the_steps_tokens():
    args, divided = experience(RANGES, [0.5, 1.0], D)
    divided.prm_scores = {"q_BK": torch.tensor([[0.3, 0.6, 0.2, 0.8, 0.9]]), "v_BK": torch.tensor([[0.5, 0.3, 0.6, 0.2, 0.8]])}
    batch = turn_batch(args, [divided])
    result = estimator(batch, gamma=1.0, lambd=0.9, values="prm", whiten="none")
    wanted_BK, _ = turn_gae(batch.rewards_BK, batch.v_BK, batch.mask_BK, gamma=1.0, lambd=0.9)
    by_hand = [0.0] * 6
    rewards, values = [0.0, 0.0, 0.5, 0.0, 1.0], [0.5, 0.3, 0.6, 0.2, 0.8, 0.0]
    for t in reversed(range(5)):
        by_hand[t] = rewards[t] + values[t + 1] - values[t] + 0.9 * by_hand[t + 1]
    torch.testing.assert_close(wanted_BK[0], torch.tensor(by_hand[:5]))
    for number, (start, end) in enumerate(STEPS):
        torch.testing.assert_close(result.advantages_BT[0, start - 1 : end - 1], torch.full((end - start,), by_hand[number]))
    assert result.advantages_BT[0, 7:9].tolist() == [0.0, 0.0]


def run_args(folder=None, given=None, estimator="turn_gae"):
    return SimpleNamespace(
        prm=SimpleNamespace(model_name_or_path=folder, name="scalar", step_delimiter=given, step_delimiter_text=None),
        actor=SimpleNamespace(model_name_or_path="nowhere"), algo=SimpleNamespace(advantage=SimpleNamespace(estimator=estimator)),
    )  # fmt: skip


def test_the_prms_delimiter_is_taken_and_one_that_nothing_reads_is_refused(tmp_path, caplog):
    Record(method="td_gae", step_delimiter=[[7], [8, 9]]).save(tmp_path)
    assert step_delimiters(run_args(str(tmp_path))) == ((7,), (8, 9)) and step_delimiters(run_args()) == ()
    assert step_delimiters(run_args(str(tmp_path), [()])) == () and "its scores stand where they were not trained" in caplog.text
    assert unread_delimiters(run_args(None, [(7,)]), True) == [] == unread_delimiters(run_args("prm", [(7,)]), False)
    (problem,) = unread_delimiters(run_args(None, [(7,)], "gae"), False)
    assert "nothing reads steps" in problem and "gae is the host's" in problem


@pytest.mark.parametrize("status", ["env_error", "context_overflow"])
def test_a_placeholder_has_no_step(status):
    args = SimpleNamespace(agentprm=SimpleNamespace(on=True, step_delimiters=D))
    made = SimpleNamespace(sequences=torch.tensor([TOKENS]), action_mask=torch.ones(1, len(TOKENS) - 1))
    found = samples.attach_turns(args, {"action_ranges": RANGES, "status": status}, made)
    assert int(found.turn_numbers.max()) == 0 and int(found.action_mask.sum()) == 0
