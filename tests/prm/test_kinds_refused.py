"""What kinds of reward models refuse: flags that they do not read, data that they cannot learn from, and scores that are no values."""

import json
import re
import shutil

import pytest
import torch
from kinds_at_hand import EPISODES, INVERSE, PATIENCE, SPANS, at, episode, flags_of, model_of, way

from openrlhf_agentprm.agents.chat import load_tokenizer
from openrlhf_agentprm.cli.train_prm import split
from openrlhf_agentprm.cli.train_prm_checks import problems_of_flags
from openrlhf_agentprm.core.batches import ProcessScores
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host.parsers import host_parser
from openrlhf_agentprm.host.ppo_checks import _critic_problems, _value_problems
from openrlhf_agentprm.prm.kinds import check_reward_model, trainable
from openrlhf_agentprm.prm.kinds.ensemble import EnsemblePRM
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model, make_batch

ACTIONS = ["--loss.inverse_contrast", "actions", "--data.next_actions", "n"]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_ensemble_takes_members_of_any_kind_that_mean_the_same(bpe_policy, made, tmp_path):
    for name in ("two_head", "hierarchical", "trajectory"):
        args = way(name, bpe_policy, made)
        model, kind = model_of(args), trainable(args.prm.name)
        del model.__dict__["forward"]
        save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path / name, Record(kind=args.prm.name, method="m", **kind.recorded(args)))
    (tmp_path / "both").mkdir()
    (tmp_path / "both/ensemble.json").write_text(json.dumps({"members": ["../two_head", "../hierarchical"]}))
    batch = make_batch([EPISODES[0].token_ids], [SPANS[0]])
    each = [load_reward_model("auto", str(tmp_path / n)).score(batch) for n in ("two_head", "hierarchical")]
    scores = load_reward_model("auto", str(tmp_path / "both")).score(batch)
    assert isinstance(scores, ProcessScores)
    torch.testing.assert_close(scores.q_BK, (each[0].q_BK + each[1].q_BK) / 2)
    torch.testing.assert_close(scores.v_BK, (each[0].v_BK + each[1].v_BK) / 2)
    (tmp_path / "both/ensemble.json").write_text(json.dumps({"members": ["../two_head", "../trajectory"]}))
    with pytest.raises(UserError, match="unlike outputs or values.*order"):
        EnsemblePRM.load(str(tmp_path / "both"))
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested/ensemble.json").write_text(json.dumps({"members": ["../both", "../two_head"]}))
    with pytest.raises(UserError, match="are ensembles themselves"):
        EnsemblePRM.load(str(tmp_path / "nested"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--prm.name", "spa", "--label.name", "td_gae"], "--label.name is given, but --prm.name spa does not read it"),
        (["--prm.name", "spa", "--loss.kind", "soft_bce"], "--loss.kind is given, but --prm.name spa does not read it"),
        (["--prm.name", "trajectory", "--label.sidecar", "<targets>"], "--label.sidecar is given, but --prm.name trajectory does not read it"),
        (["--prm.name", "trajectory", "--loss.pairs_per_task", "-1"], "--loss.pairs_per_task is -1"),
        (["--prm.name", "two_head", "--loss.kind", "soft_bce"], "--loss.kind is given, but --prm.name two_head does not read it"),
        (["--prm.name", "two_head", "--label.name", "outcome_last"], "trains no progress"),
        (["--prm.name", "two_head", "--loss.beta", "0"], "--loss.beta 0 trains no progress"),
        (["--prm.name", "heads", "--prm.heads", "1"], "--prm.heads is 1; wanted 2 or more"),
        (["--prm.name", "heads", "--loss.kind", "pqm"], "--loss.kind pqm is of --prm.name scalar"),
        (["--prm.name", "heads", "--loss.reduce", "episodes"], "divides an episode's weight out again, and with it the bootstrap samples"),
        (["--prm.name", "hierarchical", "--prm.compressed_copies", "0"], "--prm.compressed_copies is 0"),
        (["--prm.heads", "3"], "--prm.heads is given, but --prm.name scalar with --loss.kind mse does not read it"),
        (["--label.gamma", "1.5"], "--label.gamma is 1.5; wanted a number from 0 to 1"),
        (["--label.lambd", "nan"], "--label.lambd is nan; wanted a number from 0 to 1"),
        (["--loss.beta", "-1"], "--loss.beta is -1; wanted a number of 0 or more"),
        (["--loss.value_coef", "inf"], "--loss.value_coef is inf; wanted a number of 0 or more"),
        (["--loss.zeta", "2"], "--loss.zeta is given, but --prm.name scalar with --loss.kind mse does not read it"),
        (["--loss.kind", "pqm"], "--loss.kind pqm wants turns that are right .* give --label.sidecar"),
        (["--loss.kind", "pqm", "--label.sidecar", "<targets>", "--loss.beta", "2"], "--loss.beta is given, but .* pqm does not read it"),
        (["--label.name", "outcome_all", "--label.gamma", "0.9"], "--label.gamma is given, .* not read it .labels td_gae and td_qv do"),
        (["--label.sidecar", "<targets>", "--label.lambd", "0.5"], "--label.lambd is given, but"),
        (["--label.sidecar", "<targets>", "--label.bootstrap_enable"], "--label.bootstrap_enable is given, but"),
        (["--label.name", "outcome_last", "--label.dense_rewards_enable"], "--label.dense_rewards_enable is given, but"),
        (["--prm.name", "heads", "--prm.kappa", "2"], "--prm.kappa is given, .* .heads with --prm.combine lcb does"),
        ([*INVERSE, "--loss.target_every", "3"], "--loss.target_every is given, .* --loss.inverse_next target does"),
        ([*INVERSE, *ACTIONS, "--loss.inverse_gamma", "0.5"], "--loss.inverse_gamma is given, .* --loss.inverse_contrast transitions does"),
        (["--eval.metric", "auc_last"], "--eval.metric auc_last is what --eval.patience goes by, which is not given"),
        ([*INVERSE, *PATIENCE], "brier_last, which these scores do not have .only which of two scores is higher.*take --eval.metric auc_last"),
        (["--prm.name", "trajectory", *PATIENCE], "brier_last, which these scores do not have"),
        (["--prm.name", "implicit", "--loss.implicit_output", "linear", *PATIENCE], "brier_last, which these scores do not have"),
        (["--loss.kind", "pairs"], "--loss.kind pairs wants preference pairs"),
        (["--loss.kind", "pairs", "--label.sidecar", "<targets>"], "holds targets, but --loss.kind pairs wants pairs"),
        (["--label.sidecar", "<pairs>"], "holds pairs, but --loss.kind mse wants targets of turns"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_flags_that_are_not_read_or_make_no_sense_are_refused(flags, told, bpe_policy, made):
    problems = problems_of_flags(flags_of(bpe_policy, *at(made, flags)))
    assert len(problems) == 1 and re.search(told, problems[0]), problems


def test_training_goes_on_from_the_same_head_only(bpe_policy, tmp_path):
    """Two labels of ours are two heads, and no label 0 and 1 whose difference is a score."""
    for name, kind, labels in (("scalar", "scalar", 1), ("two_head", "two_head", 2), ("heads", "heads", 2), ("spa", "spa", 1)):
        model = start_from(str(bpe_policy), dtype="fp32", labels=labels)
        save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path / name, Record(kind=kind, method="td_gae"))
    Record(kind="implicit", method="outcome", output="sigmoid").save(shutil.copytree(bpe_policy, tmp_path / "implicit"))
    with pytest.raises(UserError, match="scores 2 labels a token; a scalar PRM has 1$"):
        start_from(str(tmp_path / "two_head"), dtype="fp32")
    refused = {
        ("two_head", "scalar"): "is of kind two_head; --prm.name scalar goes on from one of kind scalar, or starts from a language model",
        ("heads", "two_head"): "is of kind heads; --prm.name two_head goes on from one of kind two_head, or",
        ("heads", "heads"): "--prm.heads is 4, but .*heads has 2",
        ("spa", "trajectory"): "is of kind spa; --prm.name trajectory goes on from one of kind trajectory or scalar, or",
        ("scalar", "heads"): "is of kind scalar; --prm.name heads",
    }
    for (start, name), told in refused.items():
        problems = problems_of_flags(flags_of(tmp_path / start, "--prm.name", name))
        assert len(problems) == 1 and re.search(told, problems[0]), problems
    sigmoid = problems_of_flags(flags_of(tmp_path / "scalar", "--loss.kind", "soft_bce", "--label.name", "outcome_all"))
    assert len(sigmoid) == 1 and "--loss.kind soft_bce trains a sigmoid output, but" in sigmoid[0]
    for start, *flags in (("scalar", "spa"), ("two_head", "two_head"), ("heads", "heads", "--prm.heads", 2), ("implicit", "scalar")):
        assert problems_of_flags(flags_of(tmp_path / start, "--prm.name", *flags)) == []


def test_a_kind_that_has_other_heads_than_the_checkpoint_is_told_from_its_files(bpe_policy, tmp_path):
    """Before PPO or a search starts anything: without a look at the weights."""
    made = {"one": ("scalar", 1), "two_head": ("two_head", 2), "two": ("heads", 2), "three": ("heads", 3)}
    for name, (kind, labels) in made.items():
        model = start_from(str(bpe_policy), dtype="fp32", labels=labels)
        save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path / name, Record(method="td_gae", kind=kind))
        (tmp_path / name / "model.safetensors").unlink()
    for name, kind, told in (
        ("two_head", "scalar", "scores 2 labels a token; a scalar PRM has 1$"),
        ("three", "two_head", "scores 3 labels"),
        ("two", "two_head", "is of kind heads, whose heads are others than those that --prm.name two_head reads"),
        ("two_head", "heads", "is of kind two_head, whose heads are others than those that --prm.name heads reads"),
    ):
        with pytest.raises(UserError, match=told):
            check_reward_model(kind, str(tmp_path / name))
    for name, (kind, _) in made.items():
        check_reward_model(kind, str(tmp_path / name))


def test_another_makers_two_labels_go_on_as_one_score_only(bpe_policy, tmp_path):
    """With a bias or without, right and wrong are no promise and progress, nor a bootstrap's two heads."""
    start_from(str(bpe_policy), dtype="fp32", labels=2).save_pretrained(tmp_path / "trl")
    for flags in (["two_head"], ["heads", "--prm.heads", "2"], ["implicit"]):
        problems = problems_of_flags(flags_of(tmp_path / "trl", "--prm.name", *flags))
        assert len(problems) == 1 and "is a two-label classifier of another maker, which goes on as --prm.name scalar" in problems[0]
    for kind in ("scalar", "spa", "trajectory", "hierarchical"):
        assert problems_of_flags(flags_of(tmp_path / "trl", "--prm.name", kind)) == []


def test_flags_that_are_read_are_taken(bpe_policy, made):
    for flags in (
        ["--label.name", "td_qv", "--label.gamma", "0.9", "--label.bootstrap_enable"],
        ["--prm.name", "heads", "--prm.combine", "lcb", "--prm.kappa", "2"],
        [*INVERSE, "--loss.inverse_next", "target", "--loss.target_every", "3", *PATIENCE, "--eval.metric", "auc_last"],
        ["--prm.name", "implicit", *PATIENCE],
        ["--prm.name", "spa", *PATIENCE],
    ):
        assert problems_of_flags(flags_of(bpe_policy, *flags)) == []


def test_a_split_that_leaves_nothing_to_train_on_is_refused(bpe_policy):
    args = flags_of(bpe_policy, "--eval.share", "0.999999")
    with pytest.raises(UserError, match="--eval.share 0.999999 holds out all 2 task.s. of d, and none is left"):
        split(EPISODES, args)
    args.eval.share = 0.0
    assert split(EPISODES, args) == (EPISODES, [])


def test_tasks_of_one_outcome_have_nothing_to_compare(bpe_policy):
    args = flags_of(bpe_policy, "--prm.name", "trajectory")
    with pytest.raises(UserError, match="none of the 1 tasks has episodes of different outcomes"):
        trainable("trajectory").objective([episode(0, task="a"), episode(2, task="a")], args, None)


@pytest.mark.parametrize(
    ("way_name", "told"), [("trajectory", "only which of two scores is higher"), ("spa", "the share of the outcome"), ("two_head", None)]
)
def test_ppo_takes_values_and_critics_only_from_scores_that_are_values(way_name, told, bpe_policy, made, tmp_path, caplog):
    args = way(way_name, bpe_policy, made)
    model, kind = model_of(args), trainable(args.prm.name)
    del model.__dict__["forward"]
    save_prm(model, load_tokenizer(str(bpe_policy)), tmp_path, Record(kind=args.prm.name, method="m", **kind.recorded(args)))
    from openrlhf.utils.config import hierarchize

    line = ["--actor.model_name_or_path", "x", "--algo.advantage.estimator", "turn_gae", "--algo.advantage.values", "prm"]
    ppo = hierarchize(host_parser("train_ppo_ray").parse_args([*line, "--critic.model_name_or_path", str(tmp_path)]))
    found = _value_problems(str(tmp_path), Record.load(tmp_path), ppo, True)
    assert (found == []) if told is None else (len(found) == 1 and told in found[0] and "values critic" in found[0])
    ppo.algo.advantage.estimator = "pav"
    tries = _value_problems(str(tmp_path), Record.load(tmp_path), ppo, True)
    assert (tries == []) if told is None else "of which pav's best of 4 is made" in tries[0]
    ppo.algo.advantage.estimator, ppo.algo.advantage.values = "turn_gae", "critic"
    assert _value_problems(str(tmp_path), Record.load(tmp_path), ppo, True) == []
    assert ("the unit of its process rewards is arbitrary" in caplog.text) is (way_name == "trajectory")
    caplog.clear()
    told_of_critic = _critic_problems(ppo)
    if way_name == "two_head":
        assert "has 2 heads (kind two_head), and a critic reads one" in told_of_critic[0]
    else:
        assert told_of_critic == [] and ("is no value" in caplog.text or "was not trained at the states" in caplog.text)
