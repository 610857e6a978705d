"""Which policy the next iteration starts from: the rule on stores with planted outcomes, its record, and what it refuses."""

import json
from types import SimpleNamespace

import pytest
from launching import here

from openrlhf_agentprm.agents.digest import policy_digest
from openrlhf_agentprm.cli.select import select
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.store import EpisodeWriter

TASKS = 40


def policy_of(folder, name):
    path = folder / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"name": name}))
    return path


def played(folder, policy, wins, *, temperature=1.0, tasks=TASKS, broken=0):
    """Four samples of each task, the first `wins` of them successes in every task but the first, which nobody solves."""
    store = folder / f"valid-{policy.name}-{temperature}-{tasks}"
    with EpisodeWriter(store) as writer:
        for task in range(tasks):
            for sample in range(4 + broken):
                status = Status.ENV_ERROR if sample >= 4 else Status.SUCCESS if task and sample < wins else Status.FAILURE
                sampling = {"temperature": temperature}
                turns = [Turn("see", "go", 1, 2)]
                outcome = float(status is Status.SUCCESS)
                writer.add(
                    Episode("doors", f"t{task}", "validation", 0, sample, str(policy), policy_digest(policy), sampling, status, outcome,
                            True, False, [1, 2], turns)
                )  # fmt: skip
    return store


def judge(folder, policy, store, output, before=None, forced=False):
    how = SimpleNamespace(
        dataset=str(store), before=before and str(folder / before), output=str(folder / output), build_on_failed_enable=forced
    )
    return select(SimpleNamespace(policy=SimpleNamespace(model_name_or_path=str(policy)), select=how))


def leads(folder, output):
    return [(folder / output / link).resolve().name for link in ("next", "best")]


def test_the_best_is_kept_and_a_policy_that_fails_is_not_built_on(tmp_path):
    policies = {name: policy_of(tmp_path, name) for name in ("pi0", "pi1", "pi2", "pi3")}
    stores = {name: played(tmp_path, policies[name], wins) for name, wins in (("pi0", 1), ("pi1", 3), ("pi2", 2), ("pi3", 4))}
    first = judge(tmp_path, policies["pi0"], stores["pi0"], "choice0")
    assert leads(tmp_path, "choice0") == ["pi0", "pi0"] and not first["failed"]
    assert (
        first["judged"]["mean"] == pytest.approx(39 / 40 * 0.25)
        and first["judged"]["low"] < first["judged"]["mean"] < first["judged"]["high"]
    )
    judge(tmp_path, policies["pi1"], stores["pi1"], "choice1", "choice0")
    assert leads(tmp_path, "choice1") == ["pi1", "pi1"]
    worse = judge(tmp_path, policies["pi2"], stores["pi2"], "choice2", "choice1")
    assert worse["failed"] and leads(tmp_path, "choice2") == ["pi1", "pi1"], "better than the first, but worse than the one it started from"
    assert worse["gains"]["start"] == pytest.approx({"mean": -39 / 160, "low": -0.25, "high": -0.2, "tasks": 40}, abs=0.05)
    assert worse["gains"]["start"]["high"] < 0 and "it fails" in worse["sentence"]
    forced = judge(tmp_path, policies["pi2"], stores["pi2"], "forced", "choice1", forced=True)
    assert forced["failed"] and leads(tmp_path, "forced") == ["pi2", "pi1"], "told so, it is built on; the best stays"
    last = judge(tmp_path, policies["pi3"], stores["pi3"], "choice3", "choice2")
    assert leads(tmp_path, "choice3") == ["pi3", "pi3"] and last["start"]["policy"] == str(policies["pi1"])
    assert policy_digest(str(tmp_path / "choice3/next")) == policy_digest(policies["pi3"]), "a link is the same policy"
    (tmp_path / "choice3").rename(tmp_path / "moved")
    assert leads(tmp_path, "moved") == ["pi3", "pi3"], "links are relative"


def test_a_difference_within_the_error_is_built_on(tmp_path):
    one, other = policy_of(tmp_path, "one"), policy_of(tmp_path, "other")
    before = played(tmp_path, one, 2)
    judge(tmp_path, one, before, "choice0")
    worse = played(tmp_path, other, 2)
    with EpisodeWriter(worse) as writer:  # one of the tasks was played twice as often, and not solved then
        for sample in range(4, 8):
            writer.add(
                Episode("doors", "t5", "validation", 0, sample, str(other), policy_digest(other), {"temperature": 1.0}, Status.FAILURE, 0.0,
                        True, False, [1, 2], [Turn("see", "go", 1, 2)])
            )  # fmt: skip
    found = judge(tmp_path, other, worse, "choice1", "choice0")
    assert found["gains"]["start"]["mean"] == pytest.approx(-0.25 / 40) and not found["failed"]
    assert leads(tmp_path, "choice1") == ["other", "one"], "the next iteration starts from it, and the best is still the one before"
    drift = played(tmp_path, policy_of(tmp_path, "drift"), 1)
    assert judge(tmp_path, tmp_path / "drift", drift, "choice2", "choice1")["failed"]
    assert leads(tmp_path, "choice2") == ["one", "one"], "after a failure it goes on from the best, not from where that one started"


def test_what_cannot_be_compared_is_refused(tmp_path):
    one, other = policy_of(tmp_path, "one"), policy_of(tmp_path, "other")
    judge(tmp_path, one, played(tmp_path, one, 2, broken=1), "choice0")
    assert json.loads((tmp_path / "choice0/selection.json").read_text())["judged"]["left_out"] == TASKS
    with pytest.raises(UserError, match="which is not .*other as it is now; play validation tasks again"):
        judge(tmp_path, other, played(tmp_path, one, 2), "choice1", "choice0")
    with pytest.raises(UserError, match="policies are compared in one setting"):
        judge(tmp_path, other, played(tmp_path, other, 2, temperature=0.5), "choice1", "choice0")
    with pytest.raises(UserError, match="is no finished selection"):
        judge(tmp_path, other, played(tmp_path, other, 2), "choice1", "nowhere")
    assert not (tmp_path / "choice1/selection.json").exists()


def test_the_command_tells_what_it_chose(tmp_path):
    one = policy_of(tmp_path, "one")
    flags = ["--policy.model_name_or_path", one, "--select.dataset", played(tmp_path, one, 2), "--select.output", tmp_path / "out"]
    told = here("select", *flags).stdout
    assert "judged   48.8 % [" in told and "It is the first policy." in told
    wrong = here("select", *flags, "--select.befor", tmp_path)
    assert wrong.returncode == 2 and "did you mean '--select.before'?" in wrong.stderr
