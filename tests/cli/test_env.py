"""A person plays: what is typed goes to the environment, a few words to the command."""

import io

import pytest
from launching import here


def played(monkeypatch, *lines, flags=()):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return here("env", "play", "babyai", *flags)


def test_an_episode_by_the_expert_and_by_hand(monkeypatch):
    done = played(monkeypatch, "", "dance", *[":expert"] * 60)
    assert done.returncode == 0 and done.stdout.startswith("task ") and "turn left; turn right" in done.stdout
    assert "(not understood)" in done.stdout and "(the expert: " in done.stdout and "success after " in done.stdout
    assert "rewards 0" in done.stdout.rpartition("success after")[2]


@pytest.mark.parametrize("leave", [(":quit", "turn left"), ()])
def test_it_can_be_left_at_any_time(leave, monkeypatch):
    done = played(monkeypatch, "turn right", *leave)
    assert done.returncode == 0 and done.stdout.count("see ") == 2 and "success" not in done.stdout


def test_a_task_is_chosen_and_one_that_is_none_is_told(monkeypatch):
    first = played(monkeypatch, flags=["--play.split", "test"]).stdout.splitlines()[0].removeprefix("task ")
    again = played(monkeypatch, flags=["--play.task", first])
    assert again.stdout.startswith(f"task {first}\n")
    bad = played(monkeypatch, flags=["--play.task", "nonsense"])
    assert bad.returncode == 2 and "nonsense" in bad.stderr
