"""PRMs trained while PPO runs, for real: PRIME before the advantages and resumed, AgentPRM beside the policy step by two workers."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from test_ppo import ppo
from test_ppo_estimators import GAME

from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import load_reward_model, make_batch

pytestmark = pytest.mark.host


def first_score(path):
    return float(load_reward_model("auto", str(path)).score(make_batch([[5, 6, 7, 8, 9]], [[(2, 5)]])).q_BK)


def test_prime_trains_its_prm_first_and_a_resumed_run_goes_on(tiny, implicit_prm, tmp_path):
    flags = [
        *GAME, "--env.num_tasks", 16, "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", implicit_prm, "--prm.param_dtype", "fp32",
        "--algo.advantage.estimator", "implicit", "--prm.update_every", 1, "--prm.update_mode", "before", "--prm.adam.lr", 1e-3,
        "--train.colocate_all", "--prm.offload",
        "--ckpt.output_dir", tmp_path / "out", "--ckpt.path", tmp_path / "state", "--ckpt.save_steps", 1, "--ckpt.load_enable",
    ]  # fmt: skip
    found, _ = ppo(*flags)
    more, _ = ppo(*flags, "--train.num_episodes", 2)
    assert sorted(found) == [1, 2] and sorted(more) == [3, 4]
    for step, status in (found | more).items():
        assert status["prm_update/updates"] == step and status["prm_update/episodes"] == 16, "it counts on from the checkpoint"
        assert status["prm_update/grad_norm"] > 0 and math.isfinite(status["policy_loss"]) and status["prm_update/stopped"] == 0
    tags = {folder.name for folder in (tmp_path / "state/_prm").iterdir()}
    assert "global_step4" in tags and tags >= {f.name for f in (tmp_path / "state/_actor").iterdir() if f.is_dir()}
    kept = torch.load(tmp_path / "state/_prm/global_step4/state.pt")
    assert kept["done"]["updates"] == 4
    record = Record.load(tmp_path / "out/prm")
    assert record.kind == "implicit" and record.options["online"]["updates"] == 4 and record.options["online"]["mode"] == "before"
    assert first_score(tmp_path / "out/prm") != first_score(implicit_prm)


def test_agentprm_learns_beside_the_policy_step_by_two_workers(tiny, prm, tmp_path):
    """Every second rollout, on the episodes of both; tasks are held out; a run that is watched."""
    found, _ = ppo(
        *GAME, "--env.num_tasks", 32, "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", prm, "--prm.param_dtype", "fp32",
        "--prm.num_gpus_per_node", 2, "--rollout.micro_batch_size", 4, "--algo.advantage.estimator", "turn_gae",
        "--algo.advantage.values", "prm", "--prm.update_every", 2, "--prm.update_mode", "after", "--prm.adam.lr", 1e-3,
        "--label.lambd", 0.9, "--prm.eval_share", 0.3, "--prm.patience", 5, "--prm.monitor_every", 5, "--ckpt.output_dir", tmp_path / "out",
    )  # fmt: skip
    assert sorted(found) == [1, 2, 3, 4]
    assert [step for step in sorted(found) if "prm_update/loss" in found[step]] == [2, 4]
    for step in (2, 4):
        status = found[step]
        assert status["prm_update/episodes"] + status["prm_update/held_out"] == 32, "two rollouts of sixteen"
        assert status["prm_update/updates"] == step // 2 and status["prm_update/loss"] > 0 and status["prm_update/time_s"] > 0
    rows = [json.loads(line) for line in (tmp_path / "out/monitor.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "prm_update/loss" in row] == [2, 4]
    record = Record.load(tmp_path / "out/prm")
    assert (record.kind, record.method, record.options["online"]["updates"]) == ("scalar", "td_gae", 2)
    assert first_score(tmp_path / "out/prm") != first_score(prm)


def test_another_number_of_workers_gives_the_same_scores(prm, monkeypatch):
    """Of seven episodes, in float32, by one worker and by two; weights that are offloaded in between."""
    import ray
    from openrlhf.trainer.ray.launcher import RayActorGroup
    from openrlhf.utils import get_strategy
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host import cluster
    from openrlhf_agentprm.host.cpu import MODE_VARIABLE
    from openrlhf_agentprm.host.held_out import scores_of
    from openrlhf_agentprm.host.parsers import host_parser
    from openrlhf_agentprm.host.prm_worker import PRMModelActor

    draw = torch.Generator().manual_seed(0)
    samples = []
    for turns in range(1, 8):
        numbers = torch.tensor([0, 0, *(k for turn in range(1, turns + 1) for k in (turn, turn, 0))])[None]
        tokens = torch.randint(5, 20, (1, numbers.shape[1] + 1), generator=draw)
        samples.append(SimpleNamespace(sequences=tokens, attention_mask=torch.ones_like(tokens), turn_numbers=numbers))
    monkeypatch.setenv(MODE_VARIABLE, "cpu")
    cluster.join_or_start(cluster._runtime_env({}), gpus=3, cpus=6)
    found = {}
    try:
        for workers in (1, 2):
            line = ["--actor.model_name_or_path", "x", "--prm.model_name_or_path", str(prm), "--prm.param_dtype", "fp32", "--prm.offload"]
            line += ["--prm.num_gpus_per_node", str(workers), "--ds.attn_implementation", "sdpa", "--ds.zero_stage", "0"]
            args = hierarchize(host_parser("train_ppo_ray").parse_args(line))
            group = RayActorGroup(1, workers, PRMModelActor, num_gpus_per_actor=1)
            ray.get(group.async_init_model_from_pretrained(get_strategy(args), str(prm)))
            found[workers] = scores_of(args, group, samples)
    finally:
        ray.shutdown()
    for one, two in zip(found[1], found[2], strict=True):
        for name in ("q_BK", "v_BK"):
            turns = min(one[name].shape[1], two[name].shape[1])
            torch.testing.assert_close(one[name][:, :turns], two[name][:, :turns], atol=1e-5, rtol=0)
    assert len({round(float(row["q_BK"][0, 0]), 4) for row in found[1]}) > 3
