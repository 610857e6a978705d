"""Work in parts that Ray places on a cluster, or on this machine where there is none; what comes of a part comes here as it is made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..core.errors import UserError
from .cpu import MODE_VARIABLE, has_cuda

Part = TypeVar("Part")
Made = TypeVar("Made")
_EVERY = 1.0  # seconds


def stream_by_ray(
    work: Callable[[Part], Iterator[Made]], parts: Sequence[Part], *, gpus: int, asked_by: str, paths: Mapping[str, str]
) -> Iterator[Made]:
    """What `work` gives of each part, in no fixed order; each part is one task.

    A lost node ends it, with all that was given out kept: since there is no order, Ray cannot tell what to make again. Whoever asks keeps what has
    come, and asks for the rest.

    Args:
        gpus: of each task, where there is CUDA.
        asked_by: the flag that asks for so many, as an error tells it.
        paths: whole paths that `work` reads, by what they are for; they have to be on every node.

    Raises:
        UserError: no node has so many GPUs, or a path is missing on a node.
    """
    import ray

    from .cluster import check_on_every_node, join_or_start, worker_environment

    mode = {MODE_VARIABLE: os.environ[MODE_VARIABLE]} if MODE_VARIABLE in os.environ else {}
    join_or_start(worker_environment(mode), gpus=0, cpus=2 * len(parts))
    gpus = gpus if has_cuda() else 0
    largest = max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
    if gpus > largest:
        ray.shutdown()
        raise UserError(f"{asked_by} asks for more GPUs than any node of the cluster has ({largest})")
    check_on_every_node(paths)

    @ray.remote(num_cpus=1, num_gpus=gpus, num_returns="streaming", max_retries=0)
    def task(function: Callable[[Part], Iterator[Made]], part: Part) -> Iterator[list[Made]]:
        yield from _gathered(function(part))

    try:
        streams: list[Any] = [task.remote(work, part) for part in parts]
        while streams:
            ready: Any = ray.wait(streams, num_returns=1)[0][0]
            try:
                yield from ray.get(next(ready))
            except StopIteration:
                streams.remove(ready)
    finally:
        ray.shutdown()


def _gathered(made: Iterator[Made]) -> Iterator[list[Made]]:
    """What was made in each second, as a list: every object that crosses a cluster costs some milliseconds."""
    some: list[Made] = []
    sent = time.monotonic()
    for one in made:
        some.append(one)
        if time.monotonic() - sent >= _EVERY:
            yield some
            some, sent = [], time.monotonic()
    if some:
        yield some


def whole_path(path: str) -> str:
    """A path that other processes find, wherever they run; a hub name or an address as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else path
