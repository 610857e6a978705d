"""The README's commands run, those that take long with less to do; the modules that it names are there."""

import os
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
from launching import agentprm, free_port, run

from openrlhf_agentprm.cli.main import COMMANDS
from openrlhf_agentprm.cli.run import parsers
from openrlhf_agentprm.core.arguments import problems_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINES = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.strip()
]


def test_there_are_commands_to_check():
    assert len(LINES) >= 12


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_readme_is_right(line):
    words = shlex.split(line)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif words[0] == "agentprm":
        assert words[1] in COMMANDS
        agentprm(*words[1:])
    elif words[0] == "pip":
        installed = [w for w in words[2:] if not w.startswith("-")]
        pins = (ROOT / "pyproject.toml").read_text() + (ROOT / "Makefile").read_text()
        assert installed and all(w.removesuffix("[host]") == "openrlhf-agentprm" or w in pins for w in installed), line
    elif "openrlhf_agentprm.cli" in line:
        name = next(w for w in words if w.startswith("openrlhf_agentprm.cli.")).rpartition(".")[2]
        arguments = words[words.index(f"openrlhf_agentprm.cli.{name}") + 1 :]
        import_module(f"openrlhf_agentprm.cli.{name}")
        assert problems_of(parsers()[name](), arguments) == []
    else:
        assert words[0] == "python" and (ROOT / words[1]).is_file(), line


SHORTER = {
    "collect": ["--env.num_tasks", 8, "--env.num_workers", 8, "--collect.n_samples_per_task", 4],
    "label": [],
    "train_prm": ["--train.batch_size", 8, "--train.micro_batch_size", 8, "--train.max_epochs", 1],
    "search": ["--env.num_tasks", 4, "--env.num_workers", 4],
}


@pytest.mark.host
def test_the_stages_run_one_after_the_other_as_shown(quick_run, tmp_path):
    """As they stand, in the quickstart's folder, with a few tasks in place of hundreds."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/quickstart").symlink_to(quick_run)
    for name, fewer in SHORTER.items():
        words = shlex.split(next(line for line in LINES if f"openrlhf_agentprm.cli.{name} " in line))
        words[0] = sys.executable if words[0] == "python" else str(Path(sys.executable).with_name(words[0]))
        if "--module" in words:
            words[1:1] = ["--master_port", str(free_port())]
        done = run(*words, *fewer, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert (tmp_path / "runs/prm/agentprm.json").exists() and (tmp_path / "runs/search.json").exists()
    assert (tmp_path / "runs/visits/labels.json").exists()


def test_code_names_lead_somewhere():
    for name in re.findall(r"`openrlhf_agentprm\.cli\.(\w+)`|cli\.(\w+)`", README):
        assert import_module(f"openrlhf_agentprm.cli.{name[0] or name[1]}")
