"""Shared, slow things: a run of the quickstart's recipe at a reduced size, a real engine, a third party's package on the path."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")
TESTS = Path(__file__).parent
PLUGINS = str(TESTS / "plugins")
sys.path.insert(0, PLUGINS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [PLUGINS, str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="agentprm-", dir="/tmp")  # a Ray of our own; its sockets' paths have to be short
os.environ.pop("RAY_ADDRESS", None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell's background jobs ignore, our commands would ignore too
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and what nohup ignores

from launching import QUICK, agentprm, changes, module, stop_ray  # noqa: E402

from openrlhf_agentprm.host.activate import activate  # noqa: E402
from openrlhf_agentprm.host.cpu import MODE_VARIABLE, prepare_environment  # noqa: E402

SIDE_BY_SIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1
if SIDE_BY_SIDE:  # threads of two processes on the same cores would wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"
prepare_environment()
if not SIDE_BY_SIDE:
    os.environ.pop("OMP_NUM_THREADS", None)  # commands choose their own
activate()  # before any test imports the host, whichever comes first
os.environ.pop(MODE_VARIABLE, None)  # what a test starts is patched by its own choice


def pytest_collection_modifyitems(items):
    """Whole files go to one process or the other, in this order: one that makes the quickstart's run, the long ones, those that only read it
    by then, all else."""
    shared = list(dict.fromkeys(item.path for item in items if "quick_run" in item.fixturenames))
    long = {item.path for item in items if item.get_closest_marker("host")}
    turn = (
        dict.fromkeys({item.path for item in items}, 3) | dict.fromkeys(long, 1) | dict.fromkeys(shared, 2) | dict.fromkeys(shared[:1], 0)
    )
    items.sort(key=lambda item: turn[item.path])


@pytest.fixture(scope="session", autouse=True)
def own_ray():
    """Nothing of a Ray that a test started is left behind."""
    yield
    stop_ray()
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


def made_once(tmp_path_factory, name, make):
    """A folder that `make` fills, once for all processes and files."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if SIDE_BY_SIDE else base) / name
    with FileLock(f"{folder}.lock"):
        if not (whole := folder.with_name(f"{name}.whole")).exists():
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory):
    """The quickstart's recipe, reduced, from nothing to the report."""
    return made_once(tmp_path_factory, "run", lambda folder: agentprm("run", "quickstart", *changes({"run_dir": folder, **QUICK})))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random policy for the counting game."""
    flags = ["--env.name", "thirdparty_count", "--env.num_tasks", 20, "--tiny.layers", 2]
    return made_once(tmp_path_factory, "tiny", lambda folder: module("tiny_policy", *flags, "--tiny.output", folder))


@pytest.fixture(scope="session")
def bpe_policy(tmp_path_factory):
    """A random model with a byte-level BPE tokenizer, whose samples re-encode differently."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from openrlhf_agentprm.agents.tiny import make_model, save_policy

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(["count up and stop at the number: count to two, at one"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    folder = tmp_path_factory.mktemp("bpe") / "policy"
    save_policy(make_model(tokenizer, layers=2), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def count_store(tiny, tmp_path_factory):
    """Demonstrations of the counting game, some of them failed."""
    flags = [
        "--env.name", "thirdparty_count", "--env.num_tasks", 96, "--env.max_turns", 6, "--env.num_workers", 4,
        "--policy.model_name_or_path", tiny, "--collect.n_samples_per_task", 1,
        "--collect.demonstrator", "careless", "--collect.noise", 0.5, "--data.max_len", 128,
    ]  # fmt: skip
    return made_once(tmp_path_factory, "count_store", lambda folder: module("collect", *flags, "--collect.output", folder))


@pytest.fixture(scope="session")
def prm(tiny, count_store, tmp_path_factory):
    """A PRM of the counting game."""
    return made_once(tmp_path_factory, "prm", lambda folder: train_prm(tiny, count_store, folder, "--train.max_epochs", 2))


@pytest.fixture(scope="session")
def implicit_prm(tiny, count_store, tmp_path_factory):
    """An implicit PRM of the counting game."""
    flags = ["--prm.name", "implicit", "--train.max_epochs", 1]
    return made_once(tmp_path_factory, "implicit_prm", lambda folder: train_prm(tiny, count_store, folder, *flags))


def train_prm(policy, store, folder, *flags):
    module(
        "train_prm", "--model.model_name_or_path", policy, "--data.dataset", store, "--ckpt.output_dir", folder, "--data.max_len", "128",
        "--ds.zero_stage", "0", "--ds.attn_implementation", "sdpa", "--ds.param_dtype", "fp32", "--train.batch_size", "16",
        "--train.micro_batch_size", "16", "--adam.lr", "1e-3", *flags,
    )  # fmt: skip


@pytest.fixture(scope="session")
def sampled_store(count_store, tmp_path_factory):
    """The same episodes as if they were eight samples of each of twelve tasks."""
    from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter

    folder = tmp_path_factory.mktemp("sampled") / "store"
    with EpisodeWriter(folder) as writer:
        for number, one in enumerate(EpisodeStore(count_store).episodes()):
            writer.add(replace(one, task_id=f"t{number % 12}", sample=number // 12, episode_id=""))
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A folder that takes 192 KiB: a file system of its own, or, where mounting one is not allowed, the kernel's limit on a file's size."""
    disk, size = tmp_path / "disk", 192 * 1024
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True).returncode == 0:
        yield disk
        subprocess.run(["umount", str(disk)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
