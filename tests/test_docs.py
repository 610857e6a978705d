"""The pages in docs/: one for every label, with the options that the code has; their commands parse; their links lead somewhere."""

import inspect
import re
import shlex
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from openrlhf_agentprm.cli.label import BY_FLAGS
from openrlhf_agentprm.cli.run import parsers
from openrlhf_agentprm.cli.train_prm import build_parser
from openrlhf_agentprm.core.arguments import problems_of
from openrlhf_agentprm.core.registry import ADVANTAGES, LABELS, REWARD_MODELS
from openrlhf_agentprm.prm.record import OUTPUTS

DOCS = Path(__file__).parent.parent / "docs"
OURS = sorted(e.name for e in LABELS.entries() if e.distribution == "openrlhf-agentprm")
NOT_OPTIONS = {"batch", "store", *BY_FLAGS}
TOOLS = ("env", "episodes", "export", "run", "serve")
COMMANDS = [
    line
    for page in sorted(DOCS.rglob("*.md"))
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    for line in block.splitlines()
]


def headings(page):
    """A page's headings as its links name them: small letters, spaces as hyphens, no other marks."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: str(page.relative_to(DOCS.parent))
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists() and (not heading or heading in headings(target)), link


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


SHARED = {"kl_coef", "kl_placement", "whiten", "length_correction", "bound", "scaling", "process_clip"}


@pytest.mark.parametrize("name", sorted(e.name for e in ADVANTAGES.entries() if e.distribution == "openrlhf-agentprm"))
def test_an_estimator_has_a_page_with_its_options_and_their_defaults(name):
    text = (DOCS / "advantages" / f"{name}.md").read_text()
    written = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.M))
    own = [p for p in list(inspect.signature(ADVANTAGES.load(name)).parameters.values())[1:] if p.name not in SHARED]
    assert written == {p.name: str(p.default).lower() if isinstance(p.default, bool) else str(p.default) for p in own}
    assert "**Needs**" in text and "**When**" in text and ("rXiv" in text or "ICML" in text)
    assert f"[{name}]({name}.md)" in (DOCS / "advantages" / "README.md").read_text()


def test_the_table_of_shared_options_has_their_flags_and_defaults():
    from openrlhf_agentprm.core.estimators.shared import _SHAPING, _SHARED
    from openrlhf_agentprm.core.process_rewards import KINDS

    text = (DOCS / "advantages" / "README.md").read_text()
    written = dict(re.findall(r"^\| `--algo\.advantage\.(\w+)` \| (\S+) \|", text, re.M))
    assert written == {name: str(default).lower() for name, default in (_SHARED | _SHAPING).items() if name != "kl_coef"}
    rows = re.search(r"\| process reward .*?\n\n", text, re.S).group(0)
    assert {name for name in KINDS if f"`{name}`" in rows} == set(KINDS)


def test_every_reward_model_has_a_page():
    index = (DOCS / "reward-models" / "README.md").read_text()
    for name in (e.name for e in REWARD_MODELS.entries() if e.distribution == "openrlhf-agentprm"):
        assert (DOCS / "reward-models" / f"{name}.md").is_file() and f"[{name}]({name}.md)" in index


def test_every_loss_has_a_page():
    index = (DOCS / "losses" / "README.md").read_text()
    assert OUTPUTS.keys() == {page.stem for page in (DOCS / "losses").glob("*.md")} - {"README"}
    for name in OUTPUTS:
        text = (DOCS / "losses" / f"{name}.md").read_text()
        assert f"[{name}]({name}.md)" in index and "arXiv" in text and "**When**" in text and "**Measured**" in text


def test_flags_of_losses_and_reward_models_have_the_defaults_of_the_code():
    actions = {option: action for action in build_parser()._actions for option in action.option_strings}
    seen = set()
    for page in [*(DOCS / "losses").glob("*.md"), *(DOCS / "reward-models").glob("*.md")]:
        for flag, default in re.findall(r"^\| `(--[\w.]+)` \| (\S+) \|", page.read_text(), re.M):
            code = actions[flag].default
            assert default == ("–" if code is None else str(code).lower() if isinstance(code, bool) else str(code)), f"{page}: {flag}"
            seen.add(flag)
    assert {"--loss.zeta", "--loss.margin_coef", "--loss.pairs_per_task", "--prm.heads", "--prm.compressed_copies"} <= seen


def test_the_example_of_a_kind_is_the_one_that_is_trained():
    """Line by line, without its comments."""
    shown = re.search(r"```python\n(.*?)```", (DOCS / "reward-models" / "README.md").read_text(), re.S).group(1)
    code = (Path(__file__).parent / "plugins/thirdparty_agents/kinds.py").read_text()
    lines = {line.strip() for line in code.splitlines()}
    assert not [line for line in shown.splitlines() if line.partition("  # ")[0].strip() not in lines]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line):
    words = shlex.split(line)
    if words[0] == "agentprm":  # a command of the tool, not a stage
        assert words[1] in TOOLS
        assert problems_of(import_module(f"openrlhf_agentprm.cli.{words[1]}").build_parser(), words[2:]) == []
        return
    name = next(w for w in words if w.startswith("openrlhf_agentprm.cli.")).rpartition(".")[2]
    import_module(f"openrlhf_agentprm.cli.{name}")
    assert problems_of(parsers()[name](), words[words.index(f"openrlhf_agentprm.cli.{name}") + 1 :]) == []


def test_the_page_of_remote_scorers_has_its_settings_and_their_defaults():
    from openrlhf_agentprm.prm.kinds.remote_settings import Settings

    text = (DOCS / "reward-models" / "remote.md").read_text()
    written = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.M))
    assert written.pop("url") == "required"
    assert written == {f.name: str(f.default) for f in fields(Settings) if f.name != "url"}


def test_the_page_of_serving_has_its_flags_and_their_defaults():
    from openrlhf_agentprm.cli.serve import build_parser

    rows = re.findall(r"^\| (`--serve[^|]*) \| ([^|]*) \|", (DOCS / "serving.md").read_text(), re.M)
    written = {flag: value for names, values in rows for flag, value in zip(names.split(", "), values.split(", "), strict=True)}
    flags = {a.option_strings[0]: a.default for a in build_parser()._actions if a.option_strings[0:1] and "serve." in a.option_strings[0]}
    told = {f"`{flag}`": "the model's context" if d is None else f"{d:g}" if isinstance(d, float) else str(d) for flag, d in flags.items()}
    assert written == told


def test_the_page_on_hacking_has_the_flags_and_their_defaults():
    import argparse

    from openrlhf_agentprm.host.monitor_flags import EARLY_STOPS, add_monitor_flags

    text = (DOCS / "hacking.md").read_text()
    parser = argparse.ArgumentParser()
    add_monitor_flags(parser.add_argument_group())
    flags = {a.option_strings[0]: str(a.default) for a in parser._actions if a.dest != "help"}
    assert dict(re.findall(r"^\| `(--[\w.]+)` \| (\S+) \|", text, re.M)) == flags
    assert all(f"| `{choice}` |" in text for choice in EARLY_STOPS)


def test_the_page_of_the_loop_has_the_flags_of_select_and_every_recipe():
    from openrlhf_agentprm.cli.select import build_parser
    from openrlhf_agentprm.pipeline.folders import recipes_folder

    text = (DOCS / "iterate.md").read_text()
    written = dict(re.findall(r"^\| `(--(?:select|policy)[\w.]+)` \| (\S+) \|", text, re.M))
    flags = {a.option_strings[0]: a.default for a in build_parser()._actions if a.dest != "help"}
    assert written == {f: "–" if d is None else str(d).lower() for f, d in flags.items()}
    assert set(re.findall(r"^\| `(iterate-[\w-]+)` \|", text, re.M)) == {p.stem for p in recipes_folder().glob("iterate-*.yaml")}


def test_the_page_of_the_loop_has_the_flags_of_exploration():
    from openrlhf_agentprm.cli.collect import build_parser

    written = dict(re.findall(r"^\| `(--collect[\w.]+)` \| (\S+) \|", (DOCS / "iterate.md").read_text(), re.M))
    flags = {a.option_strings[0]: a.default for a in build_parser()._actions if re.match(r"collect\.(reset|steer|turn)_", a.dest)}
    assert written == {f: "–" if d in (None, []) else str(d) for f, d in flags.items()}


def test_the_page_on_ppo_has_the_flags_of_online_prms_and_their_defaults():
    import argparse

    from openrlhf_agentprm.host.online_flags import add_online_flags

    section = re.search(r"^## Training the PRM.*?(?=^## )", (DOCS / "ppo.md").read_text(), re.M | re.S)[0]
    rows = re.findall(r"^\| (`--[^|]*`) \| (\S+) \|", section, re.M)
    written = {flag.strip("`"): default for names, default in rows for flag in names.split(", ")}
    parser = argparse.ArgumentParser()
    add_online_flags(parser.add_argument_group())
    flags = {a.option_strings[0]: a.default for a in parser._actions if a.dest != "help"}
    assert {f: "–" if d is None else str(d).lower() for f, d in flags.items()} == written
