"""The page: what it says, that nothing breaks out of it, and that it needs nothing from outside."""

import base64
import hashlib
import json
import re

import pytest
from report.reading import Page
from report.run_folder import HOSTILE

from openrlhf_agentprm.report.build import build_report


def test_every_part_is_there(page):
    read = Page(page)
    ids = {attributes["id"] for _, attributes in read.elements if "id" in attributes}
    assert {"best-of-n", "quality", "episodes", "learning", "statuses", "time", "provenance"} <= ids
    assert not read.unbalanced and not read.open
    for text in ("a run for tests", "2 CPU cores", "torch 2.13.0", "OpenRLHF 0.11.2", "13 of 13 finished", "Results on doors, test split"):
        assert text in read.text
    for text in (
        "warm start",
        "train agentprm",
        "Agent",
        "$x^2$ <b>",
        "random choice",
        "fewest turns",
        "log-probability per turn",
        "oracle",
    ):
        assert text in read.text
    for text in ("Outcome of the training rollouts", "SFT loss: warm start", "PRM loss", "AUC by turn", "Calibration at the last turn"):
        assert text in read.text
    for text in ("AUC by turns left", "Calibration error by turn", "Success over tokens", "Beyond length", "best, cross-fitted"):
        assert text in read.text
    assert len(read.all("svg", role="img")) == page.count("<figure>") == 11
    assert len(set(re.findall(r' id="([^"]+)"', page))) == len(re.findall(r' id="([^"]+)"', page))
    assert "What is not there" not in read.text


def test_numbers_are_those_of_the_artifacts(page, shared_run):
    read = Page(page)
    evaluation = json.loads((shared_run / "evaluation.json").read_text())
    assert evaluation["single_sample"]["mean"] == 0.5 and "50.0\xa0%" in page
    for name in ("Agent", "fewest turns", "oracle"):
        assert f"{100 * evaluation['best_of_n'][name]['4']['mean']:.1f}\xa0%" in page
    assert f"{evaluation['prm_quality']['Agent']['by_turn'][0]['auc_within_task']:.2f}" in read.text
    assert "100.0 %" in read.text.replace("\xa0", " ") and "25.0\xa0%" in page  # the two PPO runs: 4 and 1 of 4
    assert "3 replayed" in read.text and "12 s" in read.text
    row = re.search(r"fresh &lt;/script&gt;.*?</tr>", page[page.index('id="statuses"') :], re.DOTALL)[0]
    assert re.findall(r'class="number(?: zero)?">(\d+)</td>', row) == ["25", "12", "12", "0", "0", "1", "0"]


def test_environment_text_stays_text(page):
    read = Page(page)
    assert " ".join(HOSTILE.split()) in read.text
    assert len(read.all("script")) == 1 and "alert" not in read.script and not read.all("img")
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]


def test_nothing_is_fetched(page):
    read = Page(page)
    for _, attributes in read.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*[\"']?([^)]*)\)", page)) and "@import" not in page
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page).replace("http-equiv", "")
    assert not read.all("link")


def test_only_the_pages_own_script_may_run(page):
    policy = next(a["content"] for a in Page(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(Page(page).script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_the_same_run_gives_the_same_page(page, shared_run, run, tmp_path):
    again = build_report(shared_run, str(tmp_path / "again.html"))
    assert again.read_text(encoding="utf-8") == page
    moved = build_report(run)
    assert moved == run / "report.html"
    assert moved.read_text(encoding="utf-8") == page  # recorded paths are found where the folder lies now
    assert not list(run.glob("*.tmp")) and not list(run.glob(".*.tmp"))


def test_a_failed_build_leaves_the_old_page(run, monkeypatch):
    from openrlhf_agentprm.report import build

    (run / "report.html").write_text("old")
    monkeypatch.setattr(build, "render", lambda found: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build.build_report(run)
    assert (run / "report.html").read_text() == "old" and not list(run.glob(".*.tmp"))


def test_several_runs_and_prms_stand_side_by_side(page):
    text = Page(page).text.replace("\xa0", " ")
    assert "PPO with a PRM against PPO without (one sample): PPO run ppo_prm solves 100.0 % of the tasks, PPO run ppo_plain 25.0 %" in text
    assert "After PPO run ppo_prm, one sample solves 100.0 % of the tasks, one sample before it 50.0 %: +50.0 points" in text
    assert "not clear: the interval contains zero" in text
    assert "the best of 4 samples by fewest turns, which needs no PRM" not in text  # PPO is ahead of it here
    legend = page[page.index("<h3>PPO</h3>") :].split("</ul>")[0]
    assert "ppo_prm" in legend and "ppo_plain" in legend
    assert "$x^2$ &lt;b&gt; was trained without values, so its first turn has no value, progress or advantage." in page
    assert "λ = 0.9," in text
