"""Examples in the prompt: token-exact between the system message and the first observation, from messages and from exported episodes."""

import json

import pytest
from real_templates import TOOLS, tokenizer_of

from openrlhf_agentprm.agents.calls import Call
from openrlhf_agentprm.agents.chat import ChatFormat
from openrlhf_agentprm.agents.few_shot import read_few_shot
from openrlhf_agentprm.core.errors import UserError

SAID = [{"role": "user", "content": "at 0"}, {"role": "assistant", "content": "up"}]


def written(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def test_messages_stand_before_the_first_observation(tmp_path):
    tokenizer = tokenizer_of("qwen2_5")
    few_shot = read_few_shot(written(tmp_path / "few.jsonl", SAID))
    chat = ChatFormat(tokenizer, system_prompt="Count.", few_shot=few_shot)
    messages = [{"role": "system", "content": "Count."}, *SAID, {"role": "user", "content": "count to 2\nat 1"}]
    tokens = chat.first("count to 2", "at 1")
    assert tokens == tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    without = ChatFormat(tokenizer, system_prompt="Count.")
    assert chat.following("at 2", closed=True) == without.following("at 2", closed=True)
    assert chat.identity() != without.identity()


def test_an_exported_episode_is_an_example(tmp_path):
    """Its instruction goes before its first observation, and what came behind its last action is left out."""
    episode = {"task_id": "t", "messages": [{"role": "system", "content": "count to 2"}, *SAID, {"role": "user", "content": "at 2"}]}
    few_shot = read_few_shot(written(tmp_path / "few.jsonl", [episode, "", {"messages": SAID}]))
    assert [m["content"] for m in few_shot] == ["count to 2\nat 0", "up", "at 0", "up"]


def test_examples_with_tool_calls(tmp_path):
    tokenizer = tokenizer_of("qwen2_5")
    call = {"id": "x", "type": "function", "function": {"name": "double", "arguments": {"a": 2}}}
    rows = [
        {"role": "user", "content": "twice 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "4"},
        {"role": "assistant", "content": "4"},
    ]
    few_shot = read_few_shot(written(tmp_path / "few.jsonl", rows))
    chat = ChatFormat(tokenizer, action_format="tool_call", tools=TOOLS, few_shot=few_shot)
    text = tokenizer.decode(chat.first("", "twice 3?"))
    assert '<tool_call>\n{"name": "double", "arguments": {"a": 2}}\n</tool_call>' in text and "<tool_response>\n4\n</tool_response>" in text
    action = chat.encode_action(Call("double", {"a": 3}).text())
    assert tokenizer.decode(action) == '<tool_call>\n{"name": "double", "arguments": {"a": 3}}\n</tool_call><|im_end|>'


@pytest.mark.parametrize("rows, problem", [
    ([], "it holds no message"),
    (["{"], "line 1: Expecting"),
    (["[]"], "line 1: it is no message with a role of user, assistant, tool"),
    ([{"role": "system", "content": "x"}], "line 1: it is no message with a role of user, assistant, tool"),
    ([SAID[0], {"role": "assistant"}], "line 2: its 'content' is no text"),
    ([{"messages": 3}], "'messages' is no list"),
    ([SAID[1]], "message 1 has the role 'assistant'; wanted user"),
    ([*SAID, SAID[1]], "message 3 has the role 'assistant'; wanted user, or tool behind a call"),
    ([*SAID, SAID[0]], "the last message is not the assistant's"),
    (["[" * 100_000], "line 1: "),
])  # fmt: skip
def test_a_file_that_holds_no_examples(tmp_path, rows, problem):
    with pytest.raises(UserError, match="--env.few_shot_file") as caught:
        read_few_shot(written(tmp_path / "few.jsonl", rows))
    assert problem in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_few_shot(str(tmp_path / "nothing"))
