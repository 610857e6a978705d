"""DeepSpeed on a CPU: what it would compile in C++, from PyTorch instead, so that training needs no compiler; and gathers that are over."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim.adam import adam
from torch.optim.adamw import adamw


def use_torch_ops() -> None:
    """Give DeepSpeed's CPU accelerator PyTorch's fused Adam for its own, and no shared-memory collectives: gloo serves them all.

    Call after `deepspeed` is imported, before an optimiser or a process group is made. The optimiser's class stays `FusedAdam`, and with
    it DeepSpeed's master weights, checkpoints and ZeRO stages.
    """
    import deepspeed.ops
    from deepspeed.ops.op_builder.cpu import FusedAdamBuilder, ShareMemCommBuilder

    FusedAdamBuilder.load = lambda self, verbose=True: SimpleNamespace(multi_tensor_adam=multi_tensor_adam)
    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
    _wait_for_every_gather()


def _wait_for_every_gather() -> None:
    """Have ZeRO-3 gather partitioned weights one after the other.

    It starts a gather for each weight and waits for the last alone. That is enough in the order of a CUDA stream; gloo's gathers overtake
    one another, and whoever reads a weight early reads memory that nobody has written.
    """
    from deepspeed.runtime.zero.partition_parameters import Init

    at_once = Init._allgather_params_coalesced
    if hasattr(at_once, "__wrapped__"):
        return

    @functools.wraps(at_once)
    def one_by_one(self: Any, param_list: list[Any], hierarchy: int = 0, quantize: bool = False) -> None:
        for param in param_list:
            at_once(self, [param], hierarchy, quantize)

    Init._allgather_params_coalesced = one_by_one


@torch.no_grad()
def multi_tensor_adam(
    chunk_size: int,
    overflow: torch.Tensor,
    tensors: list[list[torch.Tensor]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    decoupled: int,
    bias_correction: int,
    weight_decay: float,
) -> None:
    """One step of AdamW (`decoupled`, arXiv 1711.05101 algorithm 2) or of Adam with L2, in place, as DeepSpeed calls it.

    m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  θ ← θ − lr·wd·θ − lr · (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε)

    Args:
        tensors: gradients, parameters, first and second moments; each a list of tensors of one dtype.
        step: t, from 1.
        chunk_size, overflow: of the CUDA kernel; not read.

    Raises:
        NotImplementedError: without bias correction, for which DeepSpeed's configuration has no key here.
    """
    if not bias_correction:
        raise NotImplementedError("Adam without bias correction")
    gradients, parameters, first, second = tensors
    update = adamw if decoupled else adam
    update(
        parameters,
        gradients,
        first,
        second,
        max_exp_avg_sqs=[],
        state_steps=[torch.tensor(step - 1.0) for _ in parameters],  # the update counts each up
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=False,
    )
