"""Searches on the real engine: a seed of its own for every request."""

import json

import pytest
from launching import module


@pytest.mark.host
def test_the_command_searches_by_every_method_and_repeats_itself(tiny, tmp_path):
    line = [
        "--env.name", "thirdparty_saved", "--env.num_tasks", 4, "--env.num_workers", 2, "--env.max_turns", 4, "--env.max_tokens_per_turn", 4,
        "--policy.model_name_or_path", tiny, "--data.max_len", 128, "--search.temperature", 1.0, "--search.budget_turns", 40,
        "--search.policy_margin", 0.1, "--search.methods", "2x2", "bon:3", "lookahead:1x2x1", "mcts:2", "--search.restore", "snapshot",
    ]  # fmt: skip
    entries = []
    for name in ("first", "again"):
        module("search", *line, "--search.output", tmp_path / f"{name}.json")
        entries.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert [e["method"] for e in entries[0]] == ["2x2", "bon:3", "lookahead:1x2x1", "mcts:2"]
    for first, again in zip(*entries, strict=True):
        assert first["tasks"] == 4 and first["faults"] in ({}, {"context_overflow": 0}) and first["env_steps_per_task"] <= 40
        assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert entries[0][0]["policy_margin"] == 0.1 and "policy_margin" not in entries[0][1]
    done = module("search", *line, "--search.output", tmp_path / "first.json")
    assert "all 4 searches are in" in done.stdout
