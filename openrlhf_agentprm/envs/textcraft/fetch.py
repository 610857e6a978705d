"""Recipes from the npm package `minecraft-data` (MIT), two files of which are kept; its archive is checked against a digest that stands here."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from ...core.cache import cache_folder
from ...core.errors import UserError

PACKAGE, RELEASE = "minecraft-data", "3.117.0"
SHA512 = "glKv0EEmVwKvJwdNAKAal2P7gi/nijU9rEMp8gJmqYYRVswS6hA0q9566lcGHH07Ocmpqw5bMRbARC25pR13gA=="
URL = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{RELEASE}.tgz"
VERSIONS = ("1.16.2", "1.21.1")
_FILES = ("recipes.json", "items.json")


def data_folder(version: str) -> Path:
    """Where the files of a version of the game are kept."""
    return cache_folder(f"{PACKAGE}-{RELEASE}", version)


def fetch(archive: str | None = None) -> str:
    """Bring the recipes: by npm where it is installed (24 MB), else from its registry, or from an archive that is here already.

    Returns:
        what was done, in words.

    Raises:
        UserError: the archive cannot be had, or is not the one that was verified.
    """
    content = _read(Path(archive)) if archive else _download()
    if (found := base64.b64encode(hashlib.sha512(content).digest()).decode()) != SHA512:
        raise UserError(f"the archive is not {PACKAGE} {RELEASE} (SHA-512 {found[:16]}…, wanted {SHA512[:16]}…); nothing was kept")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        for version in VERSIONS:
            _keep(tar, version)
    return f"recipes of {', '.join(VERSIONS)} are in {data_folder(VERSIONS[0]).parent}"


def _keep(tar: tarfile.TarFile, version: str) -> None:
    folder = data_folder(version)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        member = tar.extractfile(f"package/minecraft-data/data/pc/{version}/{name}")
        assert member is not None
        half = folder / f".{name}.{os.getpid()}.tmp"
        half.write_bytes(member.read())
        os.replace(half, folder / name)


def _download() -> bytes:
    if shutil.which("npm"):
        with tempfile.TemporaryDirectory() as folder:
            line = ["npm", "pack", f"{PACKAGE}@{RELEASE}", "--silent"]
            done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600)
            archives = list(Path(folder).glob("*.tgz"))
            if done.returncode or not archives:
                raise UserError(f"{' '.join(line)} failed: {(done.stderr or done.stdout).strip()[-500:]}")
            return archives[0].read_bytes()
    try:
        with urllib.request.urlopen(URL, timeout=120) as answer:
            return bytes(answer.read())
    except OSError as error:
        raise UserError(f"{URL} cannot be read: {error}; give the archive itself with --fetch.archive") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"--fetch.archive {str(path)!r} cannot be read: {error}") from error
