"""What must change nothing, for every estimator of ours: longer observations, padding, order of the batch, NaN where nothing counts."""

import inspect

import pytest
import torch
from two_episodes import NAN, batch

from openrlhf_agentprm.core.batches import TurnBatch
from openrlhf_agentprm.core.estimators.shared import NEEDS, needs_of
from openrlhf_agentprm.core.registry import ADVANTAGES

OURS = sorted(e.name for e in ADVANTAGES.entries() if e.distribution == "openrlhf-agentprm")
CASES = [(name, {}) for name in OURS] + [
    ("turn_gae", {"values": "prm", "bootstrap": True}),
    ("turn_gae", {"process_reward": "min_form", "bound": "par"}),
    ("token_gae", {"process_reward": "clip_delta", "scaling": "standard"}),
    ("outcome", {"baseline": "reinforce_baseline", "process_reward": "progress", "process_form": "return"}),
    ("outcome", {"baseline": "group_norm", "process_reward": "promise", "scaling": "scale"}),
    ("min_form", {"strict": True}),
    ("pav", {"base": "prm"}),
    ("spa", {"grounding_weight": 1.0}),
    ("gigpo", {"process_reward": "progress"}),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES]


def rollout(gap=2, padding=0, seed=0):
    """Two prompts of three samples, 1 to 4 turns of 1 to 3 tokens with `gap` observation tokens between; NaN wherever nothing counts."""
    draw = torch.Generator().manual_seed(seed)
    turns = [4, 1, 3, 2, 2, 4]
    lengths = [[int(torch.randint(1, 4, (1,), generator=draw)) for _ in range(n)] for n in turns]
    width = max(sum(row) + gap * len(row) for row in lengths) + 2 + padding
    ids_BT = torch.full((6, width), -1)
    for b, row in enumerate(lengths):
        at = 1
        for k, n in enumerate(row):
            ids_BT[b, at : at + n] = k
            at += n + gap
    mask_BK = torch.zeros(6, max(turns) + padding, dtype=torch.bool)
    for b, n in enumerate(turns):
        mask_BK[b, :n] = True
    action_BT = ids_BT >= 0

    def by(mask, scale=1.0):
        x = torch.full(mask.shape, NAN)
        x[mask] = scale * torch.rand(int(mask.sum()), generator=draw)
        return x

    outcome_B = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    last_BK = mask_BK & (mask_BK.flip(1).cumsum(1).flip(1) == 1)
    rewards_BK = torch.where(mask_BK, 0.0, NAN).masked_scatter(last_BK, outcome_B)
    key_BK = torch.where(mask_BK, torch.arange(mask_BK.shape[1]) % 2, -9)
    return TurnBatch(
        rewards_BK=rewards_BK, mask_BK=mask_BK, turn_ids_BT=ids_BT, action_mask_BT=action_BT, q_BK=by(mask_BK), v_BK=by(mask_BK),
        values_BT=by(action_BT), kl_BT=by(action_BT, 0.1), process_logratio_BT=by(action_BT), outcome_B=outcome_B,
        terminated_B=torch.tensor([True, True, False, True, True, False]), truncated_B=torch.tensor([False, False, True, False, False, True]),
        group_B=torch.tensor([3, 3, 3, 5, 5, 5]), sample_B=torch.tensor([0, 1, 2, 0, 1, 2]), state_key_BK=key_BK, valid_BK=key_BK == 0,
        prover_q_BK=by(mask_BK), prover_v_BK=by(mask_BK),
    )  # fmt: skip


def reordered(b, order):
    return TurnBatch(**{name: x if x is None else x[order] for name, x in vars(b).items()})


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("whiten", ["tokens", "turns", "groups", "none"])
@pytest.mark.parametrize("kl_placement", ["reward", "token"])
def test_observations_padding_and_nan_change_nothing(name, options, whiten, kl_placement):
    estimator = ADVANTAGES.load(name)
    options = options | {"whiten": whiten, "kl_coef": 0.1, "kl_placement": kl_placement, "length_correction": "turn"}
    short = rollout()
    expected = estimator(short, **options)
    assert expected.advantages_BT.isfinite().all() and expected.returns_BT.isfinite().all() and expected.advantages_BT.any()
    assert not expected.advantages_BT[~short.action_mask_BT].any()
    for changed in (rollout(gap=300), rollout(padding=40), rollout(gap=0)):
        found = estimator(changed, **options)
        assert torch.equal(found.advantages_BT[changed.action_mask_BT], expected.advantages_BT[short.action_mask_BT])
        assert torch.equal(found.returns_BT[changed.action_mask_BT], expected.returns_BT[short.action_mask_BT])
        assert found.metrics == expected.metrics


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_order_of_episodes_changes_nothing(name, options):
    """Nor does the group's name; what is left is the order in which whole batches are summed up."""
    estimator, b = ADVANTAGES.load(name), rollout()
    expected = estimator(b, kl_coef=0.1, **options).advantages_BT
    order = torch.tensor([4, 0, 5, 2, 3, 1])
    other = reordered(b, order)
    other.group_B = 7 - other.group_B
    torch.testing.assert_close(estimator(other, kl_coef=0.1, **options).advantages_BT, expected[order], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_an_episode_without_turns_takes_part_in_nothing(name, options):
    b = batch()
    more = {n: x if x is None else torch.cat([x, x[:1]]) for n, x in vars(b).items()}
    more |= {"mask_BK": torch.cat([b.mask_BK, torch.zeros(1, 2, dtype=torch.bool)]), "sample_B": torch.tensor([0, 1, 2])}
    more["turn_ids_BT"] = torch.cat([b.turn_ids_BT, torch.full((1, 7), -1)])
    more["action_mask_BT"] = more["turn_ids_BT"] >= 0
    estimator = ADVANTAGES.load(name)
    found = estimator(TurnBatch(**more), **options).advantages_BT
    torch.testing.assert_close(found[:2], estimator(b, **options).advantages_BT)
    assert not found[2].any()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_signature_tells_every_option_and_the_needs_are_known(name, options):
    function = ADVANTAGES.load(name)
    parameters = inspect.signature(function).parameters
    assert {"kl_coef", "kl_placement", "whiten", "length_correction", *options} <= parameters.keys() and "shaping" not in parameters
    assert needs_of(function, options) <= set(NEEDS) and needs_of(function, options)
    with pytest.raises(TypeError, match="no_such_option"):
        function(batch(), no_such_option=1)


def test_needs_follow_the_options():
    need = lambda name, **options: needs_of(ADVANTAGES.load(name), options)  # noqa: E731
    assert need("turn_gae") == {"critic"} and need("turn_gae", values="prm") == {"prm"}
    assert need("token_gae", process_reward="clip", bound="par") == {"critic", "prm", "groups"}
    assert need("outcome") == {"groups"} and need("outcome", baseline="none") == set()
    assert need("outcome", process_reward="progress") == {"groups", "prm"} == need("outcome", process_reward="progress", process_weight=2.0)
    assert need("outcome", process_reward="progress", process_weight=0.0) == {"groups"}
    assert (
        need("implicit") == {"implicit", "groups"}
        and need("gigpo") >= {"groups", "states"}
        and need("spa", grounding_weight=1) >= {"valid"}
    )
