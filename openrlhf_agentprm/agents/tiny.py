"""A tiny policy made from scratch: a Qwen3-shaped model and a word-level tokenizer with the words of an environment.

It needs no download, and learns an environment's text on a CPU in minutes. Multi-word names of the environment's lexicon are one token
each, so that recognising the goal is comparing tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import UserError

PAD, END, USER, ASSISTANT, UNKNOWN = "<|pad|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|unk|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ m['content'] }}" + END + "{% else %}" + USER + "{{ m['content'] }}" + ASSISTANT + "{% endif %}"
    "{% endfor %}"
)


def make_tokenizer(texts: Iterable[str], lexicon: Sequence[str] = ()) -> Any:
    """A word-level tokenizer: the lexicon's names, then words, then single signs; decoding joins by one space.

    Args:
        texts: everything that the vocabulary shall cover.
        lexicon: multi-word names kept whole, longest first.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = sorted(lexicon, key=len, reverse=True)
    pattern = "|".join([rf"\b{re.escape(name)}\b" for name in names] + [r"[^\W\d_]+", r"\d", r"[^\w\s]"])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(pattern, " ".join(text.split())))
    if not counts:
        raise UserError("no text was given, so there are no words to make a tokenizer of")
    words = [PAD, END, USER, ASSISTANT, UNKNOWN, *sorted({*counts, *names})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), pre_tokenizers.Split(Regex(r"^\s+$"), behavior="removed")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, additional_special_tokens=[USER, ASSISTANT]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer: Any, *, hidden_size: int = 128, layers: int = 3, heads: int = 4, context: int = 1024, seed: int = 0) -> Any:
    """A Qwen3 with random weights in bfloat16, its vocabulary padded to a multiple of 8.

    Args:
        heads: attention heads; half as many key-value heads. The head size must be one that vLLM's CPU attention takes.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    head_dim = hidden_size // heads
    if head_dim not in (32, 64, 80, 96, 112, 128):
        raise UserError(f"hidden size {hidden_size} over {heads} heads gives a head size of {head_dim}; allowed: 32, 64, 80, 96, 112, 128")
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=head_dim,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    model: Any = Qwen3ForCausalLM(config)
    return model.to(torch.bfloat16)


def save_policy(model: Any, tokenizer: Any, path: str | Path) -> None:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
