"""What an estimator has the PRM pay, turn by turn, for those who watch it. Legend: B episodes, K turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .. import process_rewards
from ..batches import TurnBatch, needed
from ..process_rewards import Shaping
from ..scan import last_valid
from .turns import prover_progress

_KINDS = {"promise": "promise", "progress": "progress", "implicit": "progress", "spa": "spa", "potential": "potential"}
_KINDS |= {name: name for name in ("clip", "delta", "clip_delta")}


def paid_by_turn(name: str, options: Mapping[str, Any], batch: TurnBatch) -> torch.Tensor | None:
    """p_BK whose sum over an episode is what the policy is paid for, before its weight and running scale; None where nothing is paid.

    Differences of scores add up to the first score, whatever follows, but each turn is paid its own: of these an episode counts the mean. The
    form `min_form` counts its softmax-weighted scores, `strict` the lowest.

    Args:
        name: of the registry; another package's pays nothing that is known.
        options: all options, those that were not given by their defaults.
    """
    if name == "pav":
        p_BK = prover_progress(batch, options["best_of"])
    elif name == "min_form":
        return _lowest(_bounded(process_rewards.of_scores(batch, options["of"]), options, batch), options, batch)
    else:
        kind = _KINDS.get(name, options.get("process_reward") or "none")
        if kind == "none":
            return None
        own = {key: options[key] for key in ("eta",) if name in ("clip", "clip_delta")} or dict(options.get("process_options") or {})
        if kind in ("delta", "clip_delta"):
            of_turns = process_rewards.of_scores(batch, {"delta": "promise", "clip_delta": "clip"}[kind], **own)
            return of_turns / batch.mask_BK.sum(1, keepdim=True).clamp(min=1)
        p_BK = process_rewards.of_scores(batch, kind, gamma=options.get("gamma", 1.0), **own)
    if options.get("grounding_weight"):
        p_BK = p_BK + options["grounding_weight"] * (needed(batch.valid_BK, "valid_BK") & batch.mask_BK).float()
    return _bounded(p_BK, options, batch)


def _bounded(p_BK: torch.Tensor, options: Mapping[str, Any], batch: TurnBatch) -> torch.Tensor:
    limit = options.get("process_clip") if options.get("scaling", "none") == "none" else None
    return Shaping(options.get("bound", "none"), "none", limit)(p_BK, batch)


def _lowest(p_BK: torch.Tensor, options: Mapping[str, Any], batch: TurnBatch) -> torch.Tensor:
    if not options["strict"]:
        return process_rewards.min_form(p_BK, batch.mask_BK, temperature=options["temperature"])
    return torch.where(last_valid(batch.mask_BK), process_rewards.future_min(p_BK, batch.mask_BK)[:, :1], 0.0)
