"""Argument checks shared by the tensor functions of this package."""

from __future__ import annotations

import torch


def same_layout(mask: torch.Tensor, *, mask_name: str = "mask_BK", **named: torch.Tensor) -> None:
    """Require a 2-D bool mask and floating tensors of its shape and device, all of one dtype (float32 or float64).

    Raises:
        ValueError: names the argument, what came and what is wanted.
    """
    bool_mask(mask_name, mask)
    dtype = None
    for name, tensor in named.items():
        is_tensor(name, tensor)
        if tensor.shape != mask.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; wanted {tuple(mask.shape)}, as {mask_name}")
        floating(name, tensor)
        if tensor.device != mask.device:
            raise ValueError(f"{name} is on {tensor.device}; wanted {mask.device}, as {mask_name}")
        if dtype is not None and tensor.dtype != dtype[1]:
            raise ValueError(f"{name} is {tensor.dtype}; wanted {dtype[1]}, the dtype of {dtype[0]}")
        dtype = dtype or (name, tensor.dtype)


def per_episode(name: str, tensor: torch.Tensor, like: torch.Tensor) -> None:
    """Require a (B,) floating tensor beside the (B, …) tensor `like`."""
    is_tensor(name, tensor)
    if tensor.shape != like.shape[:1]:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; wanted {(like.shape[0],)}, one entry an episode")
    floating(name, tensor)
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}; wanted {like.device}")
    if tensor.dtype != like.dtype:
        raise ValueError(f"{name} is {tensor.dtype}; wanted {like.dtype}")


def bool_mask(name: str, mask: torch.Tensor) -> None:
    is_tensor(name, mask)
    if mask.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; wanted two dimensions (episodes first)")
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} is {mask.dtype}; wanted torch.bool, True = counts")


def floating(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} is {tensor.dtype}; wanted torch.float32 or torch.float64 (call .float() on half precision)")


def is_tensor(name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is {type(value).__name__}; wanted a torch.Tensor")


def unit_interval(name: str, value: float) -> None:
    if not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"{name} is {value}; wanted a number in [0, 1]")
