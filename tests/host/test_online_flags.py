"""What is refused of a PRM that is to be trained while PPO runs, all at once and by name; and what its objective is told."""

import argparse
from types import SimpleNamespace

import pytest

from openrlhf_agentprm.core.arguments import nest
from openrlhf_agentprm.host.online_flags import add_online_flags, flags_of, online_problems
from openrlhf_agentprm.prm.record import Record


def arguments(path, *flags, name="auto", dtype="fp32", reward=None):
    parser = argparse.ArgumentParser()
    add_online_flags(parser.add_argument_group())
    args = nest(parser.parse_args(flags))
    args.prm.name, args.prm.model_name_or_path, args.prm.param_dtype = name, path and str(path), dtype
    args.env = SimpleNamespace(name=None if reward else "babyai")
    args.reward = SimpleNamespace(model_name_or_path=reward, remote_url=None)
    args.train = SimpleNamespace(seed=0, agent_func_path=None)
    args.ckpt = SimpleNamespace(output_dir="out")
    return args


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a record and no weights, which no check reads."""

    def make(**fields):
        Record(**{"method": "td_gae"} | fields).save(tmp_path)
        return tmp_path

    return make


ON = ["--prm.update_every", "1"]
WRONG = [
    ({}, ["--prm.adam.lr", "1e-5"], "--prm.adam.lr is given, but the PRM is not trained; give --prm.update_every"),
    ({}, ["--label.name", "td_gae"], "--label.name is given, but the PRM is not trained"),
    ({}, [*ON, "--prm.adam.lr", "0"], "--prm.adam.lr is 0.0; wanted a number above 0"),
    ({}, [*ON, "--prm.train_epochs", "0"], "--prm.train_epochs is 0; wanted 1 or more"),
    ({}, [*ON, "--prm.eval_share", "1"], "--prm.eval_share is 1.0; wanted a share of the tasks from 0 to below 1"),
    ({}, [*ON, "--prm.patience", "2"], "--prm.patience goes by tasks that are held out; give --prm.eval_share"),
    ({}, [*ON, "--label.name", "mc_visits"], "--label.name mc_visits makes its labels from a whole store"),
    ({}, [*ON, "--label.name", "td_qv", "--loss.value_coef", "0"], "--loss.value_coef 0 trains no V, which --label.name td_qv"),
    ({"options": {"kind": "pqm"}, "scale": "order"}, ON, "was trained with --loss.kind pqm, whose labels rollouts do not bring"),
    ({"method": "rpe", "scale": "judgement"}, ON, "Q judges the turn by a rule of its label"),
    ({"kind": "inverse", "method": "expert"}, ON, "a PRM of kind inverse learns from demonstrations, which rollouts are not"),
    ({"kind": "generative", "method": "yes"}, ON, "--prm.name generative cannot be trained"),
    ({"kind": "spa", "method": "outcome"}, [*ON, "--label.lambd", "0.5"], "--label.lambd is given, but a PRM of kind spa does not read it"),
    ({"method": "outcome_all"}, [*ON, "--label.gamma", "0.5"], "--label.gamma is given, but a PRM of kind scalar does not read it"),
]


@pytest.mark.parametrize(("fields", "flags", "told"), WRONG, ids=[told for _, _, told in WRONG])
def test_what_makes_no_sense_is_told(fields, flags, told, checkpoint):
    problems = online_problems(arguments(checkpoint(**fields), *flags))
    assert any(told in problem for problem in problems), problems


def test_further_refusals_and_all_at_once(checkpoint, tmp_path):
    assert "is not given" in online_problems(arguments(None, *ON))[0]
    assert "is served elsewhere" in online_problems(arguments("http://localhost:1", *ON))[0]
    (tmp_path / "several").mkdir()
    (tmp_path / "several/ensemble.json").write_text("{}")
    assert "ensemble cannot be trained" in online_problems(arguments(tmp_path / "several", *ON))[0]
    problems = online_problems(arguments(checkpoint(), *ON, "--prm.max_norm", "0", "--prm.patience", "0", dtype="fp16", reward="rm"))
    told = (
        "--prm.max_norm is 0.0",
        "--prm.patience is 0",
        "give --prm.eval_share",
        "gradients underflow",
        "--reward.model_name_or_path tells none",
    )
    assert len(problems) == 5 and all(any(t in p for p in problems) for t in told)


def test_nothing_is_told_of_what_goes_together(checkpoint):
    assert online_problems(arguments(checkpoint())) == []
    assert online_problems(arguments(checkpoint(), *ON, "--prm.eval_share", "0.1", "--prm.patience", "3", "--label.name", "td_qv")) == []


def test_the_objective_is_told_what_is_given_else_what_the_record_keeps_else_train_prms_defaults(checkpoint):
    path = checkpoint(method="td_qv", values="state", options={"lambd": 0.8, "beta": 0.25, "kind": "soft_bce"})
    flags = flags_of(arguments(path, *ON, "--loss.value_coef", "0.5"), "scalar", Record.load(path))
    assert (flags.label.name, flags.label.lambd, flags.label.gamma, flags.label.values) == ("td_qv", 0.8, 1.0, "state")
    assert (flags.loss.kind, flags.loss.beta, flags.loss.value_coef) == ("soft_bce", 0.25, 0.5)
    other = flags_of(arguments(path, *ON, "--label.name", "outcome_all", "--label.lambd", "0.7"), "scalar", Record.load(path))
    assert (other.loss.beta, other.label.lambd) == (0.0, 0.7), "β of td_qv is not that of another label"
    visits = checkpoint(method="mc_visits")
    assert flags_of(arguments(visits, *ON), "scalar", Record.load(visits)).label.name == "td_gae"
