"""The layout: arrows go one way, core/ stands alone, files stay small, listing is fast and imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "openrlhf_agentprm"
LAYERS = {
    "core": set(),
    "data": {"core"},
    "envs": {"core"},
    "agents": {"core", "data"},
    "prm": {"core", "data", "agents"},
    "rollout": {"core", "data", "envs", "agents"},
    "search": {"core", "data", "agents", "rollout", "prm"},
    "annotate": {"core", "data", "envs", "agents", "prm", "rollout"},
    "serving": {"core", "data", "agents", "prm"},
    "host": {"core", "data", "envs", "agents", "prm", "rollout", "search"},
    "pipeline": {"core", "data", "envs", "agents", "prm", "rollout", "search", "host"},
    "report": {"core", "data", "envs", "agents", "prm", "rollout", "search", "host"},
}
LAYERS["cli"] = set(LAYERS)
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path):
    """(own folders, outside packages) that a module imports anywhere."""
    own, outside = set(), set()
    parts = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ("openrlhf_agentprm", *parts[:-1])[: len(parts) + 1 - node.level]
            target = [*base, *(node.module or "").split(".")]
            own.add(target[1] if len(target) > 1 and target[1] else node.names[0].name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = node.module.split(".")
            (own.add(names[1]) if names[0] == "openrlhf_agentprm" and len(names) > 1 else outside.add(names[0]))
        elif isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
    return own & set(LAYERS), outside


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_go_one_way(path):
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return
    own, outside = imports_of(path)
    layer = parts[0]
    assert own <= LAYERS[layer] | {layer}, f"{layer}/ may not import {own - LAYERS[layer] - {layer}}"
    if layer not in ("host", "cli"):
        assert not outside & {"openrlhf", "ray", "vllm", "deepspeed"}, "only host/ touches the host"
    if layer == "core":
        assert outside <= sys.stdlib_module_names | {"torch"}, f"core/ imports {outside - sys.stdlib_module_names - {'torch'}}"


def test_files_and_functions_stay_small():
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{path} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 75, f"{path}: {node.name} has {node.end_lineno - node.lineno} lines"


def test_core_alone_in_a_fresh_interpreter():
    code = (
        "import sys\n"
        "from openrlhf_agentprm.core import advantages, batches, estimators, labels, losses, metrics, registry\n"
        "heavy = {'ray', 'vllm', 'transformers', 'openrlhf', 'deepspeed', 'pyarrow', 'gymnasium', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "command", [["--help"], ["list"], ["run", "--help"], ["doctor", "--help"], ["serve", "--help"], ["export", "--help"]]
)
def test_help_and_list_import_nothing_heavy(command):
    code = (
        "import sys\nsys.argv = ['agentprm', *sys.argv[1:]]\nfrom openrlhf_agentprm.cli.main import dispatch\n"
        "try:\n    dispatch(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'openrlhf', 'deepspeed'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, cwd=ROOT)


def test_no_docstring_example_is_wrong():
    import doctest
    import importlib

    shown = [path for path in MODULES if ">>> " in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in shown]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(r.attempted for r in results) >= 8 and not sum(r.failed for r in results)
