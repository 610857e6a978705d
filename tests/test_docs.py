"""The pages in docs/: one for every label, with the options that the code has; their commands parse."""

import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from openrlhf_agentprm.cli.run import parsers
from openrlhf_agentprm.core.arguments import problems_of
from openrlhf_agentprm.core.registry import LABELS, REWARD_MODELS

DOCS = Path(__file__).parent.parent / "docs"
OURS = sorted(e.name for e in LABELS.entries() if e.distribution == "openrlhf-agentprm")
NOT_OPTIONS = {"batch", "store", "complete", "act"}
COMMANDS = [
    line
    for page in sorted(DOCS.rglob("*.md"))
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("name", OURS)
def test_a_label_has_a_page_with_its_options_and_their_defaults(name):
    text = (DOCS / "labels" / f"{name}.md").read_text()
    entry = LABELS.load(name)
    parameters = inspect.signature(getattr(entry, "annotate", entry)).parameters.values()
    written = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.M))
    assert written == {p.name: str(p.default).lower() if isinstance(p.default, bool) else str(p.default)
                       for p in parameters if p.name not in NOT_OPTIONS}  # fmt: skip
    assert "arXiv" in text or "Ours" in text
    assert f"[{name}]({name}.md)" in (DOCS / "labels" / "README.md").read_text()


def test_every_reward_model_has_a_page():
    index = (DOCS / "reward-models" / "README.md").read_text()
    for name in (e.name for e in REWARD_MODELS.entries() if e.distribution == "openrlhf-agentprm"):
        assert (DOCS / "reward-models" / f"{name}.md").is_file() and f"[{name}]({name}.md)" in index


def test_links_lead_somewhere():
    for page in DOCS.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line):
    words = shlex.split(line)
    name = next(w for w in words if w.startswith("openrlhf_agentprm.cli.")).rpartition(".")[2]
    import_module(f"openrlhf_agentprm.cli.{name}")
    assert problems_of(parsers()[name](), words[words.index(f"openrlhf_agentprm.cli.{name}") + 1 :]) == []
