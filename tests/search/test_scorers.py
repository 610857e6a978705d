"""What candidates are scored by, with a PRM of the real kind."""

import pytest
import torch

from openrlhf_agentprm.prm.model import start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all
from openrlhf_agentprm.search.nodes import Candidate, Node
from openrlhf_agentprm.search.scorers import Pav, prm_scorer


class PathByPath(ScalarPRM):
    """A kind of its own, which is not known to take several actions at once."""


@pytest.fixture
def candidates():
    first, second = Node([2, 5, 6, 7, 8, 9]), Node([2, 5, 6, 7, 8, 9, 5, 5, 6, 7], spans=[(6, 8)])
    nodes = [first, second, first, second, second]
    return [Candidate(node, action) for node, action in zip(nodes, ([5, 3], [6, 3], [7], [8, 9, 3], [5, 3]), strict=True)]


@pytest.mark.parametrize("values", ["previous_q", "state"])
def test_candidates_of_mixed_nodes_keep_their_scores(tiny, candidates, values):
    model = start_from(str(tiny), dtype="fp32").eval()
    model.score.weight.data *= 3  # scores of the order of 1
    found = torch.tensor(prm_scorer(ScalarPRM(model, Record(values=values)))(candidates))
    alone = torch.tensor(prm_scorer(PathByPath(model, Record(values=values)))(candidates))
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert found[:, 0].unique().numel() == 5 and found[:, 1].unique().numel() == 2


@pytest.mark.parametrize("values", ["previous_q", "previous_q_from_0", "state"])
def test_what_extends_a_step_has_the_value_before_that_step(tiny, candidates, values):
    model = start_from(str(tiny), dtype="fp32").eval()
    model.score.weight.data *= 3
    inside = Node([2, 5, 6, 7, 8, 9, 5, 5, 6, 7], spans=[(6, 8), (8, 10)], action_start=6)
    more = [*candidates, Candidate(inside, [9], extends=True), Candidate(inside, [9])]
    found = torch.tensor(prm_scorer(ScalarPRM(model, Record(values=values)))(more))
    alone = torch.tensor(prm_scorer(PathByPath(model, Record(values=values)))(more))
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert found[-1, 0] == pytest.approx(float(found[-2, 0]), abs=1e-5) and abs(found[-1, 1] - found[-2, 1]) > 1e-4


def test_values_before_an_action_are_the_turn_befores_score(tiny, candidates):
    prm = ScalarPRM(start_from(str(tiny), dtype="fp32").eval(), Record(values="previous_q"))
    (_, v) = prm_scorer(prm)(candidates)[1]
    ((q_K, _),) = score_all(prm, [candidates[1].parent.token_ids[:8]], [[(6, 8)]])
    assert v == pytest.approx(float(q_K[0]), abs=1e-6)


def test_best_of_k_in_closed_form(tiny, candidates):
    prm = ScalarPRM(start_from(str(tiny), dtype="fp32").eval(), Record(output="sigmoid", values="state"))
    for (q, v), (ours, _) in zip(prm_scorer(prm)(candidates), prm_scorer(prm, Pav(0.5, k=3))(candidates), strict=True):
        assert ours == pytest.approx(q + 0.5 * ((1 - (1 - q) ** 3) - (1 - (1 - v) ** 3)), abs=1e-6)
