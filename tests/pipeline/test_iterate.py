"""The iterated recipes at a reduced size, on the real engine, from the quickstart's policy on: a planted failure, an interruption, the variants."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from launching import agentprm, changes

from openrlhf_agentprm.agents.digest import policy_digest
from openrlhf_agentprm.data.store import EpisodeStore
from openrlhf_agentprm.pipeline.folders import recipes_folder
from openrlhf_agentprm.prm.record import Record

pytestmark = pytest.mark.host
SMALL = {
    "iterations": 2, "train_tasks": 24, "samples": 2, "ppo_tasks": 32, "pair_tasks": 24, "validation_tasks": 24, "test_samples": 2, "workers": 8,
    "expert_tasks": 32,
}  # fmt: skip
PPO = {"rollout.batch_size": 16, "rollout.n_samples_per_prompt": 4, "rollout.micro_batch_size": 64, "ckpt.save_steps": 1}
WARM_START = ("demonstrations", "sft", "test_0", "test_best")


def smaller(quick_run, folder, name, *, without=()):
    """The recipe without its warm start, which is the quickstart's, and without fresh tasks."""
    recipe = yaml.safe_load((recipes_folder() / f"{name}.yaml").read_text())
    recipe["run_dir"] = str(folder / "run")
    recipe["vars"] |= {key: value for key, value in SMALL.items() if key in recipe["vars"]}
    stages, block = recipe["stages"], recipe["stages"]["loop"]
    for stage in ("policy0", *WARM_START, *without):
        stages.pop(stage, None)
    for stage in ("test", *without):
        block["stages"].pop(stage, None)
    block["stages"]["prm"]["flags"] |= {"train.batch_size": 16, "train.micro_batch_size": 16, "train.max_epochs": 1}
    if "ppo" in block["stages"]:
        block["stages"]["ppo"]["flags"] |= PPO
    if "choice" in without:
        del block["start"]["choice"]
    text = yaml.safe_dump(recipe, sort_keys=False)
    for stage in ("policy0", "sft"):
        text = text.replace(f"${{stages.{stage}}}", str(quick_run / stage))
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def selection(run, name):
    return json.loads((run / name / "selection.json").read_text())


def test_an_iteration_that_fails_is_not_built_on_and_an_interrupted_loop_goes_on(quick_run, tmp_path):
    path, run = smaller(quick_run, tmp_path, "iterate-agentprm"), tmp_path / "run"
    planted = changes({"ppo-1.actor.adam.lr": 0.1})  # two steps of which leave little of the policy
    process = subprocess.Popen(
        [sys.executable, "-m", "openrlhf_agentprm.cli.main", "run", str(path), *planted], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip
    deadline = time.monotonic() + 500
    while not (run / "state/prm-2.begun").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "what was finished is kept" in told, told
    done = agentprm("run", path, *planted, "--until", "prm-2", timeout=500).stdout
    assert done.count("done before") == 8, done
    before, failed = selection(run, "choice_0"), selection(run, "choice-1")
    assert failed["failed"] and failed["gains"]["start"]["high"] < 0 and failed["judged"]["mean"] < failed["start"]["mean"]
    assert failed["best"] == before["judged"] and (run / "choice-1/next").resolve() == (quick_run / "sft").resolve()
    digest = policy_digest(quick_run / "sft")
    for number in (1, 2):
        episodes = list(EpisodeStore(run / f"episodes-{number}").episodes())
        assert len(episodes) == 48 and {(e.iteration, e.policy_digest) for e in episodes} == {(number, digest)}
    second = Record.load(run / "prm-2")
    assert second.data["start"] == str(run / "prm-1"), "each PRM goes on from the one before"
    assert {i: (d["weight"], d["episodes"] > 20) for i, d in second.data["iterations"].items()} == {"1": (0.5, True), "2": (1.0, True)}
    again = agentprm("run", path, *planted, "--set", "vars.iterations=3", "--dry-run").stdout
    assert "# ppo-3" in again and str(run / "episodes-3") in again
    command = again.partition("# ppo-2")[2].partition("# ")[0]
    assert f"--actor.model_name_or_path {run}/choice-1/next" in command, command


@pytest.mark.parametrize("name", ["iterate-mc", "iterate-inverse"])
def test_the_prms_of_the_variants_go_on_from_one_another_on_all_episodes_so_far(name, quick_run, tmp_path):
    """Both iterations by the same policy, so that no PPO is needed; one policy learns from the inverse PRM alone."""
    without = ("valid", "choice", "valid_0", "choice_0", "report", *(("ppo",) if name == "iterate-mc" else ()))
    path, run = smaller(quick_run, tmp_path, name, without=without), tmp_path / "run"
    text = path.read_text().replace("${stages.choice@previous}/next", str(quick_run / "sft"))
    path.write_text(text)
    agentprm("run", path, "--until", "prm-2", timeout=500)
    first, second = Record.load(run / "prm-1"), Record.load(run / "prm-2")
    assert first.data["start"] == str(quick_run / "sft") and second.data["start"] == str(run / "prm-1")
    assert list(second.data["iterations"]) == ["1", "2"]
    if name == "iterate-mc":
        assert (second.method, second.output) == ("mc_visits", "sigmoid")
        assert second.data["left_out"]["no label"] == 0, "each iteration's labels were read"
    else:
        asked = json.loads((run / "next_actions-2/labels.json").read_text())["dataset"].split(",")
        assert second.method == "expert" and asked == [str(run / name) for name in ("experts", "episodes-1", "episodes-2")]
        log = (run / "logs/ppo-1.log").read_text()
        assert "Global step 2" in log and "'process/reward_mean': nan" not in log
        assert policy_digest(run / "ppo-1") != policy_digest(quick_run / "sft")


def test_a_policy_learns_by_dpo_from_pairs_that_its_prm_ranks(quick_run, tmp_path):
    path, run = smaller(quick_run, tmp_path, "iterate-dpo", without=("valid", "choice", "valid_0", "choice_0", "report")), tmp_path / "run"
    path.write_text(path.read_text().replace("${stages.choice@previous}/next", str(quick_run / "sft")))
    small = changes({"vars.iterations": 1, "vars.margin": 0.0, "dpo.train.batch_size": 4, "dpo.train.micro_batch_size": 4})
    agentprm("run", path, *small, timeout=500)
    ranked = json.loads((run / "pairs-1/labels.json").read_text())
    assert ranked["kind"] == "episode_pairs" and ranked["figures"]["pairs"] >= 4 and ranked["cost"]["scored_tokens"] > 0
    assert policy_digest(run / "dpo-1") != policy_digest(quick_run / "sft")
