"""Profiles, tasks and arguments of AgentGym's servers: what is known, what a user gives, and what is told of what is wrong."""

import inspect
import json
import re
import socket
from dataclasses import fields
from pathlib import Path

import pytest
from agentgym_worlds import WORDS

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.agentgym.env import make
from openrlhf_agentprm.envs.agentgym.profile import Profile, read_profile
from openrlhf_agentprm.envs.agentgym.profiles import PROFILES
from openrlhf_agentprm.envs.agentgym.tasks import number_of, tasks_of


@pytest.mark.parametrize("name", PROFILES)
def test_splits_of_every_profile_are_disjoint_and_whole(name):
    profile = PROFILES[name]
    splits = [tasks_of(profile, split) for split in ("train", "validation", "test")]
    numbers = [[number_of(profile, task) for task in tasks] for tasks in splits]
    flat = sorted(n for split in numbers for n in split)
    assert all(numbers) and len(set(flat)) == len(flat) and splits[0][-1] == splits[0][len(splits[0]) - 1]
    if isinstance(profile.tasks, int):
        assert flat == list(range(profile.tasks))
    assert profile == read_profile({"base": name}, PROFILES)


def test_tasks_from_agentgyms_rows(tmp_path, serve):
    url = serve("maze").url
    rows = [{"item_id": f"maze_{n}", "conversations": []} for n in (3, 5, 3, 7)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows[1:2]))
    (tmp_path / "c.json").write_text(json.dumps([{"item_id": "webshop_3"}]))
    env = make(url, "maze", item_ids=str(tmp_path / "a.json"))
    assert list(env.tasks("train")) == ["maze_3", "maze_5", "maze_7"] and list(env.tasks("test")) == []
    env = make(url, "maze", item_ids={"test": str(tmp_path / "b.jsonl")})
    assert list(env.tasks("test")) == ["maze_5"] and env.reset(options={"task_id": "maze_5"})
    for given, told in (
        ({"train": str(tmp_path / "a.json"), "test": str(tmp_path / "b.jsonl")}, "'maze_5' is in .*a.json' and in .*b.jsonl"),
        (str(tmp_path / "c.json"), "row 0: task 'webshop_3' is no 'maze_NUMBER'"),
        (str(tmp_path / "none.json"), "cannot be read"),
        ({"dev": "x"}, "one for each of train, validation, test"),
        ([], "wanted a"),
    ):
        with pytest.raises(UserError, match=told):
            make(url, "maze", item_ids=given)


@pytest.mark.parametrize("task", ["maze", "maze_", "maze_-1", "maze_x", "3", "web_3", "maze_9999999999999999", "maze_²"])
def test_what_is_no_task(serve, task):
    with pytest.raises(UserError, match="is no 'maze_NUMBER'"):
        make(serve("maze").url, "maze").reset(options={"task_id": task})


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"server": "127.0.0.1:8000"}, "server is '127.0.0.1:8000'; wanted http://HOST:PORT or https"),
        ({"server": "file:///etc/passwd"}, "wanted http"),
        ({"server": "http://u:p@127.0.0.1:1"}, "has no user's name"),
        ({"server": "http://127.0.0.1:1?a=b"}, "has no user's name, [?] or #"),
        ({"server": 5}, "server is 5"),
        ({"server": "http://127.0.0.1:99999"}, "server is"),
        ({"proxy": "socks5://127.0.0.1:1"}, "proxy is"),
        ({"server": "https://127.0.0.1:1", "proxy": "http://127.0.0.1:2"}, "not reached through a proxy"),
        ({"reset_s": 0, "step_s": True}, "reset_s is 0; .*\n.*step_s is True"),
        ({"profile": "webshp"}, "did you mean 'webshop'"),
        ({"profile": {"base": "maze", "sucess_at": 1}}, "did you mean 'success_at'"),
        ({"profile": {"base": "mace"}}, "base is 'mace'"),
        ({"profile": {}}, "needs a name"),
        ({"profile": {"name": "x", "tasks": 3}}, "tasks is 3"),
        ({"profile": {"name": "x", "tasks": {"train": [0, 5], "validation": [4, 8], "test": [8, 9]}}}, "tasks of train and validation overlap"),
        ({"profile": {"name": "x", "tasks": {"train": [5, 5], "validation": [4, 8], "test": "z"}}}, "(?s)wanted \\[first.*wanted \\[first"),
        ({"profile": {"name": "x", "success_by": "luck"}}, "success_by is 'luck'"),
        ({"profile": {"name": "x", "outcome": "score"}}, "no place of a score"),
        ({"profile": {"name": "x", "action": "("}}, "no regular expression"),
        ({"profile": {"name": "x", "action": "x"}}, "no group"),
        ({"profile": {"name": "x y", "prefix": "/a/../b c"}}, "(?s)name is 'x y'.*prefix is"),
        ({"profile": {"name": "x", "invalid": "No"}}, "invalid is 'No'; wanted tuple"),
        ({"profile": {"name": "x", "step_s": -1, "actions": "fixed"}}, "(?s)fixed lists none.*more than 0"),
        ({"profile": "none.json"}, "cannot be read"),
        ({"profile": 3}, "profile is 3"),
        ({}, "no server of AgentGym's .* answers at http://127.0.0.1:9; start it first"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(arguments, told):
    with pytest.raises(UserError, match=told):
        make(**{"server": "http://127.0.0.1:9", "profile": "maze", **arguments})


def test_a_server_at_anothers_reset_has_a_resets_time_to_answer():
    """ALFWorld's answers nothing at all meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        with pytest.raises(UserError, match="answered nothing within 0.3 s"):
            make(f"http://127.0.0.1:{busy.getsockname()[1]}", "alfworld", reset_s=0.3)


def test_a_profile_of_ones_own_from_a_file(serve, tmp_path):
    """A server that nobody has seen, as data: wordle's, under another name and without a base."""
    mine = {
        "name": "words", "prefix": "/wordle", "reset": {"seed": "{task}"}, "success_by": "reward", "invalid": ["invalid word"], "tasks": 30,
        "instruction": "Guess.", "step_s": 5,
    }  # fmt: skip
    (tmp_path / "words.json").write_text(json.dumps(mine))
    env = make(serve("wordle").url, str(tmp_path / "words.json"), instruction="Guess the word.")
    observation, info = env.reset()
    assert observation == "Let's start Wordle!" and info["instruction"] == "Guess the word." and len(env.tasks("train")) == 24
    assert any(env.step(" ".join(word))[2] for word in WORDS)


PAGE = Path(__file__).parents[2] / "docs/environments/agentgym.md"


def row(p):
    """A profile as a line of the page's table."""
    splits = " / ".join(f"{len(tasks_of(p, split)):,}" for split in ("train", "validation", "test"))
    needed = {"done": "done", "reward": f"done, reward {p.success_at:g}", "score": f"done, score {p.success_at:g}"}[p.success_by]
    success = f"{needed}, or the text" if p.success_text else needed
    number = next(key for key, value in p.reset.items() if value == "{task}")
    other_end = "a limit" if p.loss_is_limit else "a failure"
    listed = {"": "–", "webshop": "a GET", "text": "in the text", "reply": "in the answer", "fixed": "always these"}[p.actions]
    yes_or_no = ["yes" if flag else "no" for flag in (p.close, p.verify)]
    graded = p.outcome or "success"
    cells = [
        f"`{p.name}`",
        f"`{p.prefix}/`",
        f"`{number}`",
        splits,
        success,
        other_end,
        graded,
        listed,
        *yes_or_no,
        str(p.at_once),
        str(p.turns),
    ]
    return f"| {' | '.join(cells)} |"


def test_the_page_has_the_table_of_profiles():
    shown = re.findall(r"^\| `\w+` \| `/.*$", PAGE.read_text(), re.M)
    assert shown == [row(profile) for profile in PROFILES.values()], "\n".join(row(profile) for profile in PROFILES.values())


def test_the_page_has_the_arguments_and_every_field_of_a_profile():
    text = PAGE.read_text()
    written = dict(re.findall(r"^\| `(\w+)` \| (\S+) \| ", text, re.M))
    code = {
        p.name: "required" if p.default is p.empty else "–" if p.default in (None, "") else str(p.default)
        for p in inspect.signature(make).parameters.values()
    }
    assert {name: written[name] for name in code} == code
    assert [f.name for f in fields(Profile) if f"`{f.name}`" not in text] == []


def test_the_pages_own_profile_is_one():
    shown = re.search(r"```json\n(\{.*?\})\n```", PAGE.read_text(), re.S)[1]
    assert read_profile(json.loads(shown), PROFILES).name == "words"
