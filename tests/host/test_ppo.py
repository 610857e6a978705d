"""PPO for real: registered environments, a PRM in its own worker group, agents written for the host, broken episodes, kills, Ray jobs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import HANG, free_port, module, run, stop_ray

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.host import cluster

pytestmark = pytest.mark.host
HERE = Path(__file__).parent
SMALL = [
    "--data.max_len", 96, "--actor.num_gpus_per_node", 1, "--ref.num_gpus_per_node", 1, "--critic.num_gpus_per_node", 1,
    "--vllm.num_engines", 1, "--vllm.enforce_eager", "--vllm.gpu_memory_utilization", 0.05, "--vllm.sync_backend", "gloo",
    "--rollout.batch_size", 8, "--rollout.n_samples_per_prompt", 2, "--rollout.micro_batch_size", 8, "--train.batch_size", 8,
    "--train.micro_batch_size", 8, "--ds.zero_stage", 0, "--ds.attn_implementation", "sdpa", "--actor.adam.lr", 1e-3, "--critic.adam.lr", 1e-3,
]  # fmt: skip


def steps(text):
    """Every step's metrics, as the host's own logger prints them."""
    found = {}
    for number, line in re.findall(r"Global step (\d+): (\{.*?\})\s*$", text, flags=re.M):
        found[int(number)] = eval(line, {"nan": float("nan"), "inf": float("inf")})
    return found


def ppo(*flags, **kwargs):
    done = module("train_ppo_ray", *SMALL, *flags, **kwargs)
    return steps(done.stdout + done.stderr), done


@pytest.fixture(scope="module")
def silent(tiny, tmp_path_factory):
    """A policy that ends each of its turns at once."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from openrlhf_agentprm.agents.tiny import save_policy

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.embed_tokens.weight[tokenizer.eos_token_id] = 5.0  # tied: whatever was read, its logit is five times the others'
    folder = tmp_path_factory.mktemp("silent") / "policy"
    save_policy(model, tokenizer, folder)
    return folder


def test_the_quickstarts_ppo_run(quick_run):
    """turn_gae with the PRM's values, in the recipe of the README."""
    found = steps((quick_run / "logs/ppo.log").read_text())
    assert sorted(found) == [1, 2, 3]
    for status in found.values():
        assert status["rollout/num_samples"] == 256 and 1 <= status["turns/per_episode"] <= 8
        assert sum(v for k, v in status.items() if k.startswith("status/")) == 256
        assert {"prm/promise_mean", "prm/progress_turn1", "prm/outcome_correlation", "agentprm/time_prm_s", "env_seconds"} <= set(status)
        assert status["agentprm/time_advantages_s"] < 0.03 * status["timing/step_total"], "our cost in a step"
    assert found[1]["prm/outcome_correlation"] > 0.2, "the PRM knows the policy that it was trained on"
    log = (quick_run / "logs/ppo.log").read_text()
    assert "patches active in the driver, 1 rollout actor(s) and their vLLM workers" in log
    written = json.loads((quick_run / "ppo/agentprm/prompts.jsonl").read_text().splitlines()[0])
    assert json.loads(written["label"])["split"] == "train" and written["datasource"] == "babyai"


def test_the_critic_is_read_and_trained_where_turns_begin_with_broken_episodes_left_out(tiny, prm, tmp_path):
    """turn_gae with a critic and progress as reward; a tenth of the tasks break; evaluation; weights reach vLLM; checkpoints."""
    found, done = ppo(
        "--env.name", "thirdparty_faulty", "--env.num_tasks", 32, "--env.eval_tasks", 11, "--env.max_turns", 4, "--env.max_tokens_per_turn", 4,
        "--env.num_workers", 8, "--env.step_timeout", 10, "--env.max_retries", 0, "--actor.model_name_or_path", tiny,
        "--prm.model_name_or_path", prm, "--algo.advantage.estimator", "turn_gae", "--algo.advantage.lambd", 0.95,
        "--algo.advantage.process_reward", "progress", "--algo.advantage.is_correction_level", "token", "--actor.adam.lr", 1e-2,
        "--eval.steps", 2, "--eval.n_samples_per_prompt", 1, "--ckpt.output_dir", tmp_path / "out", "--ckpt.path", tmp_path / "state",
        "--ckpt.save_steps", 2, "--logger.tensorboard_dir", tmp_path / "tb", "--critic.model_name_or_path", prm,
    )  # fmt: skip
    assert len(found) >= 3
    for status in found.values():
        assert status["critic_loss"] == status["critic_loss"] and status["policy_loss"] == status["policy_loss"], "no NaN"
        assert status["kl"] == status["kl"] and "turns/value_explained_variance" in status
    log = done.stdout + done.stderr
    replaced = len(re.findall("another prompt takes its place", log))
    told = sum(s["replaced_samples"] * s["rollout/num_samples"] for s in found.values())
    assert replaced and told == pytest.approx(2 * replaced), "2 samples of each prompt"
    # after large updates the engine's log-probabilities still are the policy's: weights, tied ones too, have reached vLLM
    assert abs(found[3]["vllm_kl"]) < 0.05 and abs(found[3]["ppo_kl"]) < 10
    evaluation = re.search(r"eval_metrics: (\{.*?\})", log)
    metrics = eval(evaluation[1])
    assert metrics["eval_num_samples"] == 11 and 0 <= metrics["eval_thirdparty_faulty_pass1"] <= 1
    assert (tmp_path / "state/_actor").is_dir() and (tmp_path / "state/_critic").is_dir() and (tmp_path / "out/config.json").exists()
    assert list((tmp_path / "tb").rglob("events.*"))


def test_an_agent_written_for_the_host_works_unchanged_with_our_estimators(tiny, prm, tmp_path):
    """Its own file, no Gymnasium: turn ids even without an observation between turns, rewards by turn, a cap of tokens, a PRM; asynchronously."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"input": f"<|user|>count to {i % 3}<|assistant|>", "label": str(i)}) + "\n" for i in range(16)))
    gone = Path(os.environ["RAY_TMPDIR"], "ray/ray_current_cluster")
    gone.parent.mkdir(exist_ok=True)
    gone.write_text(f"127.0.0.1:{free_port()}")  # as a crash or a reboot leaves it
    found, done = ppo(
        "--train.agent_func_path", HERE / "agents/host_agent.py", "--data.prompt_dataset", prompts, "--data.input_key", "input",
        "--data.label_key", "label", "--actor.model_name_or_path", tiny, "--prm.model_name_or_path", prm,
        "--algo.advantage.estimator", "token_gae", "--algo.advantage.process_reward", "progress", "--algo.advantage.reward", "environment",
        "--env.max_tokens_per_turn", 3, "--algo.advantage.lambd", 0.9, "--train.async_enable", "--ckpt.output_dir", tmp_path / "out",
        "--critic.model_name_or_path", prm,
    )  # fmt: skip
    gone.unlink(missing_ok=True)
    assert len(found) == 2 and "started here earlier, is gone" in done.stderr
    for status in found.values():
        assert status["turns/per_episode"] == pytest.approx(status["agent_turns"]), "no turn is lost where feedback is empty"
        assert status["response_length"] <= 3 * 3 + 2 * 3 + 3 and status["status/unknown"] == 16
        assert "prm/promise_turn2" in status and status["process/reward_mean"] == pytest.approx(status["prm/progress_mean"], abs=1e-6)


def test_a_third_partys_estimator_and_environment_train_and_an_interrupted_and_killed_run_resumes(tiny, tmp_path):
    flags = [
        "--env.name", "thirdparty_count", "--env.num_tasks", 64, "--env.max_turns", 3, "--env.max_tokens_per_turn", 4, "--env.num_workers", 8,
        "--actor.model_name_or_path", tiny, "--algo.advantage.estimator", "thirdparty_constant", "--ckpt.output_dir", tmp_path / "out",
        "--algo.advantage.options", '{"scale": 0.5}', "--prm.name", "thirdparty_position", "--prm.model_name_or_path", "nowhere",
        "--ckpt.path", tmp_path / "state", "--ckpt.save_steps", 1, "--ckpt.load_enable", "--train.colocate_all",
    ]  # fmt: skip
    line = [str(x) for x in (sys.executable, "-m", "openrlhf_agentprm.cli.train_ppo_ray", *SMALL, *flags)]
    for number, (step, kill) in enumerate(((2, signal.SIGINT), (4, signal.SIGKILL))):
        log = (tmp_path / f"{number}.log").open("w")
        process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + HANG
        latest = tmp_path / "state/_actor/latest"  # names a checkpoint once it is whole
        while (
            not (latest.is_file() and latest.read_text() >= f"global_step{step}") and time.monotonic() < deadline and process.poll() is None
        ):
            time.sleep(0.05)
        os.killpg(process.pid, kill)
        told = process.wait(timeout=120)
        assert told == (130 if kill == signal.SIGINT else -signal.SIGKILL), (tmp_path / f"{number}.log").read_text()[-3000:]
        stop_ray()
    assert "what was finished is kept, and the same command goes on" in (tmp_path / "0.log").read_text()
    before = steps((tmp_path / "1.log").read_text())
    assert not before or min(before) >= 3
    found, _ = ppo(*flags)
    assert min(found) >= 5 and max(found) == 8, "it goes on behind its last checkpoint, and ends where it would have"
    assert found[8]["thirdparty/scale"] == 0.5 and found[8]["thirdparty/kl_coef"] == 0.01
    assert found[8]["prm/promise_turn1"] == 1 and found[8]["prm/progress_mean"] == 1, "its reward model scored in our worker group"
    assert found[8]["thirdparty/turns"] > 0 and found[8]["rollout/num_samples"] == 16
    assert not before or max(before) < 8


@pytest.fixture(scope="module")
def ray_head():
    """A local Ray head with three logical GPUs; the environment for its clients, its dashboard's address."""
    ray = Path(sys.executable).with_name("ray")
    environment = {k: v for k, v in os.environ.items() if k != "OPENRLHF_AGENTPRM_MODE"} | {"PATH": f"{ray.parent}:{os.environ['PATH']}"}
    dashboard = free_port()
    head = [
        "start",
        "--head",
        "--num-gpus",
        3,
        "--num-cpus",
        12,
        "--disable-usage-stats",
        "--port",
        free_port(),
        "--dashboard-port",
        dashboard,
        "--dashboard-agent-listen-port",  # by default one for all Rays of a machine, and who comes second takes no jobs
        free_port(),
    ]
    run(ray, *head, env=environment)
    yield environment, f"http://127.0.0.1:{dashboard}"
    stop_ray()


def test_ray_job_submit(silent, tmp_path, ray_head):
    """The host's documented way to start; and what the engine samples is the policy's, an empty action too."""
    environment, dashboard = ray_head
    runtime = json.dumps(
        {"working_dir": str(tmp_path), "env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"], "TOKENIZERS_PARALLELISM": "false"}}
    )
    job = [
        Path(sys.executable).with_name("ray"), "job", "submit", "--address", dashboard, "--runtime-env-json", runtime, "--",
        sys.executable, "-m", "openrlhf_agentprm.cli.train_ppo_ray", *SMALL, "--env.name", "thirdparty_count", "--env.num_tasks", 8,
        "--env.max_turns", 2, "--env.max_tokens_per_turn", 4, "--env.num_workers", 4, "--actor.model_name_or_path", silent,
        "--algo.advantage.estimator", "reinforce_baseline", "--ckpt.output_dir", tmp_path / "out",
    ]  # fmt: skip
    end = time.monotonic() + 300
    while True:
        done = subprocess.run([str(x) for x in job], capture_output=True, text=True, timeout=HANG, env=environment)
        if "No available agent to submit job" not in done.stderr or time.monotonic() > end:
            break
        time.sleep(2)  # a busy machine takes its time to start Ray's agent
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    first = steps(done.stdout + done.stderr)[1]
    assert first["turns/per_episode"] == 2 and first["status/truncated"] + first.get("status/failure", 0) == 16, (
        "with the host's estimator too"
    )
    assert first["valid_actions"] == 0 and first["turns"] == 2, "the host alone would forbid the first token to end the turn"


def test_more_gpus_than_ray_has(tiny, tmp_path, ray_head):
    flags = [
        "--actor.model_name_or_path",
        tiny,
        "--env.name",
        "thirdparty_count",
        "--env.num_tasks",
        64,
        "--ckpt.output_dir",
        tmp_path / "out",
    ]
    many = module(
        "train_ppo_ray", *SMALL, *flags, "--actor.num_gpus_per_node", 2, "--ref.num_gpus_per_node", 2, check=False, env=ray_head[0]
    )
    assert many.returncode == 2 and "asks for 6 GPUs" in many.stderr and "but Ray has 3" in many.stderr and "Traceback" not in many.stderr


def test_every_mistake_is_told_at_once_and_before_anything_starts(tiny, prm, tmp_path):
    flags = ["--actor.model_name_or_path", tiny, "--env.name", "thirdparty_count", "--ckpt.output_dir", tmp_path / "out"]
    unknown = module(
        "train_ppo_ray", *flags, "--algo.advantage.estimater", "turn_gae", "--env.max_turn", 3, "--data.max_len", "x", check=False
    )
    assert unknown.returncode == 2 and "Traceback" not in unknown.stderr
    for text in (
        "unknown flag --algo.advantage.estimater; did you mean '--algo.advantage.estimator'?",
        "unknown flag --env.max_turn; did you mean '--env.max_turns'?",
        "--data.max_len is 'x'; wanted int",
    ):
        assert text in unknown.stderr
    more = ["--algo.advantage.estimator", "turn_gae", "--algo.advantage.values", "prm", "--algo.advantage.process_reward", "progress"]
    twice = module(
        "train_ppo_ray",
        *flags,
        *more,
        "--prm.model_name_or_path",
        tiny,
        "--train.agent_func_path",
        "mine.py",
        "--env.num_pools",
        2,
        "--env.spare_prompts",
        2,
        "--train.full_determinism_enable",
        check=False,
    )
    assert twice.returncode == 2 and "Traceback" not in twice.stderr
    for text in (
        "count progress twice",
        "is a Qwen3ForCausalLM, not a process reward model",
        "--env.name brings its own executor",
        "give --env.num_cpus",
        "keeps what happens to be ready first",
    ):
        assert text in twice.stderr
    crowded = [
        "--algo.advantage.estimator",
        "token_gae",
        "--train.colocate_critic_reward",
        "--prm.num_gpus_per_node",
        2,
        "--critic.num_gpus_per_node",
        1,
    ]
    waits = module("train_ppo_ray", *flags, *crowded, "--prm.model_name_or_path", prm, check=False)
    assert waits.returncode == 2 and "puts the PRM on the critic's" in waits.stderr and "num_gpus_per_node is 2" in waits.stderr
    none = module("train_ppo_ray", *flags, *more[:4], check=False)
    assert none.returncode == 2 and "--prm.model_name_or_path is not given" in none.stderr


UNREAD = [
    (
        "gae",
        ["--algo.advantage.process_reward", "progress"],
        "process_reward is given, but --algo.advantage.estimator gae does not read it",
    ),
    ("token_gae", ["--algo.advantage.values", "prm"], "values is given, but --algo.advantage.estimator token_gae does not read it"),
    ("turn_gae", ["--algo.advantage.outcome_weight", "1"], "outcome_weight is given, but --algo.advantage.estimator turn_gae does not"),
    ("rloo", ["--algo.advantage.kl_placement", "token", "--algo.advantage.reward", "environment"], "kl_placement is given, but"),
    ("progress", ["--algo.advantage.options", '{"outcome_wieght": 1}'], "unknown key 'outcome_wieght'; did you mean 'outcome_weight'?"),
    ("turn_gae", ["--algo.advantage.process_weight", "3"], "process_weight is given, but nothing is paid by the PRM"),
    ("turn_gae", ["--algo.advantage.anchor", "history"], "anchor is given, but nothing asks which state a turn begins in"),
    ("turn_gae", ["--algo.advantage.values", "prm", "--algo.advantage.value_positions", "all"], "values prm trains no critic"),
    ("outcome", ["--algo.advantage.process_reward", "delta", "--algo.advantage.process_options", '{"eta": 1}'], "delta has no options"),
    ("turn_gae", ["--algo.advantage.values", "prm", "--algo.advantage.process_reward", "spa"], "count progress twice"),
    ("thirdparty_constant", ["--algo.advantage.values", "prm", "--algo.advantage.options", '{"scael": 1}'], "unknown key 'scael'; did you"),
]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--ds.lora.rank", "8"], "--ds.lora.rank: the host sends adapters under names that vLLM does not know"),
        (["--ds.ring_attn_size", "2"], "a PRM cannot be sharded by --ds.ring_attn_size yet"),
        (["--data.max_images_per_prompt", "1"], "images in prompts are not supported"),
        (["--ds.packing_samples"], "--ds.packing_samples needs flash-attn, which is not installed"),
        (["--train.dynamic_batch_enable"], "--train.dynamic_batch_enable needs flash-attn, which is not installed"),
        (["--vllm.enable_sleep", "--ds.enable_sleep"], "--vllm.enable_sleep and --ds.enable_sleep: only what is on a GPU"),
        (["--vllm.num_engines", "0"], "no engine: the host samples by vLLM alone, and --vllm.num_engines is 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_host_has_and_turns_or_a_prm_do_not_go_together_with_is_refused_by_name(prm, flags, told):
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host.parsers import host_parser
    from openrlhf_agentprm.host.ppo_checks import problems_of_run

    line = ["--actor.model_name_or_path", "x", "--env.name", "thirdparty_count", "--prm.model_name_or_path", str(prm)]
    line += ["--algo.advantage.estimator", "turn_gae", "--algo.advantage.values", "prm", "--vllm.num_engines", "1"]
    problems = {
        on: problems_of_run(hierarchize(host_parser("train_ppo_ray").parse_args([*line, *flags * on])), True) for on in (False, True)
    }
    assert any(told in p for p in problems[True]) and not any(told in p for p in problems[False])


def test_a_vision_language_actor_is_refused(tmp_path):
    from transformers import Qwen2VLConfig

    from openrlhf_agentprm.host.ppo_checks import _sees

    Qwen2VLConfig().save_pretrained(tmp_path)
    assert _sees(str(tmp_path)) and not _sees("organisation/model") and not _sees(None)


def test_offloading_a_prm_that_shares_nothing_is_refused():
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host.parsers import host_parser
    from openrlhf_agentprm.host.ppo_checks import offload_problems

    line = ["--actor.model_name_or_path", "x", "--prm.offload"]
    for more, told in (([], "there is no PRM"), (["--prm.model_name_or_path", "y"], "has GPUs of its own")):
        (problem,) = offload_problems(hierarchize(host_parser("train_ppo_ray").parse_args([*line, *more])))
        assert told in problem
    assert not offload_problems(hierarchize(host_parser("train_ppo_ray").parse_args([*line, *more, "--train.colocate_all"])))


@pytest.mark.parametrize(("estimator", "flags", "told"), UNREAD, ids=[" ".join([case[0], *case[1]]) for case in UNREAD])
def test_a_flag_that_the_estimator_does_not_read_is_refused(estimator, flags, told):
    """On the host's own parser, without starting anything."""
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host.advantage_flags import estimators
    from openrlhf_agentprm.host.parsers import host_parser
    from openrlhf_agentprm.host.ppo_checks import problems_of_run

    line = ["--actor.model_name_or_path", "x", "--env.name", "thirdparty_count", "--algo.advantage.estimator", estimator, *flags]
    args = hierarchize(host_parser("train_ppo_ray").parse_args(line))
    problems = problems_of_run(args, estimator in estimators())
    assert any(told in problem for problem in problems), problems
    quiet = hierarchize(host_parser("train_ppo_ray").parse_args(line[:6]))
    assert not [
        p for p in problems_of_run(quiet, estimator in estimators()) if "does not read" in p or "unknown key" in p or "is given, but" in p
    ]


@pytest.mark.parametrize(
    ("estimator", "flags", "told"),
    [
        ("turn_gae", [], "give --algo.advantage.values prm or --algo.advantage.process_reward"),
        ("outcome", [], "give --algo.advantage.process_reward"),
        ("reinforce", [], "choose one of ours"),
        ("turn_gae", ["--algo.advantage.values", "prm"], None),
        ("token_gae", ["--algo.advantage.process_reward", "progress"], None),
        ("progress", [], None),
    ],
)
def test_a_prm_that_no_advantage_reads_is_told(prm, estimator, flags, told, caplog):
    from openrlhf.utils.config import hierarchize

    from openrlhf_agentprm.host.advantage_flags import warn_of_unread_scores
    from openrlhf_agentprm.host.parsers import host_parser

    line = ["--prm.model_name_or_path", str(prm), "--algo.advantage.estimator", estimator, *flags]
    warn_of_unread_scores(hierarchize(host_parser("train_ppo_ray").parse_args(line)))
    assert [f"{prm} scores every turn, but no advantage reads it" in text and told in text for text in caplog.messages] == [True] * bool(
        told
    )


def test_a_named_ray_has_to_answer(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as alive:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{alive.getsockname()[1]}")
        assert cluster._named_cluster(patience=0)
    with pytest.raises(UserError, match="RAY_ADDRESS=127.0.0.1:.*nothing listens there.*unset RAY_ADDRESS"):
        cluster._named_cluster(patience=0)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster._named_cluster(patience=0), "for Ray to resolve"
    monkeypatch.delenv("RAY_ADDRESS")
    assert not cluster._named_cluster(patience=0)
