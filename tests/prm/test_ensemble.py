"""Ensembles: the combinations by hand, from disk, in a command; what does not go together is refused."""

import json

import pytest
import torch
from launching import here, module

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.core.batches import ProcessScores
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.prm.kinds.ensemble import EnsemblePRM
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, load_reward_model, make_batch


class Fixed:
    def __init__(self, *q):
        self.q = torch.tensor([q])

    def score(self, batch):
        return ProcessScores(self.q, self.q / 2)


@pytest.mark.parametrize(
    ("combine", "q"),
    [("mean", [2.0, 0.5]), ("min", [0.0, 0.5]), ("lcb", [2.0 - 0.5 * (8 / 3) ** 0.5, 0.5])],  # 0, 2, 4: variance (4 + 0 + 4) / 3
)
def test_combinations_by_hand(combine, q):
    scores = EnsemblePRM([Fixed(0.0, 0.5), Fixed(2.0, 0.5), Fixed(4.0, 0.5)], combine, 0.5).score(None)
    assert scores.q_BK[0].tolist() == pytest.approx(q) and scores.v_BK[0].tolist() == pytest.approx([x / 2 for x in q])


@pytest.fixture(scope="module")
def members(bpe_policy, tmp_path_factory):
    """Three PRMs whose heads differ."""
    folder = tmp_path_factory.mktemp("ensemble")
    for seed in range(3):
        model = start_from(str(bpe_policy), dtype="fp32", seed=seed)
        with torch.no_grad():
            model.score.weight.mul_(30)
        save_prm(model, load_tokenizer(str(bpe_policy)), folder / f"prm{seed}", Record(method="td_gae"))
    return folder


def written(folder, name, **about):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "ensemble.json").write_text(json.dumps({"members": [f"../prm{n}" for n in range(3)]} | about))
    return str(folder / name)


def test_an_ensemble_scores_as_its_members_do(members):
    ids = torch.randint(5, 60, (17,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = make_batch([ids], [[(4, 6), (9, 10), (14, 17)]])
    each = torch.stack([ScalarPRM.load(str(members / f"prm{n}")).score(batch).q_BK for n in range(3)])
    assert float(each.std(0).min()) > 0.01
    for combine, wanted in (("mean", each.mean(0)), ("min", each.amin(0)), ("lcb", each.mean(0) - 2 * each.std(0, correction=0))):
        prm = load_reward_model("ensemble", written(members, combine, combine=combine, kappa=2.0), dtype="fp32")
        torch.testing.assert_close(prm.score(batch).q_BK, wanted)


def test_what_does_not_go_together_is_refused(members, tiny, tmp_path):
    with pytest.raises(UserError, match="there is no .*ensemble.json; an ensemble is a folder"):
        EnsemblePRM.load(str(tmp_path))
    with pytest.raises(UserError) as raised:
        EnsemblePRM.load(written(members, "bad", members=["../prm0"], combine="lbc", kappa=-1, weights=[1]))
    assert len(raised.value.problems) == 4 and "did you mean" in str(raised.value)
    other = start_from(str(tiny), dtype="fp32")
    save_prm(other, load_tokenizer(str(tiny)), members / "other", Record(method="td_gae"))
    with pytest.raises(UserError, match="different vocabularies"):
        EnsemblePRM.load(written(members, "unlike", members=["../prm0", "../other"]))
    save_prm(
        start_from(str(members / "prm0"), dtype="fp32"),
        load_tokenizer(str(members / "prm0")),
        members / "sigmoid",
        Record(output="sigmoid"),
    )
    with pytest.raises(UserError, match="unlike outputs or values"):
        EnsemblePRM.load(written(members, "scales", members=["../prm0", "../sigmoid"]))


@pytest.mark.host
def test_a_command_takes_an_ensemble(tiny, sampled_store, tmp_path):
    for seed in range(2):
        save_prm(
            start_from(str(tiny), dtype="fp32", seed=seed), load_tokenizer(str(tiny)), tmp_path / f"prm{seed}", Record(method="td_gae")
        )
    members = [tmp_path / "prm0", tmp_path / "prm1"]
    module("ensemble", "--ensemble.members", *members, "--ensemble.combine", "lcb", "--ensemble.output", tmp_path / "both")
    assert json.loads((tmp_path / "both/ensemble.json").read_text())["members"] == ["../prm0", "../prm1"]
    wrong = here("ensemble", "--ensemble.members", tmp_path / "prm0", tiny, "--ensemble.output", tmp_path / "no")
    assert wrong.returncode == 2 and "not a process reward model" in wrong.stderr and not (tmp_path / "no/ensemble.json").exists()
    line = ["--eval.dataset", sampled_store, "--prm.model_name_or_path", f"LCB={tmp_path / 'both'}"]
    done = module("evaluate", *line, "--eval.output", tmp_path / "evaluation.json")
    assert "LCB" in done.stdout and "LCB" in json.loads((tmp_path / "evaluation.json").read_text())["prm_quality"]
