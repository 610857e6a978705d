"""Servers that speak AgentGym's wire format, in this process, and a folder of the test's own for what is noted of servers."""

import contextlib
import json

import pytest
from agentgym_server import families, start


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def few_recipes(tmp_path_factory):
    """Folder of TextCraft's data: planks and sticks."""
    folder = tmp_path_factory.mktemp("recipes")
    made = {"2": [{"inShape": [[1]], "result": {"id": 2, "count": 4}}], "3": [{"inShape": [[2], [2]], "result": {"id": 3, "count": 4}}]}
    (folder / "recipes.json").write_text(json.dumps(made))
    (folder / "items.json").write_text(
        json.dumps([{"id": n, "name": name} for n, name in enumerate(["", "log", "planks", "stick"]) if name])
    )
    return str(folder)


@pytest.fixture
def serve(notes, few_recipes):
    """Starts the server of a name; they end with the test."""
    with contextlib.ExitStack() as running:

        def begin(name, **options):
            if name in ("babyai", "alfworld"):  # around minigrid
                pytest.importorskip("minigrid", reason="pip install 'openrlhf-agentprm[babyai]'")
            server = start(families(few_recipes, **options)[name]())
            running.callback(server.server_close)
            running.callback(server.shutdown)
            return server

        yield begin
