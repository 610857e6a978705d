"""The chat templates of real models, each with a small byte-level tokenizer that has the special tokens it writes."""

from importlib import metadata
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent / "agents" / "templates"
TRL = "pip install --no-deps trl==1.16.0"
QWEN = (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>", "</tool_call>", "<think>", "</think>"], None, "<|im_end|>")
LLAMA_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
LLAMA = (LLAMA_TOKENS, [], "<|begin_of_text|>", "<|eot_id|>")
GEMMA = (["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], [], "<bos>", "<eos>")
MISTRAL_TOOLS = ["[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
MISTRAL = (["<s>", "</s>", "[INST]", "[/INST]", *MISTRAL_TOOLS], [], "<s>", "</s>")
GPT_OSS_TOKENS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>"]
GPT_OSS = (GPT_OSS_TOKENS, [], None, "<|return|>")
KINDS = {
    "qwen2_5": QWEN, "qwen3": QWEN, "qwen3_instruct_2507": QWEN, "llama3": LLAMA, "llama3_1": LLAMA, "llama3_2": LLAMA, "gemma": GEMMA,
    "gemma3": GEMMA, "mistral_v3": MISTRAL, "mistral_v3_tekken": MISTRAL, "gpt_oss": GPT_OSS,
}  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "One."}}, "required": ["a"]},
        },
    }
    for name, about in (("double", "Twice a number."), ("halve", "Half of a number."))
]


def source(name):
    """The template's text."""
    path = HERE / f"{name}.jinja"
    if not path.exists():
        try:
            trl = metadata.distribution("trl")  # its files; nothing of it is imported
        except metadata.PackageNotFoundError:
            pytest.skip(f"the template {name} is read from trl: {TRL}")
        path = Path(str(trl.locate_file(f"trl/chat_templates/{name}.jinja")))
    return path.read_text()


def tokenizer_of(name, template=None):
    special, plain, bos, eos = KINDS[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    bpe.add_tokens([AddedToken(token, normalized=False) for token in plain])  # as in Qwen: tokens of their own, but not special
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template or source(name)
    return tokenizer
