"""A policy that plays whatever is assigned to it: by an engine in this process, or by engines that Ray places on a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..agents.chat import ChatFormat
from ..data.episode import Episode
from ..rollout.builder import Assignment
from ..rollout.collect import Stats, play_episodes
from ..rollout.config import EnvConfig
from ..rollout.engine import Sampling, stream_seed
from ..rollout.pool import EnvPool
from .engine import VLLMEngine
from .shards import stream_by_ray, whole_path


@dataclass(frozen=True)
class Player:
    """A policy with its engine's settings; goes to other processes as it is.

    Args:
        model: folder or hub name.
        env: what is played.
        max_len: context in tokens.
        sampling: of actions.
        seed: of the sampler.
    """

    model: str
    env: EnvConfig
    max_len: int
    sampling: Sampling
    seed: int = 0
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False

    def play(
        self, missing: list[Assignment], *, pool: EnvPool | None = None, chat: ChatFormat | None = None, stats: Stats | None = None
    ) -> Iterator[Episode]:
        """Play in this process.

        Args:
            pool, chat: made here unless they are given.
            stats: filled as it goes.
        """
        chat = chat or self.env.chat(self.model)
        with contextlib.ExitStack() as stack:
            workers = pool or stack.enter_context(self.env.pool())
            engine = VLLMEngine(
                self.model,
                max_model_len=self.max_len,
                seed=stream_seed(self.seed, missing[0].episode_id),
                gpu_memory_utilization=self.gpu_memory_utilization,
                tensor_parallel_size=self.tensor_parallel_size,
                enforce_eager=self.enforce_eager,
            )
            stack.callback(engine.close)
            limits, retries = self.env.limits(self.max_len), self.env.max_retries
            yield from play_episodes(missing, workers, engine, chat, self.sampling, limits, max_retries=retries, stats=stats)

    def play_by_ray(self, missing: list[Assignment], engines: int) -> Iterator[Episode]:
        """Play with so many engines, each a Ray task with environments of its own; episodes come here as they finish (see `stream_by_ray`)."""
        located = self._anywhere()
        parts, gpus = [part for i in range(engines) if (part := missing[i::engines])], self.tensor_parallel_size
        yield from stream_by_ray(located.play, parts, gpus=gpus, asked_by=f"--vllm.tensor_parallel_size {gpus}", paths=located._paths())

    def _anywhere(self) -> Player:
        """With whole paths: a cluster's workers run in folders of their own."""
        files: dict[str, Any] = {name: whole_path(path) for name in _FILES if (path := getattr(self.env, name)) is not None}
        args = {name: whole_path(value) if _names_path(name, value) else value for name, value in self.env.args.items()}
        return replace(self, model=whole_path(self.model), env=replace(self.env, args=args, **files))

    def _paths(self) -> dict[str, str]:
        """What the player reads from the disk here, by flag; a hub name is none."""
        flags = {"--policy.model_name_or_path": self.model, **{f"--env.{name}": getattr(self.env, name) for name in _FILES}}
        return {flag: path for flag, path in flags.items() if path and Path(path).exists()}


_FILES = ("system_prompt_file", "few_shot_file", "chat_template")  # of `EnvConfig`


def _names_path(name: str, value: object) -> bool:
    """An environment's argument that is a path by its name."""
    return isinstance(value, str) and name.endswith(("_dir", "_file", "_path"))
