"""Estimators in real PPO runs: PRIME's token rewards, a prover beside the judge with running scales that survive a resume, a PRM behind a URL."""

import json
import math
import re
from collections import Counter

import pytest
import torch
from servers import serving
from test_ppo import ppo

pytestmark = pytest.mark.host
GAME = ["--env.name", "thirdparty_count", "--env.max_turns", 3, "--env.max_tokens_per_turn", 4, "--env.num_workers", 8]
GAME += ["--algo.kl.init_coef", 0]  # no reference


def test_prime_pays_single_tokens_by_an_implicit_prm_in_a_mixture_of_environments(tiny, implicit_prm, tmp_path):
    parts = [{"env": "thirdparty_count", "weight": 3}, {"env": "thirdparty_patient", "name": "short", "max_turns": 1}]
    found, _ = ppo(
        *GAME, "--env.name", "mixture", "--env.args", json.dumps({"parts": parts}), "--env.num_tasks", 16,
        "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", implicit_prm, "--prm.param_dtype", "fp32",
        "--algo.advantage.estimator", "implicit", "--algo.advantage.process_weight", 2.0, "--ckpt.output_dir", tmp_path / "out",
    )  # fmt: skip
    assert len(found) == 2
    for status in found.values():
        assert math.isfinite(status["policy_loss"]) and status["process/reward_mean"] != 0 and "critic_loss" not in status
        longest = {"thirdparty_count": 3, "short": 1}
        assert sum(status.get(f"env/{part}/episodes", 0) for part in longest) == 16
        assert all(0 < status.get(f"env/{part}/turns", 1) <= most for part, most in longest.items())
        by_part = sum(status.get(f"env/{part}/episodes", 0) * status.get(f"env/{part}/outcome_mean", 0) for part in longest)
        assert by_part / 16 == pytest.approx(status["turns/outcome_mean"])
    tasks = [json.loads(line)["datasource"] for line in (tmp_path / "out/agentprm/prompts.jsonl").read_text().splitlines()]
    assert Counter(tasks) == {"thirdparty_count": 12, "short": 4}
    played = {part: sum(status.get(f"env/{part}/episodes", 0) for status in found.values()) for part in longest}
    assert played == {"thirdparty_count": 24, "short": 8}, "a pass plays every prompt twice, in whichever step the shuffle puts it"
    # a turn's reward is the sum of its tokens', and Q is σ of the sum of turns': all through one worker, so the two agree in sign
    assert abs(found[1]["process/reward_mean"]) < 5


def turns_so_far(folder, step):
    """How many process rewards the running statistics of a checkpoint have seen."""
    states = torch.load(next((folder / f"_actor/global_step{step}").glob("mp_rank_00_model_states.pt")), weights_only=False)
    return float(states["agentprm"]["process"][0])


def test_a_prover_judges_beside_the_policys_prm_and_running_scales_survive_a_resume(tiny, prm, implicit_prm, tmp_path):
    """And the same seed gives the same curve, to the bit, where the host's flag asks for it."""
    flags = [
        *GAME, "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", prm, "--prm.prover_model_name_or_path", implicit_prm,
        "--algo.advantage.estimator", "pav", "--algo.advantage.options", '{"alpha": 2.0}', "--algo.advantage.scaling", "scale",
        "--algo.advantage.whiten", "turns", "--env.num_tasks", 16, "--actor.adam.lr", 1e-3, "--train.full_determinism_enable",
    ]  # fmt: skip
    kept = ["--ckpt.output_dir", tmp_path / "out", "--ckpt.path", tmp_path / "state", "--ckpt.save_steps", 1, "--ckpt.max_num", 9]
    first, _ = ppo(*flags, *kept, "--ckpt.load_enable")
    assert sorted(first) == [1, 2] and all(math.isfinite(s["policy_loss"]) for s in first.values())
    turns = [first[step]["turns/per_episode"] * 16 for step in (1, 2)]
    assert [turns_so_far(tmp_path / "state", step) for step in (1, 2)] == pytest.approx([turns[0], sum(turns)])
    more, _ = ppo(*flags, *kept, "--ckpt.load_enable", "--train.num_episodes", 2)
    assert sorted(more) == [3, 4]
    after = sum(turns) + sum(more[step]["turns/per_episode"] * 16 for step in (3, 4))
    assert turns_so_far(tmp_path / "state", 4) == pytest.approx(after), "it counts on from the checkpoint"
    again, _ = ppo(*flags, "--ckpt.output_dir", tmp_path / "again")
    assert untimed(again) == untimed(first) and all(s["actor_grad_norm"] > 0 and s["turns/per_episode"] > 1 for s in first.values())


def untimed(found):
    return {step: {k: v for k, v in status.items() if not re.search("tim|seconds", k)} for step, status in found.items()}


def test_a_prm_behind_a_url_pays_by_its_lowest_score(tiny, prm, tmp_path):
    with serving(prm) as (url, _):
        found, _ = ppo(
            *GAME, "--env.num_tasks", 16, "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", url,
            "--algo.advantage.estimator", "min_form", "--algo.advantage.bound", "par", "--algo.advantage.length_correction", "turn",
            "--env.spare_prompts", 4, "--ckpt.output_dir", tmp_path / "out",
        )  # fmt: skip
    assert sorted(found) == [1, 2], "what was given up in the first step came again in the second"
    assert all(status["rollout/num_samples"] == 16 for status in found.values())
    assert found[1]["given_up_samples"] > 0 == found[2]["given_up_samples"], "24 episodes were begun of which 16 were wanted, then 16"
    for status in found.values():
        assert math.isfinite(status["policy_loss"]) and 0 < status["process/reward_mean"] < 1, "preferences are between 0 and 1"
        assert "prm/promise_turn1" in status


def test_no_turn_is_lost_across_weight_updates_and_each_knows_its_versions(tiny, prm, tmp_path):
    """Partial rollouts: generation is paused for new weights in the middle of episodes, and goes on."""
    found, _ = ppo(
        *GAME, "--env.name", "thirdparty_noted", "--env.args", json.dumps({"file": str(tmp_path / "played")}), "--env.num_tasks", 48,
        "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", prm,
        "--algo.advantage.estimator", "outcome", "--algo.advantage.process_reward", "delta", "--algo.advantage.baseline", "reinforce_baseline",
        "--train.async_enable", "--train.partial_rollout_enable", "--train.async_queue_size", 2, "--ckpt.output_dir", tmp_path / "out",
    )  # fmt: skip
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for step, status in found.items():
        assert status["turns/per_episode"] == pytest.approx(status["turns"]), "what the environments played is what is trained on"
        assert sum(v for k, v in status.items() if k.startswith("status/")) == 16 == status["rollout/num_samples"]
        assert 0 <= status["turns/policy_version_first"] <= status["turns/policy_version_last"] <= step - 1
        assert 0 <= status["turns/mixed_versions"] <= 1 and math.isfinite(status["policy_loss"])
    played = Counter((tmp_path / "played").read_text().split())
    assert set(played) == {f"train-{i}" for i in range(48)} and set(played.values()) == {2}, (
        "two samples of each task, none lost and none twice"
    )
    newest = [found[step]["turns/policy_version_last"] for step in sorted(found)]
    assert newest == sorted(newest) and newest[-1] >= 2, "weights reach the engine while it plays"
