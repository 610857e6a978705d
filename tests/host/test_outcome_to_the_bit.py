"""The estimator `outcome` with no process weight is the host's own, to the bit; and how a rollout is cut into micro-batches changes nothing."""

from types import SimpleNamespace

import pytest
import torch

from openrlhf_agentprm.core.groups import BASELINES
from openrlhf_agentprm.core.registry import ADVANTAGES
from openrlhf_agentprm.host.activate import activate
from openrlhf_agentprm.host.samples import Ending

SAMPLES, PROMPTS = 4, 6


def arguments(estimator, **advantage):
    a = dict(
        estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False, reward="outcome", novelty_coef=0.0, anchor="observation", options={},
        values=None,
        bootstrap_enable=False, baseline=None, process_reward=None, process_weight=None, process_options=None, outcome_weight=None, bound=None,
        scaling=None, process_clip=None, kl_placement=None, whiten=None, length_correction=None, value_positions=None, force_enable=False,
    )  # fmt: skip
    return SimpleNamespace(
        algo=SimpleNamespace(advantage=SimpleNamespace(**a | advantage), kl=SimpleNamespace(use_loss=False)),
        env=SimpleNamespace(name=None),
        reward=SimpleNamespace(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None),
        rollout=SimpleNamespace(n_samples_per_prompt=SAMPLES, max_new_tokens=64),
        critic=SimpleNamespace(model_name_or_path=None),
        agentprm=SimpleNamespace(on=True),
        train=SimpleNamespace(dynamic_batch_enable=False),
    )  # fmt: skip


@pytest.fixture(scope="module")
def host():
    activate()
    from openrlhf.trainer.ppo_utils import experience_maker

    return experience_maker


def maker(host, args):
    """The host's experience maker without its model groups, which advantages do not ask."""
    made = object.__new__(host.RemoteExperienceMaker)
    vars(made).update(
        strategy=SimpleNamespace(args=args), args=args, advantage_estimator=args.algo.advantage.estimator,
        kl_ctl=SimpleNamespace(value=0.05), turn_metrics={}, turn_state={},
    )  # fmt: skip
    return made


def experiences(host, order, size, width):
    """Micro-batches of `size` samples in the given order: 1 to 5 turns of 1 to 4 tokens between observations, graded outcomes, KL."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    rows = []
    for index in range(PROMPTS * SAMPLES):
        draw = torch.Generator().manual_seed(index)
        number = lambda low, high: int(torch.randint(low, high, (1,), generator=draw))  # noqa: B023, E731
        turns = torch.zeros(width, dtype=torch.long)
        at = number(1, 4)
        for k in range(number(1, 6)):
            n = number(1, 5)
            turns[at : at + n] = k + 1
            at += n + number(0, 4)
        kl = torch.randn(width, generator=draw)
        outcome, q, v = torch.rand(1, generator=draw), torch.rand(8, generator=draw), torch.rand(8, generator=draw)
        rows.append((turns, kl, outcome, q, v, torch.rand(width, generator=draw), torch.randn(width, generator=draw)))
    made = []
    for start in range(0, len(order), size):
        part = [rows[i] for i in order[start : start + size]]
        turns = torch.stack([r[0] for r in part])
        turns = turns[:, : int((turns > 0).any(0).nonzero().max()) + 1] if width > 50 else turns  # its own width, as the host pads it
        one = Experience(index=list(order[start : start + size]), action_mask=(turns > 0).long(), turn_numbers=turns)
        one.sequences = torch.zeros(len(part), turns.shape[1] + 1, dtype=torch.long)
        one.kl = torch.stack([r[1] for r in part])[:, : turns.shape[1]]
        one.action_log_probs = -one.kl.abs()
        one.rewards = torch.cat([r[2] for r in part])
        one.turn_valid = one.turn_began = one.turn_ended = torch.ones(turns.shape)
        one.ending = torch.full((len(part),), int(Ending.FAILURE))
        one.info = {}
        one.values, ratio_BT = (torch.stack([r[k] for r in part])[:, : turns.shape[1]] for k in (5, 6))
        one.prm_scores = {
            "q_BK": torch.stack([r[3] for r in part]),
            "v_BK": torch.stack([r[4] for r in part]),
            "process_logratio_BT": ratio_BT,
        }
        made.append(one)
    return made


def by_sample(parts):
    return {i: e.advantages[row][e.action_mask[row] > 0] for e in parts for row, i in enumerate(e.index)}


ORDER = torch.randperm(PROMPTS * SAMPLES, generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("baseline", [b for b in BASELINES if b != "none"])
@pytest.mark.parametrize("scores", [{}, {"process_reward": "progress", "process_weight": 0.0}])
@pytest.mark.parametrize("order", [list(range(PROMPTS * SAMPLES)), ORDER], ids=["in order", "shuffled"])
def test_no_process_weight_is_the_hosts_estimator_to_the_bit(host, baseline, scores, order):
    width = 50 if baseline == "reinforce_baseline" else 60  # whitening sums in the order of the padding, so there one width for all
    wanted = maker(host, arguments(baseline)).compute_advantages_and_returns(experiences(host, order, 8, width))
    ours = maker(host, arguments("outcome", baseline=baseline, **scores)).compute_advantages_and_returns(experiences(host, order, 8, width))
    wanted, found = by_sample(wanted), by_sample(ours)
    assert all(torch.equal(found[i], wanted[i]) for i in wanted) and len(found) == len(wanted) == PROMPTS * SAMPLES
    assert any(bool(a.any()) for a in found.values())


BESIDE = {"promise": {"outcome_weight": 1.0}, "spa": {"outcome_weight": 1.0}}


@pytest.mark.parametrize("estimator", ["clip", "delta", "clip_delta", "min_form", "implicit", "promise", "spa"])
@pytest.mark.parametrize("order", [list(range(PROMPTS * SAMPLES)), ORDER], ids=["in order", "shuffled"])
def test_beside_the_outcome_and_without_its_process_rewards_an_estimator_is_rloo_to_the_bit(host, estimator, order):
    wanted = maker(host, arguments("rloo")).compute_advantages_and_returns(experiences(host, order, 8, 60))
    args = arguments(estimator, whiten="none", process_weight=0.0, **BESIDE.get(estimator, {}))
    ours = maker(host, args).compute_advantages_and_returns(experiences(host, order, 8, 60))
    wanted, found = by_sample(wanted), by_sample(ours)
    assert all(torch.equal(found[i], wanted[i]) for i in wanted) and any(bool(a.any()) for a in found.values())


EVERY = [e.name for e in ADVANTAGES.entries() if e.distribution == "openrlhf-agentprm"]


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "outcome", "baseline": "rloo", "process_reward": "promise"},
        {"estimator": "min_form", "whiten": "none"},
        {"estimator": "pav", "whiten": "none"},
        {"estimator": "gigpo", "whiten": "none", "anchor": "history"},
        {"estimator": "turn_gae", "values": "prm", "whiten": "none"},
        {"estimator": "turn_gae", "values": "prm", "whiten": "turns"},
        {"estimator": "progress", "whiten": "groups", "scaling": "scale"},
        *[{"estimator": name} for name in EVERY],
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_micro_batches_and_their_order_change_nothing(host, options):
    """What data-parallel ranks are given is cut from the same rollout; only the order of sums over whole batches is left."""
    once = by_sample(maker(host, arguments(**options)).compute_advantages_and_returns(experiences(host, list(range(24)), 24, 60)))
    for order, size in ((list(range(24)), 4), (ORDER, 6), (ORDER, 1)):
        found = by_sample(maker(host, arguments(**options)).compute_advantages_and_returns(experiences(host, order, size, 60)))
        for i, expected in once.items():
            torch.testing.assert_close(found[i], expected, atol=1e-6, rtol=1e-5)


def test_a_new_state_is_paid_where_the_host_makes_the_batch(host):
    """Two samples of a prompt, by the tokens that they observe: 7 then 8, and 7 then 9."""
    from openrlhf_agentprm.host.turn_batches import turn_batch

    (one,) = experiences(host, [0, 1], 2, 60)
    one.turn_numbers = torch.tensor([[0, 1, 0, 2, 0, 3], [0, 1, 0, 2, 0, 3]])
    one.sequences = torch.tensor([[1, 1, 5, 7, 5, 8, 5], [1, 1, 5, 7, 5, 9, 5]])
    one.action_mask, one.kl, one.turn_valid = (one.turn_numbers > 0).long(), torch.zeros(2, 6), torch.ones(2, 6)
    one.rewards, one.prm_scores = torch.tensor([1.0, 0.0]), {}
    plain, paid = (turn_batch(arguments("turn_gae", novelty_coef=c), [one]) for c in (0.0, 0.5))
    assert plain.state_key_BK is None and plain.rewards_BK.tolist() == [[0, 0, 1], [0, 0, 0]]
    torch.testing.assert_close(paid.rewards_BK - plain.rewards_BK, torch.tensor([[0.5 * 0.5**0.5, 0.5, 0.0]] * 2))


def test_a_graded_outcome_at_a_limit_gives_way_to_the_prms_score_behind_it(host):
    from openrlhf_agentprm.host.turn_batches import turn_batch

    (one,) = experiences(host, [0, 1], 2, 60)
    one.turn_numbers = torch.tensor([[0, 1, 0, 2], [0, 1, 0, 2]])
    one.sequences, one.action_mask = torch.ones(2, 5, dtype=torch.long), (one.turn_numbers > 0).long()
    one.kl, one.turn_valid, one.prm_scores = torch.zeros(2, 4), torch.ones(2, 4), {}
    one.rewards, one.ending = torch.tensor([0.6, 0.6]), torch.tensor([int(Ending.TRUNCATED), int(Ending.FAILURE)])
    for bootstrap, kept in ((False, 0.6), (True, 0.0)):
        found = turn_batch(arguments("turn_gae", values="prm", bootstrap_enable=bootstrap), [one]).rewards_BK
        torch.testing.assert_close(found, torch.tensor([[0.0, kept], [0.0, 0.6]]))
