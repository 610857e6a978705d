"""A process that vLLM spawns ends with the one that spawned it. Of itself vLLM's engine core stays, with its memory, when its actor is killed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading


@functools.cache
def end_with_parent() -> None:
    """End this process as soon as its parent is gone, however that died; nothing where multiprocessing did not spawn it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end-with-parent").start()
