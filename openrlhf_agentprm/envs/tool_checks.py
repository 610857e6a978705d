"""The checker's question to environments that are played by tool calls."""

from __future__ import annotations

import json
from typing import Any

from . import base
from .subject import Subject, brief

_SHAPE = "{'type': 'function', 'function': {'name': str, 'description': str, 'parameters': {'type': 'object', 'properties': …}}}"


def check_tools_are_told_as_schemas(s: Subject) -> str | None:
    tooled = base.ability(s.env, base.HasTools)
    if tooled is None:
        return "no tools()"
    with s.calling("tools()"):
        tools = tooled.tools()
    assert isinstance(tools, list) and tools, f"tools() returned {brief(tools)}; wanted a non-empty list"
    names = [_tool_name(tool) for tool in tools]
    assert len(set(names)) == len(names), f"tools() names one twice: {names}"
    try:
        json.dumps(tools)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"tools() cannot be written as JSON: {error}") from error
    other = base.need(s.new(), base.HasTools, "this check").tools()
    assert other == tools, "tools() differ between two instances; they stand in the prompt, once for all tasks"
    if base.ability(s.env, base.HasExpert):
        s.reset(s.env, s.tasks()[0])
        action = s.expert_action(s.env)
        try:
            called = json.loads(action)["name"]
        except (ValueError, TypeError, KeyError) as error:
            raise AssertionError(f"the expert's action is {brief(action)}; wanted a call such as {{'name': …, 'arguments': …}}") from error
        assert called in names, f"the expert calls {brief(called)}; the tools are {names}"
    return None


def _tool_name(tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    assert isinstance(function, dict) and tool.get("type") == "function", f"a tool is {brief(tool)}; wanted {_SHAPE}"
    parameters = function.get("parameters")
    right = isinstance(function.get("name"), str) and function["name"] and isinstance(function.get("description"), str)
    takes = isinstance(parameters, dict) and parameters.get("type") == "object" and isinstance(parameters.get("properties"), dict)
    assert right and takes, f"a tool's function is {brief(function)}; wanted {_SHAPE}"
    return function["name"]
