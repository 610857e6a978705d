"""Taking over new weights in vLLM's CPU worker."""

from __future__ import annotations

from typing import Any

import torch


def reload_all(model_runner: Any, weights: list[tuple[str, torch.Tensor]]) -> None:
    """Load all parameters at once and pack again what vLLM packs.

    Linear layers are packed for the CPU and drop their weights, so they take no single one afterwards. An output head that is tied to the
    embedding is no parameter of its own: vLLM's reload passes it over, and it would go on with the packed copy of its first weights.
    """
    model_runner.reload_weights(weights_iterator=iter(weights))
    for layer in model_runner.get_model().modules():
        if hasattr(layer, "cpu_linear") and layer.weight.numel():
            layer.quant_method.process_weights_after_loading(layer)
