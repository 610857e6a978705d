"""Training speed beside TRL's PRMTrainer: one model, one data set, one machine, runs that alternate.

    pip install --no-deps --target /tmp/trl trl==1.13.0
    PYTHONPATH=/tmp/trl python tests/benchmarks/trl.py [short] [long] [--rounds 2] [--hidden 128] [--layers 3]

Both train a token classifier on the same tokens, in float32, 32 episodes a step, two epochs, AdamW, without gradient checkpointing (TRL's
default is with, and slower). Counted are real tokens, padding left out, over the whole of training, without loading and tokenizing. TRL 1.14 no
longer has a PRMTrainer. TRL runs three ways: its own batches, the same cut into 4 micro-batches, which pads less, and sampled by length.
Ours packs (`--ds.packing_samples`); its row `padded` is without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TRL = "1.13.0"
BATCH, EPOCHS = 32, 2
MIXES = {  # episodes, turns, tokens of a prompt, of an observation, of an action
    "short": (256, (2, 8), (30, 50), (6, 14), (3, 5)),  # BabyAI's kind: a few words a turn
    "long": (96, (3, 20), (40, 120), (10, 60), (4, 12)),  # twenty turns at most; successes are done earlier
}
OURS = {
    "ours": ["--ds.packing_samples", "--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "4096"],
    "ours, padded": ["--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "4096"],
}
THEIRS = {
    "TRL": {"per_device_train_batch_size": BATCH},
    "TRL, 8 × 4": {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 4},
    "TRL, by length": {"per_device_train_batch_size": BATCH, "train_sampling_strategy": "group_by_length"},
}


def make_data(folder: Path, mix: str, hidden: int, layers: int) -> int:
    """A random policy and episodes, as a store of ours and as TRL's prompt, completions and labels; the number of tokens."""
    from openrlhf_agentprm.agents.tiny import make_model, make_tokenizer, save_policy
    from openrlhf_agentprm.data.episode import Episode, Status, Turn
    from openrlhf_agentprm.data.store import EpisodeWriter

    letters = "abcdefghijklmnopqrst"
    words = [a + b for a in letters for b in letters]
    tokenizer = make_tokenizer([" ".join(words) + " ."])
    save_policy(make_model(tokenizer, hidden_size=hidden, layers=layers, context=2048), tokenizer, folder / "policy")
    ids = tokenizer.convert_tokens_to_ids(words)
    end = tokenizer.convert_tokens_to_ids(".")
    number, turns, prompt, observation, action = MIXES[mix]
    draw = random.Random(0)
    total, rows = 0, []
    with EpisodeWriter(folder / "store") as writer:
        for index in range(number):
            places = [draw.randrange(len(words)) for _ in range(draw.randint(*prompt))]
            row: dict = {"prompt": " ".join(words[i] for i in places), "completions": [], "labels": []}
            tokens, spans, outcome = [ids[i] for i in places], [], float(draw.random() < 0.5)
            for _ in range(draw.randint(*turns)):
                seen, done = ([draw.randrange(len(words)) for _ in range(draw.randint(*size))] for size in (observation, action))
                start = len(tokens) + len(seen)
                tokens += [ids[i] for i in seen + done] + [end]
                spans.append(Turn("", "", start, len(tokens)))
                row["completions"].append(" ".join(words[i] for i in seen + done))
                row["labels"].append(bool(outcome))
            rows.append({**row, "tokens": tokens})
            total += len(tokens)
            status = Status.SUCCESS if outcome else Status.FAILURE
            writer.add(Episode("words", f"t{index}", "train", index, 0, "p", "d", {}, status, outcome, True, False, tokens, spans))
    (folder / "trl.json").write_text(json.dumps(rows))
    return total


def timed(function: Callable[[], object]) -> None:
    """Run it, and print what it took as the last line."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)


def train_ours(folder: Path, name: str) -> None:
    from openrlhf_agentprm.cli import train_prm
    from openrlhf_agentprm.host.prm_trainer import PRMTrainer

    fit = PRMTrainer.fit
    PRMTrainer.fit = lambda trainer: timed(lambda: fit(trainer))  # type: ignore[method-assign]
    train_prm.main(
        ["--model.model_name_or_path", str(folder / "policy"), "--data.dataset", str(folder / "store"), "--data.max_len", "2048",
         "--ckpt.output_dir", str(folder / "ours"), "--ds.zero_stage", "0", "--ds.attn_implementation", "sdpa", "--ds.param_dtype", "fp32",
         "--label.name", "outcome_all", "--train.batch_size", str(BATCH), "--train.max_epochs", str(EPOCHS), *OURS[name]]
    )  # fmt: skip


def train_theirs(folder: Path, name: str) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]  # this file's name is the package's
    try:
        from trl.experimental.prm import PRMConfig, PRMTrainer
    except ImportError:
        sys.exit(f"this wants TRL {TRL}: pip install --no-deps --target /tmp/trl trl=={TRL}, and /tmp/trl on PYTHONPATH")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    model = AutoModelForTokenClassification.from_pretrained(folder / "policy", num_labels=2, dtype=torch.float32)
    rows = json.loads((folder / "trl.json").read_text())
    config = PRMConfig(
        output_dir=str(folder / "theirs"), num_train_epochs=EPOCHS, step_separator=".", max_length=None, bf16=False, report_to="none",
        gradient_checkpointing=False, use_cpu=not torch.cuda.is_available(), save_strategy="no", logging_steps=1000, disable_tqdm=True,
        **THEIRS[name],
    )  # fmt: skip
    data = Dataset.from_list([{k: row[k] for k in ("prompt", "completions", "labels")} for row in rows])
    trainer = PRMTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    assert [list(ids) for ids in trainer.train_dataset["input_ids"]] == [row["tokens"] for row in rows], "the tokens are not the same"
    timed(trainer.train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixes", nargs="*", choices=[*MIXES, []], help="lengths of episodes: short, long (both)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        folder, name = args.worker
        return (train_ours if name in OURS else train_theirs)(Path(folder), name)
    environment = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    environment.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    print(f"{platform.machine()}, {os.cpu_count()} cores; hidden {args.hidden}, {args.layers} layers; TRL {TRL}", flush=True)
    for mix in args.mixes or MIXES:
        with tempfile.TemporaryDirectory() as folder:
            total = EPOCHS * make_data(Path(folder), mix, args.hidden, args.layers)
            speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in [*OURS, *THEIRS]}
            for _ in range(args.rounds):
                for name, found in speeds.items():
                    line = [sys.executable, __file__, "--worker", folder, name]
                    done = subprocess.run(line, env=environment, capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
                    took = next(json.loads(x) for x in reversed(done.stdout.splitlines()) if x.startswith('{"wall"'))
                    found.append((total / took["wall"], total / took["cpu"]))
        print(f"{mix}: {total} tokens a run, {args.rounds} rounds")
        ours = [statistics.median(x) for x in zip(*speeds["ours"], strict=True)]
        for name, found in speeds.items():
            each = ", ".join(f"{wall:.0f}" for wall, _ in found)
            wall, cpu = (statistics.median(x) for x in zip(*found, strict=True))
            print(
                f"  {name:16} {each} tokens/s, {cpu:.0f} a CPU-second; ours is {ours[0] / wall:.2f}× as fast ({ours[1] / cpu:.2f}× by CPU)"
            )


if __name__ == "__main__":
    main()
