"""Moving a reward model's weights away takes all of them, whatever holds them."""

import torch

from openrlhf_agentprm.prm.kinds.ensemble import EnsemblePRM
from openrlhf_agentprm.prm.kinds.implicit import ImplicitPRM
from openrlhf_agentprm.prm.model import start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.residence import modules_of, move
from openrlhf_agentprm.prm.scoring import ScalarPRM, make_batch


def test_all_weights_of_an_ensemble_and_of_an_implicit_prms_reference_move(tiny):
    from transformers import AutoModelForCausalLM

    scalar = ScalarPRM(start_from(str(tiny), dtype="fp32", seed=0), Record())
    before = scalar.score(make_batch([[5, 6, 7]], [[(1, 3)]])).q_BK
    move(scalar, "cpu")
    assert torch.equal(scalar.score(make_batch([[5, 6, 7]], [[(1, 3)]])).q_BK, before)
    both = [AutoModelForCausalLM.from_pretrained(tiny) for _ in range(2)]
    implicit = ImplicitPRM(*both, Record(kind="implicit", options={"beta": 0.05}))
    ensemble = EnsemblePRM([scalar, implicit], "mean", 1.0)
    assert list(modules_of(ensemble)) == [scalar.model, *both]
    move(ensemble, "meta")
    weights = [w for module in (scalar.model, *both) for w in (*module.parameters(), *module.buffers())]
    assert weights and all(w.device.type == "meta" for w in weights)


def test_what_is_served_elsewhere_has_no_weights():
    class Remote:
        url = "http://127.0.0.1:1"

    assert list(modules_of(Remote())) == []
