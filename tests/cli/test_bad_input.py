"""Bad input: a clear message, exit code 2 where the user can mend it, no stack trace, nothing lost."""

import json
import os
import socket

import pytest
from launching import agentprm, here, module

from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.pairs import Pair, PairsSidecar
from openrlhf_agentprm.data.sidecar import Sidecar, table_of
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter


def refused(done, *texts):
    assert done.returncode == 2, (done.returncode, done.stdout[-1500:], done.stderr[-1500:])
    for text in texts:
        assert text in done.stderr, done.stderr[-1500:]
    assert "Traceback" not in done.stderr


def episode(n, **changes):
    values = dict(
        env="e", task_id=f"t{n}", split="train", seed=0, sample=0, policy="p", policy_digest="d", sampling={}, status=Status.SUCCESS,
        outcome=1.0, terminated=True, truncated=False, token_ids=[5, 6, 7], logprobs=[], turns=[Turn("o", "a", 1, 2)],
    )  # fmt: skip
    return Episode(**(values | changes))


def store(folder, *episodes):
    with EpisodeWriter(folder) as writer:
        for e in episodes:
            writer.add(e)
    return folder


def train_prm(tiny, dataset, *more):
    return here("train_prm", "--model.model_name_or_path", tiny, "--data.dataset", dataset, "--train.batch_size", 8, *more)


COLLECT = ["--env.name", "thirdparty_count", "--env.num_tasks", "4", "--env.num_workers", "2", "--collect.n_samples_per_task", "1"]


def test_unknown_commands_and_flags_with_what_was_meant():
    refused(agentprm("rnu", check=False), "unknown command 'rnu'; did you mean 'run'?")
    refused(agentprm("list", "env", check=False), "unknown kind 'env'; did you mean 'envs'?")
    refused(here("collect", "--env.nam", "x"), "unknown flag --env.nam; did you mean '--env.name'?", "--env.name is required")
    refused(
        here("evaluate", "--eval.dataset", "x", "--eval.output", "y", "z", "--prm.param_dtype", "f"),
        "--prm.param_dtype is 'f'",
    )


def test_missing_empty_and_torn_data(tiny, tmp_path):
    refused(train_prm(tiny, tmp_path / "nowhere"), "there is no episode store at")
    (tmp_path / "empty").mkdir()
    refused(train_prm(tiny, tmp_path / "empty"), "holds no episode")
    sft = ["--model.model_name_or_path", tiny, "--data.dataset", f"{tmp_path / 'nowhere'},{tmp_path / 'empty'}"]
    refused(here("train_sft", *sft), "nowhere' is not there", "empty' is an empty folder")
    torn = store(tmp_path / "torn", *[episode(n) for n in range(4)])
    shard = EpisodeStore(torn).shards()[0]
    shard.write_bytes(shard.read_bytes()[:-40])
    refused(train_prm(tiny, torn), f"{shard.name} cannot be read as Parquet", "Move it away")
    refused(agentprm("episodes", "stats", torn, check=False), "cannot be read as Parquet")


UNFIT = [
    "--ds.packing_samples", "--ds.attn_implementation", "eager", "--data.replay_decay", 1.5, "--data.replay_share", -1,
    "--train.max_tokens_per_gpu", 0, "--eval.patience", 0,
]  # fmt: skip


def test_flags_of_prm_training_are_all_told_at_once():
    flags = [
        "--train.batch_size",
        6,
        "--train.micro_batch_size",
        4,
        "--eval.share",
        1.5,
        "--eval.dataset",
        "held-out",
        "--label.options",
        '{"shuffel": 1, "dense": true}',
    ]
    flags += ["--data.min_outcome", 0.5, "--ckpt.save_hf", "--label.dense_rewards_enable", "--label.shuffle_seed", 1]
    refused(
        here("train_prm", *flags, *UNFIT),
        "--model.model_name_or_path is required",
        "--data.dataset is required",
        "--eval.share is 1.5",
        "--eval.share and --eval.dataset both say what is held out",
        "--train.batch_size 6 is no multiple of --train.micro_batch_size 4",
        "--ds.packing_samples wants --ds.attn_implementation sdpa or flash_attention_2, and came with eager",
        "--data.replay_decay is 1.5",
        "--data.replay_share is -1",
        "--train.max_tokens_per_gpu is 0",
        "--eval.patience is 0",
        "--label.options has the unknown key 'shuffel'",
        "--label.options has the key 'dense', which --label.dense_rewards_enable gives",
        "--label.shuffle_seed deals outcomes out again, and --label.dense_rewards_enable learns from others",
        "--data.min_outcome is of supervised training and does nothing to a PRM's",
        "--ckpt.save_hf is of supervised training",
    )
    refused(
        here("train_prm", "--eval.patience", 2, "--data.replay_decay", 0.5, "--loss.reduce", "episodes"),
        "--eval.patience wants held-out episodes",
        "--data.replay_decay weighs turns, which --loss.reduce episodes divides out again",
    )


def test_outcomes_that_cross_entropy_cannot_have_are_named(tiny, tmp_path):
    beyond = store(tmp_path / "beyond", episode(0), episode(1, outcome=2.0), episode(2, outcome=-1.0))
    refused(
        train_prm(tiny, beyond, "--loss.kind", "soft_bce"),
        "is 2, outside [0, 1]",
        "is -1, outside [0, 1]",
        "take --loss.kind mse for these",
    )


def test_unfit_episodes_are_all_named(tiny, tmp_path):
    bad = store(
        tmp_path / "bad",
        episode(0, turns=[]),
        episode(1, turns=[Turn("o", "a", 2, 2)]),
        episode(2, turns=[Turn("o", "a", 1, 2, reward=float("nan"))]),
        episode(3),
    )
    refused(train_prm(tiny, bad), "it has no action", "turn 0 has no token", "turn 0 has the reward nan")
    refused(
        train_prm(tiny, store(tmp_path / "words", *[episode(n, token_ids=[5, 9999, 7]) for n in range(8)])),
        "holds token 9999",
        "embeddings",
    )
    broken = [episode(n, status=Status.ENV_ERROR) for n in range(4)]
    refused(train_prm(tiny, store(tmp_path / "broken", *broken)), "no episode of", "env_error")


def test_too_few_episodes_for_a_batch(tiny, count_store):
    flags = ["--data.dataset", count_store, "--data.max_samples", 3, "--train.batch_size", 8]
    few = module("train_prm", "--model.model_name_or_path", tiny, *flags, check=False)  # told behind the start of its process group
    refused(few, "3 episodes do not fill one batch of --train.batch_size 8")


def test_templates_tokenizers_and_contexts(tiny, bpe_policy, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bpe_policy)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain/chat_template.jinja").unlink(missing_ok=True)
    line = [*COLLECT, "--collect.output", tmp_path / "out"]
    refused(here("collect", *line, "--policy.model_name_or_path", tmp_path / "plain"), "has no chat template")
    template = tmp_path / "rewrites.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last or m.role == 'user' else '' }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rewritten = here("collect", *line, "--policy.model_name_or_path", bpe_policy, "--env.chat_template", template)
    refused(rewritten, "rewrites earlier turns")
    short = here("collect", *line, "--policy.model_name_or_path", tiny, "--data.max_len", 4)
    refused(short, "the context of 4 tokens (--data.max_len) is shorter than the first prompts")
    refused(here("collect", *line, "--policy.model_name_or_path", tmp_path / "nothing"), "no tokenizer could be loaded")


def test_environments_that_are_not_there(tiny, tmp_path):
    line = ["--policy.model_name_or_path", tiny, "--collect.output", tmp_path / "out", "--collect.demonstrator", "expert"]
    refused(here("collect", "--env.name", "babyia", *line), "unknown environment 'babyia'; did you mean 'babyai'?")
    refused(
        here("collect", "--env.name", "thirdparty_missing", *line),
        "of the distribution thirdparty-agents could not be loaded",
    )
    refused(here("collect", *COLLECT, "--env.first_task", 999, *line), "has no task from number 999 on")
    refused(here("collect", *COLLECT, "--env.args", "{speed", *line), "--env.args is '{speed'", "not JSON")
    refused(agentprm("env", "check", "babyai", "--env.args", '{"levels": "Nowhere"}', check=False), "unknown BabyAI level 'Nowhere'")


def test_env_check_fails_on_a_faulty_environment_and_passes_on_a_good_one():
    good = agentprm("env", "check", "thirdparty_count")
    assert "checks passed" in good.stdout and "FAILED" not in good.stdout
    bad = agentprm("env", "check", "thirdparty_faulty", "--check.time_limit", 1, check=False)
    assert bad.returncode == 2 and "broken on purpose" in bad.stdout and "Traceback" not in bad.stderr


def test_a_prm_of_another_vocabulary(tiny, bpe_policy, count_store, tmp_path):
    from openrlhf_agentprm.agents.chat import load_tokenizer
    from openrlhf_agentprm.prm.model import save_prm, start_from
    from openrlhf_agentprm.prm.record import Record

    save_prm(start_from(str(bpe_policy), dtype="fp32"), load_tokenizer(str(bpe_policy)), tmp_path / "prm", Record())
    line = ["--env.name", "thirdparty_count", "--policy.model_name_or_path", tiny, "--search.output", tmp_path / "search.json"]
    refused(here("search", *line, "--prm.model_name_or_path", tmp_path / "prm"), "have different vocabularies")
    # its vocabulary is the larger one, so that each token of the store has an embedding there
    foreign = "are not those of", "so its episodes come from another tokenizer"
    given = ["--eval.dataset", count_store, "--eval.output", tmp_path / "evaluation.json", "--prm.model_name_or_path", tmp_path / "prm"]
    refused(here("evaluate", *given), *foreign)
    given = ["--model.model_name_or_path", bpe_policy, "--data.dataset", count_store, "--ckpt.output_dir", tmp_path / "out"]
    refused(here("train_prm", *given, "--train.batch_size", 16, "--ds.attn_implementation", "sdpa"), *foreign)
    refused(module("train_sft", *given, "--train.batch_size", 16, "--ds.attn_implementation", "sdpa", check=False), *foreign)
    refused(here("search", *line, "--search.methods", "2y2"), "search method '2y2' is not N×M")
    refused(here("search", *line, "--search.random_disable"), "nothing ranks the actions")
    named = [f"oracle={tmp_path / 'prm'}"]
    refused(here("search", *line, "--prm.model_name_or_path", *named), "a PRM is named 'oracle', as the baseline is")
    refused(here("search", *line, "--search.tie_margin", -1), "is '-1'; wanted a distance between scores, 0 or more")
    refused(here("search", *line, "--data.max_len", 4096), "lower --data.max_len", "max_position_embeddings=1024")


@pytest.mark.host
def test_a_port_in_use(tiny, count_store, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        done = module(
            "train_prm", "--model.model_name_or_path", tiny, "--data.dataset", count_store, "--ckpt.output_dir", tmp_path / "prm",
            "--train.batch_size", 16, "--ds.attn_implementation", "sdpa", check=False, env=environment,
        )  # fmt: skip
    refused(done, "a port is in use already")


def test_a_full_disk(tiny, small_disk):
    """Told as such, and what was finished is there."""
    line = [
        "--env.name", "thirdparty_count", "--env.num_tasks", "500", "--env.num_workers", "2", "--collect.n_samples_per_task", "4",
        "--collect.demonstrator", "careless", "--collect.noise", "0.5", "--policy.model_name_or_path", tiny, "--env.max_turns", "6",
    ]  # fmt: skip
    done = module("collect", *line, "--collect.output", small_disk / "store", check=False)
    refused(done, "the disk is full")
    assert len(EpisodeStore(small_disk / "store")) > 20


def test_debug_shows_where():
    done = module("collect", "--env.nam", "x", "--debug", check=False)
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_commands_print_help_and_json_survives(count_store, tmp_path):
    for name in ("collect", "tiny_policy", "label", "evaluate", "search", "report"):
        assert "--help" in module(name, "--help").stdout
    assert "--algo.advantage.process_reward" in module("train_ppo_ray", "--help").stdout
    assert "--label.lambd" in module("train_prm", "--help").stdout
    agentprm("episodes", "export", count_store, "--status", "success", "--output", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows and all(r["status"] == "success" for r in rows)
    assert "mean outcome" in agentprm("episodes", "stats", count_store).stdout
    assert "count to" in agentprm("episodes", "show", count_store).stdout


def test_values_that_nothing_trains_are_refused(tiny, count_store):
    """td_qv regresses V on its target; `state` reads V where only the value term trains it."""
    for flags in (["--label.name", "td_qv"], ["--label.values", "state"]):
        refused(train_prm(tiny, count_store, *flags, "--loss.value_coef", 0), "--loss.value_coef 0 trains no V", flags[1])


def test_labels_that_the_loss_cannot_take_are_named(tiny, count_store, tmp_path):
    """Cross-entropy wants targets in [0, 1]; pairs are no targets."""
    first = min(EpisodeStore(count_store).episodes(), key=lambda e: e.episode_id)
    Sidecar(table_of([first.episode_id], [0], [-0.25], [True], [1.0])).save(tmp_path / "shaped", {"method": "shaped"})
    done = train_prm(tiny, count_store, "--label.sidecar", tmp_path / "shaped", "--loss.kind", "soft_bce")
    refused(done, f"episode {first.episode_id}, turn 0 has the target -0.25; wanted 0 to 1", "take --loss.kind mse")
    PairsSidecar.of([Pair("a", 0, "b", 0, 0.5, 1.0)], {}, {}).save(tmp_path / "pairs", {"method": "relabel"})
    refused(train_prm(tiny, count_store, "--label.sidecar", tmp_path / "pairs"), "holds pairs, but --loss.kind mse wants targets of turns")
