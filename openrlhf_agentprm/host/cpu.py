"""Settings that let the host run where there is no CUDA device; none of them is touched where there is one."""

from __future__ import annotations

import ctypes
import functools
import gc
import glob
import os
import sys

from .numa import provide_libnuma

# What glibc keeps of freed memory instead of giving it back, bytes: (mallopt's number, the variable by which a user sets it, value).
_KEPT_MEMORY = ((-3, "MALLOC_MMAP_THRESHOLD_", 32 << 20), (-1, "MALLOC_TRIM_THRESHOLD_", 64 << 20))

# Names and values for vLLM, DeepSpeed and PyTorch; what the user has set already stands.
CPU_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no process between the engine's core and its model, and no busy queue between the two
    "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles a function or two in C++ although it was told to run eagerly
    "TOKENIZERS_PARALLELISM": "false",
}
_COLLECTED_AFTER = 10_000  # objects more than were given up; Python's default is 700
_DEVICES = ("/dev/nvidia[0-9]*", "/usr/lib/wsl/lib/libcuda.so*")  # what the Makefile looks for too; the second is a GPU seen from WSL


# What the driver found, or the user said, for every process of a run: "cuda", "cpu" or "cpu-only" (see `activate`).
MODE_VARIABLE = "OPENRLHF_AGENTPRM_MODE"


def has_cuda() -> bool:
    """Whether this run is on GPUs: as the run's mode says, else as this machine has one."""
    mode = os.environ.get(MODE_VARIABLE)
    return mode == "cuda" if mode else has_device()


@functools.cache
def has_device() -> bool:
    """True on a machine with a GPU, also in a process that was given none of them (as Ray does with trainers)."""
    return any(glob.glob(pattern) for pattern in _DEVICES)


def prepare_environment(*, alone: bool = False) -> None:
    """Set `CPU_ENVIRONMENT` and the number of threads for this process and its children, unless CUDA is there.

    Call before vllm or deepspeed is imported.

    Args:
        alone: the processes of this launch have the machine to themselves and share all of its cores. Else half of the cores compute and
            half are left to environments and to the other processes of a PPO step: threads that wait for each other cost more than they
            bring to small models.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if has_cuda():
        return
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    provide_libnuma()
    look_for_garbage_less_often()
    if alone:
        _keep_freed_memory()
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if alone else 2
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // sharers)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def look_for_garbage_less_often() -> None:
    """The imports of a worker make a million objects that stay, and by default a fifth of their time goes into looking for garbage among them
    (6.5 s to 5.2 s for a policy worker's; the memory is the same). What somebody has set higher, or off, stays."""
    after, *older = gc.get_threshold()
    if 0 < after < _COLLECTED_AFTER:
        gc.set_threshold(_COLLECTED_AFTER, *older)


def _keep_freed_memory() -> None:
    """Have this process use the memory that it frees again: each step of a training, each batch of a server takes and frees the same activations,
    and memory that comes back from the kernel is cleared page by page. Nothing where the C library is not glibc."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    for number, variable, value in _KEPT_MEMORY:
        if set_option is not None and variable not in os.environ:
            set_option(number, value)
