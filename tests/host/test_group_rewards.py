"""Group baselines where environments broke: the host's formulas over the samples that came to an end, and 0 for the others."""

from types import SimpleNamespace

import pytest
import torch

from openrlhf_agentprm.host.experience import attach_scores, eval_reward, eval_value, group_rewards
from openrlhf_agentprm.host.samples import Ending

BROKEN = (Ending.ENV_ERROR, Ending.TIMEOUT, Ending.CONTEXT_OVERFLOW)
HOST = {  # of one group's rewards, as the host's experience maker writes them
    "rloo": lambda r: r - (r.sum() - r) / max(len(r) - 1, 1) if len(r) > 1 else torch.zeros(1),
    "reinforce_baseline": lambda r: r - r.mean(),
    "dr_grpo": lambda r: r - r.mean(),
    "group_norm": lambda r: (r - r.mean()) / (r.std() + 1e-9) if len(r) > 1 else torch.zeros(1),
    "reinforce": lambda r: r,
}


def experiences(endings, order, size):
    """Micro-batches of `size` samples, which stand in another order than their prompts; `order[i]` is the place of the i-th."""
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return [
        SimpleNamespace(index=part, ending=torch.tensor([int(endings[i]) for i in part]), info={"group_reward_std": torch.zeros(len(part))})
        for part in parts
    ]


@pytest.mark.parametrize("estimator", HOST)
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_loop_over_groups(estimator, seed):
    generator = torch.Generator().manual_seed(seed)
    groups, samples = 6, 4
    rewards = torch.randn(groups, samples, generator=generator)
    endings = [Ending.SUCCESS if torch.rand(1, generator=generator) < 0.6 else BROKEN[i % 3] for i in range(groups * samples)]
    endings[:4] = [Ending.SUCCESS] * 4  # a whole group
    endings[4:8] = [Ending.TIMEOUT] * 4  # nothing left of one
    endings[8:12] = [Ending.ENV_ERROR, Ending.FAILURE, Ending.TIMEOUT, Ending.ENV_ERROR]  # one left
    rewards = torch.where(torch.tensor([e in BROKEN for e in endings]).view(groups, samples), float("nan"), rewards)
    order = torch.randperm(groups * samples, generator=generator)
    found_parts = experiences(endings, order.tolist(), 8)
    args = SimpleNamespace(algo=SimpleNamespace(advantage=SimpleNamespace(estimator=estimator)))
    found = group_rewards(args, rewards, found_parts, order)

    expected, spread = torch.zeros(groups, samples), torch.zeros(groups, samples)
    for g in range(groups):
        kept = [k for k in range(samples) if endings[samples * g + k] not in BROKEN]
        if kept:
            expected[g, kept] = HOST[estimator](rewards[g, kept])
        if len(kept) > 1:
            spread[g] = rewards[g, kept].std()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    told = torch.cat([e.info["group_reward_std"] for e in found_parts])
    torch.testing.assert_close(told, spread.reshape(-1)[order], atol=1e-5, rtol=1e-5)


def test_a_placeholder_changes_no_logged_mean_and_no_evaluation():
    endings = torch.tensor([[Ending.SUCCESS, Ending.ENV_ERROR], [Ending.TRUNCATED, Ending.FAILURE]])
    told = {"lengths": [[4, 99], [8, 6]], "truncated": [[False, True], [True, False]], "turns": [[1.0, 50.0], [2.0, 3.0]]}
    parts = [
        SimpleNamespace(
            ending=endings[i],
            response_length=torch.tensor(told["lengths"][i]),
            truncated=torch.tensor(told["truncated"][i]),
            info={"turns": torch.tensor(told["turns"][i])},
        )
        for i in range(2)
    ]
    attach_scores(None, parts, None)

    def mean(tensors):
        return float(torch.cat(list(tensors)).mean())

    assert mean(p.response_length for p in parts) == 6 and mean(p.info["turns"] for p in parts) == 2
    assert mean(p.truncated for p in parts) == pytest.approx(1 / 3)
    broken = SimpleNamespace(ending=torch.tensor([Ending.TIMEOUT]), rewards=torch.tensor([0.0]))
    whole = SimpleNamespace(ending=torch.tensor([Ending.FAILURE]), rewards=torch.tensor([0.0]))
    assert eval_reward(broken) != eval_reward(broken) and eval_reward(whole) == 0.0
    assert eval_value(broken, torch.tensor([7])) is None and eval_value(whole, torch.tensor([7])) == 7 and eval_value(whole, None) is None
