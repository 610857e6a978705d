"""The actions of a node in one pass, against scoring each path by itself."""

import pytest
import torch

from openrlhf_agentprm.agents.tiny import make_model, make_tokenizer, save_policy
from openrlhf_agentprm.core.registry import REWARD_MODELS
from openrlhf_agentprm.prm.model import start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all
from openrlhf_agentprm.prm.tree_scoring import Branches, score_branches, takes_branches, tree_mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("branches") / "policy"
    tokenizer = make_tokenizer([" ".join(f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh")])
    save_policy(make_model(tokenizer, context=512), tokenizer, path)
    return str(path)


def nodes():
    """Prefixes of unlike lengths and numbers of turns, one of them without any, and actions of 1 to 6 tokens."""
    g = torch.Generator().manual_seed(0)
    found = []
    for length, turns, actions in ((5, 0, 3), (80, 3, 1), (41, 1, 6), (200, 8, 4)):
        spans = [(length * (k + 1) // (turns + 1) - 3, length * (k + 1) // (turns + 1) - 1) for k in range(turns)]
        sizes = [1 + i % 6 for i in range(actions)]
        tokens = torch.randint(5, 60, (length + sum(sizes),), generator=g).tolist()
        rest = iter(tokens[length:])
        found.append(Branches(tokens[:length], spans, [[next(rest) for _ in range(size)] for size in sizes]))
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "values", "output"),
    [
        ("scalar", "state", "linear"),
        ("scalar", "previous_q", "linear"),
        ("scalar", "previous_q_from_0", "linear"),
        ("scalar", "previous_q", "sigmoid"),
        ("hierarchical", "previous_q", "linear"),
        ("inverse", "state", "linear"),
        ("trajectory", "previous_q", "linear"),
    ],
)
def test_one_pass_gives_what_each_path_gives_alone(folder, attention, kind, values, output):
    prm = REWARD_MODELS.load(kind)(
        start_from(folder, dtype="fp32", attn_implementation=attention).eval(), Record(values=values, output=output)
    )
    prm.model.score.weight.data *= 50  # scores of the order of 1
    assert takes_branches(prm)
    packed = score_branches(prm, nodes(), max_tokens=256)
    spread = []
    for node, (q_M, v) in zip(nodes(), packed, strict=True):
        paths = [[*node.prefix, *action] for action in node.actions]
        spans = [[*node.spans, (len(node.prefix), len(path))] for path in paths]
        alone = score_all(prm, paths, spans)
        torch.testing.assert_close(q_M, torch.stack([q_K[-1] for q_K, _ in alone]), atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.full((len(alone),), v), torch.stack([v_K[-1] for _, v_K in alone]), atol=1e-5, rtol=0)
        spread += q_M.tolist()
    assert max(spread) - min(spread) > 0.1


def test_an_action_sees_no_other():
    seen = tree_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0]
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 5]]


def test_models_that_take_no_such_mask_are_scored_path_by_path(folder):
    model = start_from(folder, dtype="fp32").eval()
    assert takes_branches(ScalarPRM(model, Record()))
    model.config.sliding_window, model.config.use_sliding_window = 64, True
    assert not takes_branches(ScalarPRM(model, Record()))
    assert not takes_branches(REWARD_MODELS.load("spa")(start_from(folder, dtype="fp32").eval(), Record()))  # whose score is a sum
    assert not takes_branches(object())
