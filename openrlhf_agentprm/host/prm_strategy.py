"""The host's DeepSpeed strategy for PRM training, with float32 as a further dtype, and the model under it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ..prm.packing import enable_packing


def set_up(args: Any) -> Any:
    """The host's strategy, its process group ready."""
    from openrlhf.utils.deepspeed import DeepspeedStrategy

    class Strategy(DeepspeedStrategy):
        """Adds float32: neither of DeepSpeed's half-precision engines is switched on, so weights stay as they were loaded."""

    strategy = Strategy(
        seed=args.train.seed,
        full_determinism=args.train.full_determinism_enable,
        max_norm=args.max_norm,
        micro_train_batch_size=args.train.micro_batch_size,
        train_batch_size=args.train.batch_size,
        zero_stage=args.ds.zero_stage,
        args=args,
    )
    strategy.setup_distributed()
    return strategy


def prepare_model(args: Any, strategy: Any, kind: Any) -> Any:
    """The reward model of a kind to train, with gradient checkpointing and LoRA as the flags say."""
    if args.ds.zero_stage == 3:
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        strategy.hf_config = HfDeepSpeedConfig(strategy.get_ds_train_config())  # kept alive: it makes loading shard the weights
    further = kind.start_options(args) if hasattr(kind, "start_options") else {}
    model = kind.start(
        args.model.model_name_or_path,
        **further,
        dtype=args.ds.param_dtype,
        attn_implementation=args.ds.attn_implementation,
        seed=args.train.seed,
        whole=whole_weights,
    )
    model.config.use_cache = False
    if args.ds.packing_samples:
        enable_packing(model)
    if args.model.gradient_checkpointing_enable:
        model.gradient_checkpointing_enable({"use_reentrant": args.model.gradient_checkpointing_reentrant})
    if args.ds.lora.rank > 0:
        from peft import LoraConfig, get_peft_model

        model.enable_input_require_grads()
        lora = args.ds.lora
        model = get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                modules_to_save=["score"] if hasattr(model, "score") else None,
                bias="none",
            ),
        )
    kind.on_call(model)
    return model


def whole_weights(weights: Sequence[Any]) -> Any:
    """A context in which weights that ZeRO-3 has partitioned are whole; what rank 0 changes in them is kept."""
    partitioned = [w for w in weights if hasattr(w, "ds_id")]
    if not partitioned:
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0)
