"""Weights to vLLM over Gloo, where there is no CUDA and so no NCCL."""

from __future__ import annotations

import datetime
from typing import Any

import torch
from torch.distributed import ProcessGroupGloo, TCPStore


class GlooBroadcast:
    """A process group of its own with the one method of NCCL's communicator that the host calls.

    Args:
        host, port: where rank 0 listens.
        rank, world_size: this process among trainer and engines.
    """

    def __init__(self, host: str, port: int, rank: int, world_size: int) -> None:
        limit = datetime.timedelta(seconds=300)
        store = TCPStore(host, int(port), world_size, rank == 0, limit)
        self._group = ProcessGroupGloo(store, rank, world_size, limit)

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        options = torch._C._distributed_c10d.BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        self._group.broadcast([tensor], options).wait()  # type: ignore[attr-defined]
