import shutil
from pathlib import Path

import pytest
from report.run_folder import build_run

from openrlhf_agentprm.report.build import build_report


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory):
    """Read only."""
    return build_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="session")
def page(shared_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    assert build_report(shared_run, str(output)) == output
    return output.read_text(encoding="utf-8")


@pytest.fixture
def run(shared_run, tmp_path):
    """A copy to break; its recorded paths are those of the original, as in a run folder that was moved."""
    return Path(shutil.copytree(shared_run, tmp_path / "moved"))
