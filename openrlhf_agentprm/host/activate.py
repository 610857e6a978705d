"""Bind to the host: patch its modules in memory as they are imported, in every process, and be able to prove it.

Nothing is written into site-packages. The patched text of each module goes to a cache folder, named by its content, and the compiled code
points there: tracebacks, debuggers and `inspect` show the lines that run.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ..core.cache import cache_folder
from ..core.errors import UserError
from .cpu import MODE_VARIABLE, has_cuda, look_for_garbage_less_often
from .numa import provide_libnuma
from .orphans import end_with_parent
from .patches import Series, load_series, supported_versions

KINDS = {"cuda": {"always"}, "cpu": {"always", "cpu"}, "cpu-only": {"cpu"}}

_finder: _Finder | None = None


def activate(mode: str | None = None) -> None:
    """Patch the host's modules from now on, in this process.

    Args:
        mode: "cuda" (no CPU patch), "cpu" (all patches), "cpu-only" (the CPU patches alone: the host as it is, on a CPU). By default what
            the machine has.

    Raises:
        UserError: the host is missing, of a version that was not verified, edited, or imported already.
    """
    global _finder
    mode = mode or os.environ.get(MODE_VARIABLE) or ("cuda" if has_cuda() else "cpu")
    if mode not in KINDS:
        raise UserError(f"{MODE_VARIABLE} is {mode!r}; allowed: {', '.join(KINDS)}")
    if _finder is not None:
        if _finder.mode != mode:
            raise UserError(f"the patches are active as {_finder.mode!r} in this process; they cannot become {mode!r}")
        return
    version = host_version()
    series = load_series(version)
    finder = _Finder(series, mode)
    early = sorted(name for name in finder.modules if name in sys.modules)
    if early:
        raise UserError(f"import openrlhf_agentprm before openrlhf: {', '.join(early)} is imported already, without our patches")
    finder.check_all()
    if "cpu" in finder.kinds:
        provide_libnuma()
        look_for_garbage_less_often()
    sys.meta_path.insert(0, finder)
    os.environ[MODE_VARIABLE] = mode
    _finder = finder


def activate_in_worker() -> None:
    """Ray's worker hook and vLLM's plugin: follow the driver; do nothing in processes that no driver of ours started."""
    if os.environ.get(MODE_VARIABLE):
        end_with_parent()
        activate()


def host_version() -> str:
    """The installed host's version, if it is one that was verified."""
    verified = ", ".join(supported_versions())
    try:
        version = metadata.version("openrlhf")
    except metadata.PackageNotFoundError:
        raise UserError(
            f"openrlhf is not installed; install a verified version ({verified}): pip install 'openrlhf-agentprm[host]'"
        ) from None
    if version not in supported_versions():
        raise UserError(
            f"openrlhf {version} is installed; openrlhf-agentprm has been verified with {verified} only. "
            f"Install one of them: pip install openrlhf=={supported_versions()[-1]}"
        )
    return version


def report() -> dict[str, Any]:
    """What is active in this process; sent back by workers as proof."""
    if _finder is None:
        return {"active": False, "pid": os.getpid(), "patches": [], "series": "", "patched": {}}
    return {
        "active": True,
        "pid": os.getpid(),
        "series": _finder.digest(),
        "mode": _finder.mode,
        "host": _finder.series.version,
        "patches": _finder.patch_names(),
        "patched": dict(_finder.loaded),
    }


def same_series(found: dict[str, Any]) -> bool:
    """Whether another process's `report` tells of the series that is active here."""
    return bool(found["series"]) and found["series"] == report()["series"]


class _Finder:
    """Finds the host's patched modules; `loaded` maps each one imported so far to the digest of its patched text."""

    def __init__(self, series: Series, mode: str) -> None:
        self.series = series
        self.mode = mode
        self.kinds = KINDS[mode]
        self.modules = {_module_name(path): path for path in series.files(self.kinds)}
        self.loaded: dict[str, str] = {}

    def patch_names(self) -> list[str]:
        return [patch.name for patch in self.series.chosen(self.kinds)]

    def digest(self) -> str:
        """The same in two processes only if they run the same patches, to the line."""
        return hashlib.sha256(repr(self.series.chosen(self.kinds)).encode()).hexdigest()[:16]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            return None
        spec.loader = _Loader(name, spec.origin, self)
        return spec

    def check_all(self) -> None:
        """Patch every file once, so that a wrong one is told now and not when it is imported."""
        root = Path(str(metadata.distribution("openrlhf").locate_file("")))
        for path in sorted(self.modules.values()):
            self.patched_text(path, (root / path).read_text(encoding="utf-8"))

    def patched_text(self, path: str, text: str) -> str:
        return self.series.apply(path, text, self.kinds)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads one module from its patched text."""

    def __init__(self, name: str, origin: str, finder: _Finder) -> None:
        super().__init__(name, origin)
        self.finder = finder

    def get_source(self, fullname: str) -> str:
        path = self.finder.modules[_plain(fullname, self.name)]
        return self.finder.patched_text(path, Path(self.path).read_text(encoding="utf-8"))

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_source(fullname)
        digest = hashlib.sha256(text.encode()).hexdigest()
        shown = _keep(self.finder.modules[self.name], text, digest)
        linecache.cache[shown] = (len(text), None, text.splitlines(keepends=True), shown)
        self.finder.loaded[self.name] = digest
        return compile(text, shown, "exec", dont_inherit=True)


def _keep(path: str, text: str, digest: str) -> str:
    """Write the patched text where a debugger can open it; its name if that cannot be done."""
    for folder in (cache_folder("patched"), Path(tempfile.gettempdir(), "openrlhf-agentprm", "patched")):
        target = folder / digest[:16] / path
        if target.exists():
            return str(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            half = target.with_suffix(f".{os.getpid()}.tmp")
            half.write_text(text, encoding="utf-8")
            os.replace(half, target)
            return str(target)
        except OSError:
            continue
    return f"<patched {path}>"


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _plain(fullname: str, name: str) -> str:
    return name if fullname == "__main__" else fullname
