"""SFT and PRM training on the host's DeepSpeed strategy, for real: exact tokens, losses that no cut of the batch changes, resuming."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_dataset
from launching import deepspeed, module
from safetensors.torch import load_file

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.layout import spans_of
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.host.best_weights import BestWeights, best_of
from openrlhf_agentprm.host.sft import EpisodeDataset, _Rows, check_datasets, for_episodes, is_store
from openrlhf_agentprm.prm.dataset import batches_by_length, load_data, split_by_task, warn_of_leaks
from openrlhf_agentprm.prm.model import load_prm
from openrlhf_agentprm.prm.objective import TurnRegression
from openrlhf_agentprm.prm.record import Record
from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all

COMMON = ["--data.max_len", "128", "--ds.zero_stage", "0", "--ds.attn_implementation", "sdpa", "--ds.param_dtype", "fp32"]

PACKED = ["--ds.packing_samples", "--train.dynamic_batch_enable"]


def history(folder):
    return [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]


def train_prm(tiny, store, output, *more, launch=module, **kwargs):
    line = ["--model.model_name_or_path", tiny, "--data.dataset", store, "--ckpt.output_dir", output, *COMMON]
    line += ["--train.batch_size", "16", "--train.max_epochs", "2", "--adam.lr", "1e-3"]
    launch("train_prm", *line, *more, **kwargs)
    return history(output)


def test_sft_trains_exactly_the_action_tokens(count_store, tiny):
    tokenizer = load_tokenizer(str(tiny))
    chat = ChatFormat(tokenizer)
    dataset = EpisodeDataset(_Rows([str(count_store)]), tokenizer, 128, None)
    assert len(dataset) == 96 and is_store(str(count_store)) and not is_store(str(tiny))
    by_tokens = {tuple(e.token_ids): e for e in EpisodeStore(count_store).episodes()}
    for ids, attention, mask in (dataset[i] for i in range(len(dataset))):
        episode = by_tokens[tuple(ids[0].tolist())]
        predicted = ids[0, 1:][mask[0, :-1] > 0]
        expected = [token for turn in episode.turns for token in chat.encode_action(turn.action)]
        assert predicted.tolist() == expected and float(mask[0, -1]) == 0
        assert int(attention.sum()) == ids.shape[1]
        text = tokenizer.decode(predicted)
        assert text.split() == " ".join(f"{t.action} {tokenizer.eos_token}" for t in episode.turns).split()
    ids, attention, mask = dataset.collate_fn([dataset[0], dataset[1]])
    assert ids.shape == attention.shape == mask.shape and not mask[attention == 0].any()


def test_sft_in_the_hosts_pretrain_mode_learns_what_is_observed_too(count_store, tiny):
    dataset, load = for_episodes(None, None)
    args = SimpleNamespace(model=SimpleNamespace(model_name_or_path=str(tiny)), data=SimpleNamespace(min_outcome=None, selection=None))
    chosen = dataset(
        load(str(count_store)), load_tokenizer(str(tiny)), 128, SimpleNamespace(args=args), pretrain_mode=True, multiturn=False
    )
    for _, _, mask in (chosen[i] for i in range(len(chosen))):
        assert mask[0, :-1].all() and float(mask[0, -1]) == 0


@pytest.mark.host
def test_sft_in_float32_keeps_what_half_precision_rounds_away(count_store, tiny, tmp_path):
    line = ["--model.model_name_or_path", tiny, "--data.dataset", count_store, "--ckpt.output_dir", tmp_path, "--data.max_len", 128]
    line += ["--ds.zero_stage", 0, "--ds.attn_implementation", "sdpa", "--train.batch_size", 16, "--train.micro_batch_size", 16]
    module("train_sft", *line, "--ds.param_dtype", "fp32", "--adam.lr", "1e-3", "--train.max_epochs", 2)
    start, trained = (load_file(folder / "model.safetensors") for folder in (tiny, tmp_path))
    assert {w.dtype for w in trained.values()} == {torch.float32} and start.keys() <= trained.keys()
    assert all(not torch.equal(w.float(), trained[name]) for name, w in start.items())
    assert any(not torch.equal(w, w.bfloat16().float()) for w in trained.values())


def test_sft_data_that_cannot_be_trained_on_is_told(count_store, tiny):
    tokenizer = load_tokenizer(str(tiny))
    with pytest.raises(UserError, match="96 longer than --data.max_len 3"):
        EpisodeDataset(_Rows([str(count_store)]), tokenizer, 3, None)
    only_successes = EpisodeDataset(_Rows([str(count_store)]), tokenizer, 128, 1.0)
    assert 0 < len(only_successes) < 96 and all(e.outcome == 1.0 for e in only_successes.episodes)


def test_sft_takes_several_stores_and_tells_of_paths_that_hold_nothing(count_store, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as told:
        check_datasets(f"{tmp_path}/nowhere,{count_store}, {tmp_path}/empty,a-name/on-the-hub,{tmp_path}/part-*.jsonl,")
    assert len(told.value.problems) == 2
    assert "nowhere' is not there" in told.value.problems[0] and "empty' is an empty folder" in told.value.problems[1]
    _, load = for_episodes(None, lambda *_, **__: "text")
    assert len(load(f"{count_store}, {count_store},")) == 192 and load("some/text.jsonl") == "text"
    _, missing = for_episodes(None, lambda name, *_: load_dataset(name))
    with pytest.raises(UserError, match="'runs/nowhere' is neither an episode store nor text data"):
        missing("runs/nowhere")
    with pytest.raises(UserError, match="mixes episode stores with other data"):
        load(f"{count_store},some/text.jsonl")


def test_prm_data_is_split_by_task_and_what_is_left_out_is_counted(count_store):
    data = load_data([str(count_store)], max_len=128)
    assert len(data.episodes) == 96 and data.summary()["turns"] == sum(len(e.turns) for e in data.episodes)
    train, held_out = split_by_task(data.episodes * 3, 0.3)
    assert train and held_out and not {e.task_id for e in train} & {e.task_id for e in held_out}
    longest = max(len(e.token_ids) for e in data.episodes)
    cut = load_data([str(count_store)], max_len=longest - 1)
    assert cut.left_out["longer than max_len"] == 96 - len(cut.episodes) > 0
    with pytest.raises(UserError, match="no episode of .* can be used"):
        load_data([str(count_store)], max_len=2)


def test_a_cap_on_episodes_falls_on_all_stores_alike(count_store, tmp_path):
    """The first by id, a hash: of one store and of its halves the same, the newest iteration's among them."""
    every = sorted(EpisodeStore(count_store).episodes(), key=lambda e: e.task_id)
    for name, half in (("a", every[:48]), ("b", every[48:])):
        with EpisodeWriter(tmp_path / name) as writer:
            for one in half:
                writer.add(one)
    whole = load_data([str(count_store)], max_len=128, max_samples=30).episodes
    parts = load_data([str(tmp_path / "a"), str(tmp_path / "b")], max_len=128, max_samples=30).episodes
    assert {e.episode_id for e in whole} == {e.episode_id for e in parts} and len(parts) == 30
    assert {e.iteration for e in parts} == {0, 1}


@pytest.mark.parametrize(("coef", "reduce"), [(1.0, "turns"), (0.5, "episodes"), (0.0, "turns")])
def test_the_trainers_loss_trains_v_at_every_state(coef, reduce):
    """Two episodes of two turns and of one: dL/dv_t = c (v_t − target_t) over the turns, or over each episode's and then the episodes."""
    q, targets = torch.zeros(2, 2), torch.tensor([[0.5, 1.0], [0.25, float("nan")]])
    mask = torch.tensor([[True, True], [True, False]])
    v = torch.tensor([[0.1, 0.4], [0.5, 9.0]], requires_grad=True)
    args = SimpleNamespace(loss=SimpleNamespace(kind="mse", beta=1.0, reduce=reduce, value_coef=coef))
    counts = torch.tensor([3.0, 1.0, 2.0])  # turns, pairs, episodes
    loss = TurnRegression.of_heads(SimpleNamespace(args=args), q, v, targets, mask, counts)
    if not coef:
        assert not loss.requires_grad, "the paper's loss does not read V"
        return
    loss.backward()
    share = torch.tensor([[1 / 3, 1 / 3], [1 / 3, 0]]) if reduce == "turns" else torch.tensor([[1 / 4, 1 / 4], [1 / 2, 0]])
    torch.testing.assert_close(v.grad, coef * share * torch.tensor([[-0.4, -0.6], [0.25, 0.0]]))


def test_held_out_tasks_that_are_trained_on_are_told(count_store, tmp_path, caplog):
    data = load_data([str(count_store)], max_len=128).episodes
    train, held_out = split_by_task(data, 0.3)
    with EpisodeWriter(tmp_path / "other") as writer:
        for one in held_out:
            writer.add(one)
    warn_of_leaks("--data.dataset", train, str(tmp_path / "other"))
    assert not caplog.records
    warn_of_leaks("--data.dataset", data, str(tmp_path / "other"))
    tasks = len({e.task_id for e in held_out})
    assert f"{tasks} of {tasks} tasks of --eval.dataset {tmp_path}/other are in --data.dataset too" in caplog.text


def test_batches_of_like_length_cover_an_epoch_once():
    lengths = torch.randint(5, 100, (103,)).tolist()
    batches = batches_by_length(lengths, 8, seed=1)
    flat = [i for b in batches for i in b]
    assert len(flat) == len(set(flat)) == len(batches) * 8 >= 96
    assert batches == batches_by_length(lengths, 8, seed=1) != batches_by_length(lengths, 8, seed=2)


@pytest.fixture(scope="module")
def reference(tiny, count_store, tmp_path_factory):
    """One process, one micro-batch a step."""
    folder = tmp_path_factory.mktemp("reference")
    board = ["--logger.tensorboard_dir", folder / "board", "--logger.wandb.run_name", "one", "--logger.logging_steps", "2"]
    return train_prm(tiny, count_store, folder / "prm", "--train.micro_batch_size", "16", "--eval.share", "0.2", *board), folder / "prm"


@pytest.mark.host
@pytest.mark.parametrize(
    ("flags", "launched"),
    [
        (["--train.micro_batch_size", "2"], dict(launch=deepspeed, processes=2)),
        (["--train.micro_batch_size", "4", "--ds.zero_stage", "3"], {}),
        (["--train.micro_batch_size", "8"], dict(launch=deepspeed)),
        ([*PACKED, "--train.max_tokens_per_gpu", "150", "--ds.zero_stage", "2"], dict(launch=deepspeed, processes=2)),
    ],
    ids=["two processes", "zero3", "a launcher of one", "packed, two processes, zero2"],
)
def test_processes_micro_batches_and_partitions_give_the_loss_of_one(flags, launched, reference, tiny, count_store, tmp_path):
    rows, _ = reference
    parts = train_prm(tiny, count_store, tmp_path / "parts", "--eval.share", "0.2", *flags, **launched)
    assert len(parts) == len(rows) > 6
    for a, b in zip(rows, parts, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-3, abs=1e-5)
    assert parts[-1]["eval_brier_last"] == pytest.approx(rows[-1]["eval_brier_last"], rel=1e-2)


@pytest.mark.host
def test_tensorboard_is_given_what_the_history_has(reference):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows, folder = reference
    board = EventAccumulator(str(folder.parent / "board/one")).Reload()
    losses = [(e.step, e.value) for e in board.Scalars("train/loss")]
    assert losses == [(row["step"], pytest.approx(row["loss"])) for row in rows if row["step"] % 2 == 0]
    figures = [(row["step"], pytest.approx(row["eval_auc_last"])) for row in rows if "eval_auc_last" in row]
    assert [(e.step, e.value) for e in board.Scalars("eval/auc_last")] == figures != []


@pytest.mark.host
def test_the_loss_falls_and_the_checkpoint_says_how_it_was_made(reference):
    rows, folder = reference
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"] and rows[-1]["eval_brier_last"] < 0.3
    record = Record.load(folder)
    assert record.method == "td_gae" and record.values == "previous_q" and record.value_trained and record.options["lambd"] == 0.95
    load_prm(str(folder))


@pytest.mark.host
@pytest.mark.parametrize(
    "flags",
    [
        ["--ds.zero_stage", "2", "--model.gradient_checkpointing_enable", "--label.name", "outcome_last"],
        [
            "--ds.param_dtype",
            "bf16",
            "--ds.lora.rank",
            "4",
            "--label.name",
            "outcome_all",
            "--loss.reduce",
            "episodes",
            "--loss.kind",
            "soft_bce",
        ],
        ["--label.name", "td_qv", "--label.gamma", "0.95"],
        ["--label.name", "thirdparty_half", "--loss.value_coef", "0"],
    ],
    ids=["zero2+checkpointing+orm", "bf16+lora+pvm+bce", "td_qv", "third party's label"],
)
def test_the_hosts_ways_to_train(flags, tiny, count_store, tmp_path):
    rows = train_prm(tiny, count_store, tmp_path / "prm", "--train.micro_batch_size", "8", *flags)
    assert all(row["loss"] == row["loss"] for row in rows) and rows[-1]["loss"] < rows[0]["loss"]
    load_prm(str(tmp_path / "prm"))
    record = Record.load(tmp_path / "prm")
    at_states = "td_qv" in flags
    assert record.values == ("state" if at_states else "previous_q") and record.options["beta"] == (
        0.0 if at_states or "outcome_all" in flags else 1.0
    )
    assert record.value_trained is ("outcome_last" not in flags and "0" not in flags[-1:])
    assert record.output == ("sigmoid" if "soft_bce" in flags else "linear")


def test_the_best_evaluation_is_the_first_of_equals_and_its_age_counts_evaluations():
    rows = [{"eval_brier_last": b, "eval_auc_last": 1 - b, "step": 2 * n} for n, b in enumerate([0.3, 0.2, 0.25, 0.2], 1)]
    rows.insert(2, {"step": 5})
    assert best_of(rows, "brier_last") == best_of(rows, "auc_last") == (4, 2)
    assert best_of(rows[:1], "brier_last") == (2, 0) and best_of([{"step": 1}], "brier_last") == (0, 0)


def test_a_figure_that_does_not_exist_is_no_reason_to_go_on():
    args = SimpleNamespace(ckpt=SimpleNamespace(output_dir="x"), eval=SimpleNamespace(patience=1, metric="auc_last_within_task"))
    best = BestWeights(None, None, args)
    best.keep([{"step": 1, "loss": 0.5}])
    for row in ({"eval_auc_last_within_task": float("nan")}, {"eval_auc_last": 0.5}):
        with pytest.raises(UserError, match="--eval.metric auc_last_within_task has no value on the held-out episodes"):
            best.keep([{"step": 2, **row}])


class Disk:
    """A strategy whose states are folders."""

    loaded = None

    def is_rank_0(self):
        return True

    def save_ckpt(self, engine, folder, tag, *_, **__):
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder, tag).mkdir(parents=True)

    def load_ckpt(self, engine, folder, tag):
        assert Path(folder, tag).is_dir(), "DeepSpeed asserts"
        self.loaded = tag


def test_a_training_whose_best_state_is_gone_goes_on_and_takes_the_best_of_what_comes(tmp_path):
    args = SimpleNamespace(
        ckpt=SimpleNamespace(output_dir=tmp_path, max_num=1, max_mem=1), eval=SimpleNamespace(patience=3, metric="brier_last")
    )
    disk = Disk()
    best, rows = BestWeights(disk, None, args), []
    for step, error in enumerate([0.3, 0.1, 0.2], 1):
        rows.append({"step": step, "eval_brier_last": error, "eval_auc_last_within_task": float("nan")})
        best.keep(rows)
    best.drop_lost(rows)
    assert best_of(rows, "brier_last") == (2, 1) and not any("lost" in row for row in rows)
    (tmp_path / ".best/best_step2/whole").unlink()  # killed while it was written
    best.drop_lost(rows)
    assert best_of(rows, "brier_last") == (0, 0) and not best.patience_is_over(rows)
    for step, error in enumerate([0.25, 0.4], 4):
        rows.append({"step": step, "eval_brier_last": error, "eval_auc_last_within_task": float("nan")})
        best.keep(rows)
    best.restore(rows)
    assert disk.loaded == "best_step4" and best.told(rows)["best_step"] == 4
    assert best.resume(rows)
    Record(method="td_gae", options=best.told(rows)).save(tmp_path)
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert best.resume(rows[:4]), "killed before its folder was gone: what was saved is saved again"
    best.forget()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".best")]
    (tmp_path / ".best.gone").mkdir()
    assert not best.resume(rows[:4]) and not (tmp_path / ".best.gone").exists(), "killed behind it: nothing is left to do"
    best.patience = 4
    with pytest.raises(UserError, match="this training has finished: .* of its best evaluation, step 4"):
        best.resume(rows[:4])
    assert best.resume([{"step": 4, "eval_brier_last": 0.5}])  # another training's state, in the folder of this one
    disk.loaded = None
    best.restore(rows)
    assert disk.loaded is None and best.told(rows)["best_step"] == 0, "the last weights stay, and the record names no best step"


@pytest.mark.host
def test_training_stops_when_held_out_figures_get_worse_and_keeps_the_best_weights(tiny, count_store, tmp_path):
    flags = ["--eval.share", "0.3", "--eval.steps", "2", "--eval.patience", "2", "--data.replay_decay", "0.5", *PACKED]
    line = ["--model.model_name_or_path", tiny, "--data.dataset", f"{count_store},{count_store}", "--ckpt.output_dir", tmp_path / "prm"]
    line += [*COMMON, "--train.batch_size", "16", "--train.max_epochs", "20", "--adam.lr", "3e-2", *flags]
    line += ["--ckpt.path", tmp_path / "state", "--ckpt.save_steps", "2", "--ckpt.load_enable"]
    module("train_prm", *line)
    rows = history(tmp_path / "prm")
    record = Record.load(tmp_path / "prm")
    evaluated = [row for row in rows if "eval_brier_last" in row]
    best = min(evaluated, key=lambda row: row["eval_brier_last"])
    assert best["best"] and evaluated[-3] is best and len(rows) == evaluated[-1]["step"] < 100, "two evaluations later it stopped"
    assert record.options["best_step"] == best["step"] and record.options["steps"] == len(rows)
    assert {i: v["weight"] for i, v in record.data["iterations"].items()} == {"0": 0.5, "1": 1.0}
    assert not (tmp_path / "prm" / ".best").exists()
    _, held_out = split_by_task(load_data([str(count_store)], max_len=128).episodes, 0.3)
    scored = score_all(ScalarPRM.load(str(tmp_path / "prm")), [e.token_ids for e in held_out], [spans_of(e) for e in held_out])
    error = [(float(q[-1]) - e.outcome) ** 2 for (q, _), e in zip(scored, held_out, strict=True)]
    assert sum(error) / len(error) == pytest.approx(best["eval_brier_last"], abs=1e-4)
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "prm").iterdir()}
    assert "this training has finished before" in module("train_prm", *line).stdout
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "prm").iterdir()} == written, "nothing is left to do"


@pytest.mark.host
def test_a_killed_training_resumes_from_its_last_checkpoint(tiny, count_store, reference, tmp_path):
    rows, _ = reference
    line = [
        sys.executable, "-m", "openrlhf_agentprm.cli.train_prm",
        "--model.model_name_or_path", tiny, "--data.dataset", count_store, "--ckpt.output_dir", tmp_path / "prm", *COMMON,
        "--train.batch_size", "16", "--train.max_epochs", "2", "--adam.lr", "1e-3", "--train.micro_batch_size", "16", "--eval.share", "0.2",
        "--ckpt.path", tmp_path / "state", "--ckpt.save_steps", "1", "--ckpt.load_enable",
    ]  # fmt: skip
    process = subprocess.Popen([str(c) for c in line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 1200
    while not (tmp_path / "state" / "global_step4").is_dir() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "prm" / "history.jsonl").exists(), "it was killed before the end"
    subprocess.run([str(c) for c in line], check=True, capture_output=True, timeout=1200)
    resumed = history(tmp_path / "prm")
    assert [row["step"] for row in resumed] == [row["step"] for row in rows]
    for a, b in zip(rows, resumed, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-3, abs=1e-5)
