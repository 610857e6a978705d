"""Stages that do what a test needs."""

import pytest


@pytest.fixture
def stage_of(monkeypatch):
    """Gives every stage a script of ours in place of its command."""
    return lambda script: monkeypatch.setattr("openrlhf_agentprm.pipeline.run.launch_line", lambda stage: ["python", "-c", script])
