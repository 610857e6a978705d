"""Files that are made once and kept on disk, by many processes at a time."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def appearing_at_once(folder: Path, needed: str) -> Iterator[Path]:
    """An empty folder to fill, which is `folder` once it is whole.

    Where another process was first, its files stay: `needed` is the file that shows it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / needed).is_file():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
