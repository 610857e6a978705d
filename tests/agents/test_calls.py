"""Tool calls in the syntaxes of five families of models, read as data; several, or a broken one, are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_agentprm.agents.calls import Call, call_of, read_call
from openrlhf_agentprm.agents.parsing import parser_for

ADD = '{"name": "add", "arguments": {"a": 1, "b": [true, null, "x"]}}'
BODY = '{"a": 1, "b": [true, null, "x"]}'
SYNTAXES = {
    "hermes": f'<tool_call>\n{{"name": "add", "arguments": {BODY}}}\n</tool_call>',
    "hermes, arguments as text": '<tool_call>{"name": "add", "arguments": ' + json.dumps(BODY) + "}</tool_call>",
    "llama": f'{{"name": "add", "parameters": {BODY}}}',
    "llama's python tag": f'<|python_tag|>{{"name": "add", "parameters": {BODY}}}',
    "openai": f'{{"type": "function", "function": {{"name": "add", "arguments": {BODY}}}}}',
    "mistral": f'[TOOL_CALLS] [{{"name": "add", "arguments": {BODY}, "id": "abcdefghi"}}]',
    "mistral by name": f"[TOOL_CALLS]add[ARGS]{BODY}",
    "mistral by name and id": f"[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{BODY}",
    "gpt-oss": f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{BODY}",
    "gpt-oss's template": f" to=functions.add<|channel|>commentary json<|message|>{BODY}<|call|>",
    "gemma": '```tool_code\nadd(a=1, b=[true, null, "x"])\n```',
    "gemma, JSON": f'```json\n{{"name": "add", "parameters": {BODY}}}\n```',
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("around", ["{}", "<think>add(a=2)? <tool_call></think>\n{}", " \n{}\n "])
def test_a_call_in_each_syntax(syntax, around):
    assert parser_for("tool_call")(around.format(SYNTAXES[syntax])) == ADD


def test_what_is_said_beside_a_call():
    for syntax in ("hermes", "mistral", "gemma"):
        assert parser_for("tool_call")("I add them. " + SYNTAXES[syntax]) == ADD
    harmony = "<|channel|>analysis<|message|>to=functions.add?<|end|><|start|>assistant" + SYNTAXES["gpt-oss"]
    assert parser_for("tool_call")(harmony) == ADD
    assert read_call(SYNTAXES["mistral"]).id == read_call(SYNTAXES["mistral by name and id"]).id == "abcdefghi"


@pytest.mark.parametrize("text", [
    "", "add(1, 2)", "the sum is 3", "{", '{"name": "add"', '{"arguments": {}}', '{"name": 3}', "[]", '"add"', "null",
    '{"name": "add", "parameters": {}} {"name": "add", "parameters": {}}', '{"name": "add", "parameters": [1]}',
    '{"name": "add", "arguments": "no JSON"}', '{"name": "add", "arguments": {"a": NaN}}', '{"name": "add", "arguments": {"a": "\\ud800"}}',
    SYNTAXES["hermes"] * 2, SYNTAXES["hermes"].replace("</tool_call>", ""), "<tool_call></tool_call>", "<tool_call>add(a=1)</tool_call>",
    '[TOOL_CALLS][{"name": "add"}, {"name": "add"}]', "[TOOL_CALLS]", "[TOOL_CALLS]{}", "[TOOL_CALLS][]", "[TOOL_CALLS]" + "[" * 100_000,
    SYNTAXES["mistral by name"] * 2, "<|channel|>commentary to=functions.add<|message|>no JSON", "<|end|>".join(2 * [SYNTAXES["gpt-oss"]]),
    "<|channel|>final<|message|>3", "```tool_code\nadd(1)\n```", "```tool_code\n__import__('os').system(cmd='x')\n```", "```tool_code\nadd(a=b)\n```",
    "```tool_code\nadd(a=1); add(a=2)\n```", "```tool_code\nadd(a=1 b=2)\n```", "```tool_code\nadd(a=1", "```tool_code\nadd(a=1+1)\n```",
    '{"name": "add", "arguments": {"a": ' + "9" * 5000 + "}}", "<think>" + SYNTAXES["hermes"],
])  # fmt: skip
def test_no_call(text):
    assert parser_for("tool_call")(text) == ""


def test_gemmas_values():
    text = '```tool_code\nf(a=True, b = None,c=\'it\', d="q\\"", e=-1.5e3, g={"k": [1]},)\n```'
    assert read_call(text) == Call("f", {"a": True, "b": None, "c": "it", "d": 'q"', "e": -1500.0, "g": {"k": [1]}})
    assert read_call("```tool_code\nf()\n```") == Call("f", {})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab<>/`|", max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abc"), VALUES))
def test_any_arguments_come_back_from_each_syntax(arguments):
    call = Call("f", arguments)
    body = json.dumps(arguments)
    for text in (
        f"<tool_call>\n{call.text()}\n</tool_call>",
        json.dumps({"name": "f", "parameters": arguments}),
        f"[TOOL_CALLS][{call.text()}]",
        f"[TOOL_CALLS]f[ARGS]{body}",
    ):
        assert read_call(text) == call and call_of(json.loads(call.text())) == call


MARKS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "```tool_code\n", "<|message|>", "to=functions.a", '{"name": "a"}']


@given(st.lists(st.sampled_from([*'{}[]":, \n`a1=()', *MARKS])).map("".join))
def test_whatever_is_sampled_is_a_call_or_none(text):
    action = parser_for("tool_call")(text)
    assert action == "" or set(json.loads(action)) == {"name", "arguments"}


def test_thoughts_are_no_part_of_an_action_in_any_format():
    thought = "<think>\nAction: stop\n</think>\n\n"
    assert parser_for("action_only")(thought + "up") == "up" and parser_for("react")(thought + "Action: up") == "up"
    assert parser_for("action_only")("<think>up") == parser_for("react")("<think>Action: up") == ""
    assert parser_for("action_only")("begun before.</think>up") == "up", "the prompt had opened the thought"
    channels = "<|channel|>analysis<|message|>stop?<|end|><|start|>assistant<|channel|>final<|message|>Action: up<|return|>"
    assert parser_for("action_only")(channels) == "Action: up" and parser_for("react")(channels) == "up"
