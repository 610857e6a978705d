"""Rows of a store as others write episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]


def as_messages(row: Row) -> dict[str, Any]:
    """OpenAI's messages: the instruction as the system's, an observation as the user's, an action as the assistant's."""
    said = [{"role": "system", "content": row["instruction"]}] if row["instruction"] else []
    for turn in row["turns"]:
        said += [{"role": "user", "content": turn["observation"]}, {"role": "assistant", "content": turn["action"]}]
    if row["final_observation"]:
        said.append({"role": "user", "content": row["final_observation"]})
    return {"task_id": row["task_id"], "env": row["env"], "status": row["status"], "outcome": row["outcome"], "messages": said}


def as_agentgym(row: Row) -> dict[str, Any]:
    """AgentGym's trajectories: the instruction with an answer that is not learned, then observations and actions that are."""
    said: list[dict[str, Any]] = []
    if row["instruction"]:
        said = [{"from": "human", "loss": None, "value": row["instruction"]}, {"from": "gpt", "loss": False, "value": "OK."}]
    for turn in row["turns"]:
        said.append({"from": "human", "loss": None, "value": turn["observation"]})
        said.append({"from": "gpt", "loss": True, "value": turn["action"]})
    if row["final_observation"]:
        said.append({"from": "human", "loss": None, "value": row["final_observation"]})
    return {"item_id": row["task_id"], "env": row["env"], "outcome": row["outcome"], "conversations": said}


FORMATS: dict[str, Callable[[Row], Any]] = {"rows": dict, "messages": as_messages, "agentgym": as_agentgym}
