"""The patch series: unified diffs beside a table of the files that they were made for, applied to text in memory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..core.errors import UserError

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")


@dataclass(frozen=True)
class Edit:
    """Lines of the pristine file, from `line` (0-based), that become others; `old` is what must stand there."""

    line: int
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class Patch:
    """One patch file: a header of `Key: value` lines and a unified diff against the pristine host.

    `active` is "always", or "cpu" for what only a machine without CUDA needs.
    """

    name: str
    header: dict[str, str]
    edits: dict[str, tuple[Edit, ...]]  # by path

    @property
    def active(self) -> str:
        return self.header["Active"]


@dataclass(frozen=True)
class Series:
    """All patches for one version of the host, and the SHA-256 of every file that they touch.

    Every patch is made against the pristine files, so that any subset applies, in any order.
    """

    version: str
    patches: tuple[Patch, ...]
    digests: dict[str, str]

    def chosen(self, modes: Set[str]) -> list[Patch]:
        return [patch for patch in self.patches if patch.active in modes]

    def files(self, modes: Set[str]) -> set[str]:
        """Paths that the chosen patches touch."""
        return {path for patch in self.chosen(modes) for path in patch.edits}

    def apply(self, path: str, text: str, modes: Set[str]) -> str:
        """The text of a file with the chosen patches.

        Raises:
            UserError: the file is not the one that the series was made for.
        """
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != self.digests[path]:
            raise UserError(
                f"{path} of the installed openrlhf {self.version} is not the published file (SHA-256 {found[:12]}…, wanted "
                f"{self.digests[path][:12]}…): it was edited or comes from a fork. Reinstall it: pip install --no-deps "
                f"--force-reinstall openrlhf=={self.version}"
            )
        edits = [edit for patch in self.chosen(modes) for edit in patch.edits.get(path, ())]
        return "".join(apply_edits(text.splitlines(keepends=True), edits, path))


def apply_edits(lines: list[str], edits: Iterable[Edit], path: str) -> list[str]:
    """Make all edits at once; each old line must stand exactly where the patch says, and no two edits may touch."""
    result: list[str] = []
    at = 0
    for edit in sorted(edits, key=lambda e: (e.line, len(e.old))):
        end = edit.line + len(edit.old)
        if edit.line < at or tuple(lines[edit.line : end]) != edit.old:
            raise UserError(
                f"a patch of {path} does not apply at line {edit.line + 1}: found {lines[edit.line : end]}, wanted {list(edit.old)}"
            )
        result += [*lines[at : edit.line], *edit.new]
        at = end
    return result + lines[at:]


def parse(name: str, text: str) -> Patch:
    """Read a patch file; context lines only count."""
    head, _, body = text.partition("\n\n")
    header = {key: value for key, _, value in (line.partition(": ") for line in head.splitlines())}
    edits: dict[str, list[Edit]] = {}
    path, at = "", 0
    old: list[str] = []
    new: list[str] = []

    def close() -> None:
        if old or new:
            edits.setdefault(path, []).append(Edit(at - len(old), tuple(old), tuple(new)))
            old.clear()
            new.clear()

    for line in body.splitlines(keepends=True):
        if line.startswith(("--- ", "+++ ", "@@ ", " ")):
            close()
        if line.startswith("+++ "):
            path = line[4:].strip()
        elif match := _HUNK.match(line):
            at = int(match[1]) - (0 if match[2] == "0" else 1)
        elif line.startswith(" "):
            at += 1
        elif line.startswith("-") and not line.startswith("--- "):
            old.append(line[1:])
            at += 1
        elif line.startswith("+"):
            new.append(line[1:])
    close()
    return Patch(name, header, {path: tuple(found) for path, found in edits.items()})


def series_folder() -> Path:
    """Where the series lie: inside the installed package, or at the top of a source checkout."""
    inside = Path(str(resources.files("openrlhf_agentprm"))) / "patches"
    return inside if inside.is_dir() else inside.parent.parent / "patches"


def supported_versions() -> list[str]:
    return sorted(folder.name.removeprefix("openrlhf-") for folder in series_folder().glob("openrlhf-*"))


def load_series(version: str) -> Series:
    """The series for one version of the host."""
    folder = series_folder() / f"openrlhf-{version}"
    patches = tuple(parse(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.patch")))
    return Series(version, patches, json.loads((folder / "digests.json").read_text(encoding="utf-8")))
