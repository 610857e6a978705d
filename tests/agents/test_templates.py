"""Chat templates of real models: those that only append are token-exact over ten turns; those that rewrite earlier turns are told what they do."""

import json
import shutil
from pathlib import Path

import pytest
from real_templates import TOOLS, source, tokenizer_of

from openrlhf_agentprm.agents.calls import Call
from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.core.errors import UserError

APPENDING = ["qwen2_5", "qwen3_instruct_2507", "llama3", "llama3_1", "llama3_2", "gemma", "gemma3", "mistral_v3", "mistral_v3_tekken"]
NO_SYSTEM = {"gemma", "mistral_v3", "mistral_v3_tekken"}
WITH_TOOLS = ["qwen2_5", "qwen3_instruct_2507", "llama3_1", "llama3_2"]
ODD = ["at 1", "", "  \"a\" & 'b' <c> \\n", "two\nlines\n", "ünïcödé ✓", "{x} [1]", "\tx", "a  b", "7", "."]
DAY = {"strftime_now": "2025-01-31"}


def rendered(tokenizer, messages, tools=None, **args):
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True, **args)
    return tokenizer.encode(text, add_special_tokens=False)


def call_message(call, number="000000000"):
    function = {"name": call.name, "arguments": dict(call.arguments)}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": number, "function": function}]}


@pytest.mark.parametrize("name", APPENDING)
def test_ten_turns_are_the_templates_own_tokens(name):
    tokenizer = tokenizer_of(name)
    system = "" if name in NO_SYSTEM else "Be brief."
    chat = ChatFormat(tokenizer, system_prompt=system)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "count\n \"0\" & '1' "})
    tokens = chat.first("count", " \"0\" & '1' ")
    for turn, observation in enumerate(ODD):
        assert tokens == rendered(tokenizer, messages), f"turn {turn}"
        action = chat.encode_action(f"up {turn}")
        assert chat.is_closed(action) and chat.action_text(action).strip() == f"up {turn}"
        assert chat.encode_action(chat.action_text(action)) == action, "what was sampled is told again as it was"
        tokens = tokens + action + chat.following(observation, closed=True)
        messages += [{"role": "assistant", "content": f"up {turn}"}, {"role": "user", "content": observation}]
    assert tokens == rendered(tokenizer, messages)


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("kinds", ["cccccccccc", "accaccacca"], ids=["calls", "calls and answers"])
def test_ten_turns_of_tool_calls_are_the_templates_own_tokens(name, kinds):
    tokenizer = tokenizer_of(name)
    chat = ChatFormat(tokenizer, system_prompt="Be brief.", action_format="tool_call", tools=TOOLS)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "start\n at 0 "}]
    tokens = chat.first("start", " at 0 ")
    for turn, (kind, observation) in enumerate(zip(kinds, ODD, strict=True)):
        assert tokens == rendered(tokenizer, messages, TOOLS), f"turn {turn}"
        call = Call(("double", "halve")[turn % 2], {"a": turn, "why": 'it "is"'})
        action = chat.encode_action(call.text() if kind == "c" else f"hm {turn}")
        assert chat.parse(chat.action_text(action)) == (call.text() if kind == "c" else "")
        tokens = tokens + action + chat.following(observation, closed=True, action_tokens=action)
        messages.append(call_message(call) if kind == "c" else {"role": "assistant", "content": f"hm {turn}"})
        more = {"name": call.name, "tool_call_id": "000000000"} if kind == "c" else {}
        messages.append({"role": "tool" if kind == "c" else "user", **more, "content": observation})
    assert tokens == rendered(tokenizer, messages, TOOLS)


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_call_that_was_sampled_otherwise_stays_as_it_is(name):
    """More blanks, a thought before it; what follows is the same, and an end that was cut off is supplied."""
    tokenizer = tokenizer_of(name)
    chat = ChatFormat(tokenizer, action_format="tool_call", tools=TOOLS)
    written = chat.action_text(chat.encode_action(Call("double", {"a": 1}).text()))
    sampled = tokenizer.encode("<think>hm</think>\n" + written.replace(": ", " :  "), add_special_tokens=False)
    assert chat.parse(chat.action_text(sampled)) == '{"name": "double", "arguments": {"a": 1}}'
    closed = [*sampled, chat.end_token_id]
    supplied, rest = (chat.following("2", closed=chat.is_closed(t), action_tokens=t) for t in (sampled, closed))
    assert supplied == [chat.end_token_id, *rest]
    as_called = chat.encode_action(Call("double", {"a": 1}).text())
    assert rest == chat.following("2", closed=True, action_tokens=as_called) != chat.following("2", closed=True)


REWRITES = {
    "qwen3": ({}, ["it drops the thinking of earlier turns"]),
    "gpt_oss": (
        {},
        [
            "writes '<|channel|>final<|message|>' before an answer",
            "ends an answer with '<|end|>', where the answer itself ends with '<|return|>'",
            "drops the thinking of earlier turns",
        ],
    ),
    "qwen3 without thinking": (
        {"template_args": {"enable_thinking": False}},
        ["leaves out '<think>\\n\\n</think>\\n\\n', with which the prompt for an answer ends", "drops the thinking"],
    ),
    "mistral_v3": ({"system_prompt": "Be brief."}, ["moves the system message to the last user message"]),
    "mistral_v3_tekken": ({"system_prompt": "Be brief."}, ["(it moves the system message to the last user message)"]),
    "mistral_v3_tekken and tools": ({"action_format": "tool_call", "tools": TOOLS}, ["(it moves the tools to the last user message)"]),
}


@pytest.mark.parametrize("case", REWRITES)
def test_what_a_template_does_to_earlier_turns_is_told(case):
    options, expected = REWRITES[case]
    with pytest.raises(UserError) as caught:
        ChatFormat(tokenizer_of(case.split()[0]), **options)
    for words in ("rewrites earlier turns when turns are added", "--env.chat_template FILE", "--env.history as_sampled", *expected):
        assert words in str(caught.value)


STRIPS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}CONTENT<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "content", ["{{ m.content }}", "{{ m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content }}"]
)
def test_thinking_that_is_dropped_is_noticed_in_the_text_and_beside_it(content):
    with pytest.raises(UserError, match="it drops the thinking of earlier turns"):
        ChatFormat(tokenizer_of("qwen3", STRIPS.replace("CONTENT", content)))
    kept = STRIPS.replace("CONTENT", "{{ m.content }}").replace(" and loop.last", "")
    ChatFormat(tokenizer_of("qwen3", kept))


@pytest.mark.parametrize("name, options, words", [
    ("gemma", {"system_prompt": "Be brief."}, "System role not supported"),
    ("gemma3", {"action_format": "tool_call", "tools": TOOLS}, "--env.system_prompt_file that tells of double, halve"),
    ("qwen2_5", {"action_format": "tool_call"}, r"needs an environment with tools\(\)"),
    ("qwen2_5", {"history": "as_sample"}, "did you mean 'as_sampled'"),
    ("llama3_2", {"template_args": {"strftime_now": "today"}}, "wanted a day such as '2025-01-31'"),
])  # fmt: skip
def test_what_a_template_cannot_do_is_told(name, options, words):
    with pytest.raises(UserError, match=words):
        ChatFormat(tokenizer_of(name), **options)


# --- the history as it was sampled ---


def test_qwen3_keeps_its_thoughts_as_a_template_that_only_appends_does():
    tokenizer, other = tokenizer_of("qwen3"), tokenizer_of("qwen3_instruct_2507")
    chat = ChatFormat(tokenizer, system_prompt="Be brief.", history="as_sampled")
    assert chat.identity() != ChatFormat(tokenizer, history="as_sampled").identity()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "at 0"}]
    tokens = chat.first("", "at 0")
    for turn in range(10):
        assert tokens == rendered(other, messages)
        text = f"<think>\nhm {turn}\n</think>\n\nup {turn}"
        action = chat.encode_action(text)
        assert chat.action_text(action) == text and chat.parse(text) == f"up {turn}"
        tokens = tokens + action + chat.following(f"at {turn}", closed=True)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": f"at {turn}"}]
    assert tokenizer.decode(tokens).count("hm ") == 10
    assert "hm" not in tokenizer.decode(rendered(tokenizer, messages)), "its own template drops them"


def test_gpt_oss_keeps_its_channels():
    tokenizer = tokenizer_of("gpt_oss")
    chat = ChatFormat(tokenizer, system_prompt="Be brief.", history="as_sampled", action_format="tool_call", tools=TOOLS, template_args=DAY)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "at 0"}]
    tokens = chat.first("", "at 0")
    assert tokens == rendered(tokenizer, messages, TOOLS, strftime_now=lambda form: "2025-01-31")
    expected = tokenizer.decode(tokens)
    assert "Current date: 2025-01-31" in expected and "type double" in expected and expected.endswith("<|start|>assistant")
    thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    for turn in range(10):
        arguments = json.dumps({"a": turn})
        called = f"{thought}<|channel|>commentary to=functions.double <|constrain|>json<|message|>{arguments}"
        said = f"{thought}<|channel|>final<|message|>It is {turn}."
        text, end = (called, "<|call|>") if turn % 3 else (said, "<|return|>")
        action = tokenizer.encode(text + end, add_special_tokens=False)
        assert chat.is_closed(action) and chat.action_text(action) == text and chat.encode_action(text)[:-1] == action[:-1]
        assert chat.parse(text) == (Call("double", {"a": turn}).text() if turn % 3 else "")
        tokens = tokens + action + chat.following(f"now {turn}", closed=True, action_tokens=action)
        result = f'<|start|>functions.double to=assistant<|channel|>commentary<|message|>"now {turn}"<|end|>'
        expected += text + end + (result if turn % 3 else f"<|start|>user<|message|>now {turn}<|end|>") + "<|start|>assistant"
        assert tokens == tokenizer.encode(expected, add_special_tokens=False)
    plain = ChatFormat(tokenizer, history="as_sampled", template_args=DAY)
    assert plain.parse(said) == "It is 9." and plain.parse("<|channel|>analysis<|message|>hm") == ""
    assert tokenizer.decode(plain.encode_action("up")) == "<|channel|>final<|message|>up<|return|>"
    assert {tokenizer.decode(i) for i in chat.stop_token_ids} == {"<|return|>", "<|call|>"}, "<|end|> ends a channel, not the turn"


@pytest.mark.parametrize("name, blank", [("mistral_v3", " "), ("mistral_v3_tekken", "")])
def test_mistral_keeps_the_system_message_and_the_tools_where_they_were(name, blank):
    tokenizer = tokenizer_of(name)
    options = {"system_prompt": "Be brief.", "action_format": "tool_call", "tools": TOOLS, "history": "as_sampled"}
    chat = ChatFormat(tokenizer, **options)
    tokens = chat.first("", "at 0")
    assert tokens == rendered(tokenizer, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "at 0"}], TOOLS)
    expected = tokenizer.decode(tokens)
    assert expected.startswith("<s>[AVAILABLE_TOOLS]") and expected.endswith(f"[INST]{blank}Be brief.\n\nat 0[/INST]")
    for turn in range(10):
        number = f"abcdefgh{turn}"
        called = f'[TOOL_CALLS]{blank}[{{"name": "halve", "arguments": {{"a": {turn}}}, "id": "{number}"}}]'
        text = called if turn % 3 else f"{blank}hm {turn}"
        action = tokenizer.encode(text + "</s>", add_special_tokens=False)
        tokens = tokens + action + chat.following(f"{turn}", closed=True, action_tokens=action)
        result = f'[TOOL_RESULTS]{blank}{{"content": {turn}, "call_id": "{number}"}}[/TOOL_RESULTS]'
        expected += f"{text}</s>" + (result if turn % 3 else f"[INST]{blank}{turn}[/INST]")
        assert tokens == tokenizer.encode(expected, add_special_tokens=False)
    assert chat.parse(called) == '{"name": "halve", "arguments": {"a": 9}}'


@pytest.fixture(scope="module")
def mistral_7b(tmp_path_factory):
    """The tokenizer of Mistral 7B v0.3 itself, as mistral_common (which vLLM brings) ships it."""
    common = pytest.importorskip("mistral_common", reason="pip install mistral_common")
    folder = tmp_path_factory.mktemp("mistral")
    shutil.copy(Path(common.__file__).parent / "data/mistral_instruct_tokenizer_240323.model.v3", folder / "tokenizer.model")
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False, **tokens}))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = source("mistral_v3")
    return tokenizer


def test_mistrals_own_tokenizer_is_token_exact(mistral_7b):
    """It puts a space before a text; so does its template before an answer, and what is demonstrated has it once."""
    chat = ChatFormat(mistral_7b)
    assert mistral_7b.convert_ids_to_tokens(chat.encode_action("up 3")) == ["▁up", "▁", "3", "</s>"]
    messages = [{"role": "user", "content": "at 0"}]
    tokens = chat.first("", "at 0")
    for turn in range(10):
        assert tokens == rendered(mistral_7b, messages)
        action = chat.encode_action(f"up {turn}")
        assert chat.action_text(action) == f"up {turn}"
        tokens = tokens + action + chat.following(f"at {turn}", closed=True)
        messages += [{"role": "assistant", "content": f"up {turn}"}, {"role": "user", "content": f"at {turn}"}]
    tools = ChatFormat(mistral_7b, action_format="tool_call", tools=TOOLS, history="as_sampled")
    action = tools.encode_action(Call("double", {"a": 4}).text())
    assert mistral_7b.convert_ids_to_tokens(action)[:3] == ["[TOOL_CALLS]", "▁[", '{"'] and tools.is_closed(action)
    assert tools.parse(tools.action_text(action)) == Call("double", {"a": 4}).text()


def test_gemma_is_told_of_tools_by_the_system_message():
    """Its template knows no tools: their results are user messages."""
    tokenizer = tokenizer_of("gemma3")
    chat = ChatFormat(tokenizer, system_prompt="Call double(a) or halve(a) in a tool_code block.", action_format="tool_call", tools=TOOLS)
    text = "```tool_code\ndouble(a=4)\n```"
    action = chat.encode_action(text)
    assert chat.parse(chat.action_text(action)) == '{"name": "double", "arguments": {"a": 4}}'
    assert (
        tokenizer.decode(chat.following("8", closed=True, action_tokens=action))
        == "\n<start_of_turn>user\n8<end_of_turn>\n<start_of_turn>model\n"
    )


def test_the_same_pieces_where_the_template_only_appends():
    tokenizer = tokenizer_of("qwen2_5")
    one, other = (ChatFormat(tokenizer, system_prompt="s", history=history) for history in ("template", "as_sampled"))
    assert one.first("a", "b") == other.first("a", "b") and one.following("c", closed=False) == other.following("c", closed=False)
    assert one.encode_action("d") == other.encode_action("d") and one.stop_token_ids == other.stop_token_ids


def test_the_day_and_other_variables_are_part_of_the_prompt():
    tokenizer = tokenizer_of("qwen3")
    chat = ChatFormat(tokenizer, history="as_sampled", template_args={"enable_thinking": False})
    assert tokenizer.decode(chat.first("", "at 0")).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(chat.following("at 1", closed=True)).endswith("at 1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert source("gpt_oss").count("strftime_now") == 1
