"""A policy that games its PRM, for real: a reward model that pays for repeating an action, on a counting game."""

import os

import pytest
import torch
from gaming import PAYS, gamed, imitate, success
from safetensors.torch import load_file

pytestmark = pytest.mark.host
SLOW, STEPS = ["--actor.adam.lr", 5e-5], 30  # the flaw is found over several batches, as a sample of 128 episodes has to show it
FAST, FEW = ["--actor.adam.lr", 2e-4], 13  # where it is asked what an alarm ends, not when it rings or what is learnt behind it
BOUNDED = ["min_form"]  # forms in which the flaw earns no more the longer an episode is


@pytest.fixture(scope="module")
def learnt(tiny, count_store, tmp_path_factory):
    """A policy that counts rightly more often than not."""
    folder = tmp_path_factory.mktemp("learnt") / "policy"
    imitate(tiny, count_store, folder)
    return folder


@pytest.fixture(scope="module")
def summed(learnt, tmp_path_factory):
    """The rows of a run that is paid the sum; the same curve each time, as few batches lie between the alarm and a fall by ten points."""
    watched = ["--prm.monitor_every", 1, "--train.full_determinism_enable"]
    return gamed(learnt, tmp_path_factory.mktemp("sum"), *PAYS["sum"], *SLOW, *watched, steps=STEPS)[0]


def test_the_alarm_rings_before_success_has_fallen_by_ten_points(summed):
    start, end = success(summed, 2), success(summed, STEPS - 1)
    told = [round(row["success"], 2) for row in summed["training"]]
    assert len(told) == STEPS and end < start - 0.1, f"it is gamed: {told}"
    assert len(summed["alarm"]) == 1, told
    rang = summed["alarm"][0]["step"]
    assert success(summed, rang) > start - 0.1, (rang, told)
    first, last = summed["training"][0], summed["training"][-1]
    assert last["prm_reward"] > first["prm_reward"] + 1 and last["repeated_actions"] > 2 * first["repeated_actions"] and last["gap"] > 2
    assert last["promise_drift"] > 0.2 > first["promise_drift"] and last["turns_drift"] > 1 and last["valid_actions"] > 0.5


@pytest.mark.parametrize("form", BOUNDED)
def test_bounded_forms_withstand_it_longer(learnt, summed, form, tmp_path):
    rows, _ = gamed(learnt, tmp_path, *PAYS[form], *SLOW, "--prm.monitor_every", 1, steps=STEPS)
    rang = [row["step"] for row in rows["alarm"]]
    assert not rang or rang[0] > summed["alarm"][0]["step"]
    assert success(rows, STEPS - 1) > success(summed, STEPS - 1) + 0.1


def test_an_alarm_ends_the_run_with_the_best_held_out_policy(learnt, tmp_path):
    """The host's evaluation on held-out tasks, one before the first step; its loggers; the checkpoint that is gone back to."""
    held_out = ["--prm.monitor_every", 3, "--env.eval_tasks", 64, "--eval.n_samples_per_prompt", 2, "--eval.temperature", 1.0]
    more = ["--prm.early_stop", "best", "--ckpt.save_hf", "--logger.tensorboard_dir", tmp_path / "board"]
    more += ["--logger.wandb.key", "0123456789" * 4]
    offline = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "HOME": str(tmp_path)}
    rows, log = gamed(learnt, tmp_path / "run", *PAYS["sum"], *FAST, *held_out, *more, steps=FEW, env=offline)
    (alarm,) = rows["alarm"]
    assert alarm["action"] == "best" and rows["training"][-1]["step"] == alarm["step"] < FEW
    steps = [row["step"] for row in rows["held_out"]]
    assert steps == list(range(0, alarm["step"] + 1, 3)), "by the host's own evaluation, and before the first step"
    assert all(row["episodes"] == 128 and row["prm_reward"] > 0 and 0 < row["success"] <= 1 for row in rows["held_out"])
    best = max(rows["held_out"], key=lambda row: row["success"])["step"]
    assert f"the policy is that of best_global_step{best}" in log
    saved, kept = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "run", tmp_path / f"run/state/best_global_step{best}_hf")
    )
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    from openrlhf_agentprm.report.curves import read_scalars

    scalars = read_scalars(tmp_path / "board")
    assert [step for step, _ in scalars["eval/monitor/prm_reward"]] == steps and scalars["train/monitor/alarm"][-1] == (alarm["step"], 1.0)
    assert all(0 < value < 10 for _, value in scalars["train/turns/entropy"])
    [kept] = tmp_path.rglob("*.wandb")
    assert all(f"{part}/monitor/prm_reward".encode() in kept.read_bytes() for part in ("train", "eval")), "names stand in it as text"


def test_behind_the_alarm_outcomes_bring_success_back_asynchronously_too(learnt, summed, tmp_path):
    """Through a queue, with held-out tasks, and long enough for success to recover."""
    flags = ["--prm.monitor_every", 4, "--env.eval_tasks", 32, "--eval.n_samples_per_prompt", 1, "--eval.temperature", 1.0]
    rows, _ = gamed(learnt, tmp_path, *PAYS["sum"], *SLOW, *flags, "--prm.early_stop", "outcome", "--train.async_enable", steps=STEPS)
    (alarm,) = rows["alarm"]
    assert alarm["action"] == "outcome" and len(rows["training"]) == STEPS
    assert rows["held_out"][0]["step"] == 0 and len(rows["held_out"]) >= 3
    paid = {row["step"]: row["prm_reward"] for row in rows["training"]}
    assert paid[STEPS] < max(paid.values()) - 0.3, f"what pays nothing is given up: {paid}"
    assert success(rows, STEPS - 1) > success(summed, STEPS - 1) + 0.2
