"""A stand-in for libnuma, compiled where the system has none: vLLM's CPU build links it, and would only ask it whether it may be used."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from ...core.cache import cache_folder
from ...core.errors import UserError

_HERE = Path(__file__).parent
_NAME = "libnuma.so.1"


@functools.cache
def provide_libnuma() -> str:
    """Make `libnuma.so.1` loadable in this process and its children: the system's, else `stand_in.c`, which says that there is no NUMA.

    Returns:
        Where the stand-in lies, "" if the system has the library.

    Raises:
        UserError: neither the library nor a C compiler is there.
    """
    try:
        ctypes.CDLL(_NAME)
        return ""
    except OSError:
        library = _compiled(cache_folder("numa"))
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # from now on the loader takes it for every library that wants this name
    folders = [str(library.parent), *filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    return str(library)


def _compiled(cache: Path) -> Path:
    """The stand-in, in a folder named by its source; several processes may make it at once."""
    source, symbols = _HERE / "stand_in.c", _HERE / "stand_in.map"
    digest = hashlib.sha256(source.read_bytes() + symbols.read_bytes()).hexdigest()[:16]
    library = cache / digest / _NAME
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UserError(
            f"vLLM on a CPU needs {_NAME}, which is not installed, and there is no C compiler to make a stand-in: "
            "apt-get install libnuma1 (Debian), or your system's equivalent"
        )
    library.parent.mkdir(parents=True, exist_ok=True)
    half = library.with_name(f"{os.getpid()}.tmp")
    line = [compiler, "-shared", "-fPIC", "-O1", f"-Wl,-soname,{_NAME}", f"-Wl,--version-script,{symbols}", "-o", str(half), str(source)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{_NAME} is not installed, and its stand-in could not be compiled; install libnuma1. {done.stderr.strip()}")
    os.replace(half, library)
    return library
