"""Chat formats: pieces that only append, templates that rewrite history refused, actions read back."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.agents.parsing import parser_for
from openrlhf_agentprm.agents.tiny import make_tokenizer
from openrlhf_agentprm.core.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
REWRITES = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last or m.role != 'assistant' else 'stripped' }}")


@pytest.fixture
def tokenizer(bpe_policy):
    return load_tokenizer(str(bpe_policy))


def test_ten_turns_equal_the_templates_own_rendering(tokenizer):
    chat = ChatFormat(tokenizer, system_prompt="be brief")
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "count to 2\nat 0"}]
    tokens = chat.first("count to 2", "at 0")
    for turn in range(10):
        assert tokens == tokenizer.encode(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), add_special_tokens=False
        )
        action = chat.encode_action(f"up {turn}")
        assert chat.is_closed(action) and chat.action_text(action) == f"up {turn}"
        tokens = tokens + action + chat.following(f"at {turn}", closed=True)
        messages += [{"role": "assistant", "content": f"up {turn}"}, {"role": "user", "content": f"at {turn}"}]


def test_an_unfinished_action_is_closed_by_the_observation(tokenizer):
    chat = ChatFormat(tokenizer)
    open_ended = chat.following("at 1", closed=False)
    assert open_ended[0] == chat.end_token_id and open_ended[1:] == chat.following("at 1", closed=True)


def test_a_template_that_rewrites_history_is_refused(tokenizer):
    tokenizer.chat_template = REWRITES
    with pytest.raises(UserError, match="rewrites earlier turns when turns are added .*--env.chat_template"):
        ChatFormat(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        ChatFormat(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no roles like these') }}"
    with pytest.raises(UserError, match="cannot render"):
        ChatFormat(tokenizer)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Metaspace()],
    ids=["byte level", "metaspace", "metaspace by default"],
)
def test_a_tokenizer_without_the_prefix_property_is_refused(pre_tokenizer):
    """Each piece that is encoded by itself would get a space that the conversation as a whole does not have: where no special token
    stands between them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizer
    text = "ASSISTANT: go to door 0\nUSER: you see 1 doors.\n"
    bpe.train_from_iterator([text], trainers.BpeTrainer(vocab_size=200, special_tokens=["<|im_end|>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    tokenizer.chat_template = PLAIN
    with pytest.raises(UserError, match="has no prefix property: text encoded turn by turn .*add_prefix_space"):
        ChatFormat(tokenizer)


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_tokenizer_that_puts_a_space_first_is_token_exact_between_special_tokens(scheme):
    """As TinyLlama's and Mistral's: what is demonstrated is encoded as it stands in the conversation, not as a text of its own."""
    bpe = Tokenizer(models.BPE())
    newlines = pre_tokenizers.Split("\n", "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([newlines, pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    text = "assistant\ngo to door 0<|im_end|>\nuser\nyou see 1 doors.<|im_end|>\n"
    bpe.train_from_iterator([text], trainers.BpeTrainer(vocab_size=200, special_tokens=["<|im_start|>", "<|im_end|>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    chat = ChatFormat(tokenizer)
    alone = tokenizer.encode("go to door 0", add_special_tokens=False)
    assert (chat.encode_action("go to door 0") == [*alone, chat.end_token_id]) is (scheme == "always")


def test_action_formats():
    assert parser_for("action_only")("  go to red ball 1\n") == "go to red ball 1"
    assert parser_for("react")("Thought:\nI see. Action: no\n\nAction:\n go to red ball 1 \nmore") == "go to red ball 1"
    assert parser_for("react")("nothing") == ""
    with pytest.raises(UserError, match="did you mean 'react'"):
        parser_for("reactt")


def test_the_tiny_tokenizer_keeps_names_whole_and_round_trips():
    tokenizer = make_tokenizer(["put the red ball next to the blue key 12, now."], ["red ball", "blue key", "next to"])
    text = "put the red ball next to the blue key 12, now."
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "put",
        "the",
        "red ball",
        "next to",
        "the",
        "blue key",
        "1",
        "2",
        ",",
        "now",
        ".",
    ]
    assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
    with pytest.raises(UserError, match="no text was given"):
        make_tokenizer([])


def test_a_missing_tokenizer_or_template_is_named(tmp_path, bpe_policy):
    with pytest.raises(UserError, match="no tokenizer could be loaded from"):
        load_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(str(bpe_policy), str(tmp_path / "no.jinja"))
