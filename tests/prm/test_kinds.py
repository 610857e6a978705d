"""Kinds of reward models that train: every objective is the same however its batch is cut, and scores are read as they were trained."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from kinds_at_hand import EPISODES, SPANS, WAYS, flags_of, loss_of, model_of, objective_of, way

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.cli.train_prm_checks import problems_of_flags
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.host.ppo_checks import _value_problems
from openrlhf_agentprm.prm.dataset import collate
from openrlhf_agentprm.prm.kinds import load_kind, trainable
from openrlhf_agentprm.prm.model import load_prm, save_prm
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model, score_all

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", WAYS)
def test_a_step_is_the_same_however_its_batch_is_cut(name, bpe_policy, made):
    args = way(name, bpe_policy, made)
    assert problems_of_flags(args) == []
    objective, model = objective_of(args), model_of(args)
    items = list(range(len(objective.lengths)))
    whole, gradient = loss_of(objective, model, [items])
    assert whole > 0 and gradient.abs().sum() > 0
    halves, of_halves = loss_of(objective, model, [items[::2], items[1::2]])
    single, of_single = loss_of(objective, model, [[i] for i in items])
    assert halves == pytest.approx(whole, rel=1e-4) and single == pytest.approx(whole, rel=1e-4)
    for other in (of_halves, of_single):
        torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", WAYS)
def test_a_finished_model_scores_as_it_did_in_training(name, bpe_policy, made, tmp_path):
    args = way(name, bpe_policy, made)
    objective, model = objective_of(args), model_of(args)
    part = collate(EPISODES)
    with torch.no_grad():
        q_BK, v_BK = objective.scores(model, part)
    del model.__dict__["forward"]
    kind = trainable(args.prm.name)
    options = {"combine": args.prm.combine, "kappa": args.prm.kappa}
    record = Record(kind=args.prm.name, method="m", options=options, **kind.recorded(args))
    save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path, record)
    assert load_kind("auto", str(tmp_path)) is kind
    prm = load_reward_model("auto", str(tmp_path))
    found = score_all(prm, [e.token_ids for e in EPISODES], [spans_of(e) for e in EPISODES])
    for row, (q_K, v_K) in enumerate(found):
        torch.testing.assert_close(q_K, q_BK[row, : len(q_K)], atol=1e-5, rtol=1e-4)
        if args.prm.name in ("two_head", "spa"):
            torch.testing.assert_close(v_K, v_BK[row, : len(v_K)], atol=1e-5, rtol=1e-4)
        elif record.values != "state" and args.prm.name != "heads":
            assert torch.equal(v_K[1:], q_K[:-1]) and bool(v_K[0] == 0) == (record.values == "previous_q_from_0")
    ids = torch.tensor([EPISODES[0].token_ids])
    if args.prm.name not in ("two_head", "heads"):
        plain = load_prm(str(tmp_path))
        with torch.no_grad():
            logits = plain(ids).logits[0, [end - 1 for _, end in SPANS[0]], 0]
        expected = logits.cumsum(0) if args.prm.name == "spa" else logits.sigmoid() if record.output == "sigmoid" else logits
        torch.testing.assert_close(expected, found[0][0], atol=1e-5, rtol=1e-4)
    else:
        with pytest.raises(UserError, match="scores . labels a token; a scalar PRM has 1"):
            load_reward_model("scalar", str(tmp_path))


def test_scales_tell_what_a_score_is(bpe_policy, made):
    scales = {
        name: (args := way(name, bpe_policy, made), trainable(args.prm.name).recorded(args).get("scale", "probability"))[1] for name in WAYS
    }
    assert {n for n, s in scales.items() if s == "order"} == {"pqm", "pqm of outcomes", "pairs", "trajectory"}
    assert {n for n, s in scales.items() if s == "share"} == {"spa"}
    assert all(objective_of(way(name, bpe_policy, made)).scale == scale for name, scale in scales.items())


@pytest.mark.parametrize("kind", ["scalar", "two_head", "heads", "hierarchical"])
def test_labels_that_do_not_estimate_the_outcome_say_so_in_the_record(kind, bpe_policy, made, tmp_path):
    about = json.loads((made / "targets/labels.json").read_text())
    folder = shutil.copytree(made / "targets", tmp_path / "rpe")
    (folder / "labels.json").write_text(json.dumps(about | {"method": "rpe", "scale": "judgement"}))
    args = flags_of(bpe_policy, "--prm.name", kind, "--label.sidecar", folder)
    assert problems_of_flags(args) == [] and objective_of(args).scale == "judgement"
    record = Record(kind=kind, **trainable(kind).recorded(args))
    advantage = SimpleNamespace(estimator="turn_gae", values="prm", process_reward="none")
    told = _value_problems("prm", record, SimpleNamespace(algo=SimpleNamespace(advantage=advantage)), True)
    assert record.scale == "judgement" and "does not estimate the outcome; take --algo.advantage.values critic" in told[0]
    (folder / "labels.json").write_text(json.dumps(about | {"scale": "dB"}))
    assert "says the scale 'dB'" in problems_of_flags(args)[-1]
