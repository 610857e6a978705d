"""GEM's own games and questions."""

import functools
import json
import logging
import subprocess
import sys

import pytest

from openrlhf_agentprm.envs.adapters.gem import INSTALL, GemEnv

pytest.importorskip("gem", reason=f"needs {INSTALL}")

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.base import make_env
from openrlhf_agentprm.envs.checker import check_env

HANOI = ["A C", "A B", "C B", "A C", "B A", "B C", "A C"]


def start(id, number=0, **kwargs):
    env = GemEnv(id, **kwargs)
    return env, env.reset(options={"task_id": f"{id}/{number}"})[0]


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    rows = [{"problem": f"What is {n}/2 + 1/2?", "answer": f"\\frac{{{n + 1}}}{{2}}"} for n in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"dataset_name": str(folder)}


def test_a_game_is_won_once_with_plain_actions_or_boxed_ones():
    env, first = start("game:TowerofHanoi-v0-easy", wrap=True)
    assert first.startswith("You are playing Tower of Hanoi") and first.endswith("\nA: [3, 2, 1]\nB: []\nC: []\n\nEnter your move.")
    came = [env.step(move) for move in [HANOI[0], "I take \\boxed{A B}", *HANOI[2:]]]
    assert [(reward, ended, info["success"]) for _, reward, ended, _, info in came] == [(0.0, False, False)] * 6 + [(1.0, True, True)]
    assert came[0][0].startswith("At turn 1, you moved disk 1 from tower A to tower C.\n") and came[0][0].endswith("Enter your move.")
    assert came[-1][0] == "Congratulations! You solved the Tower of Hanoi Puzzle"
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("A C")


def test_an_action_that_cannot_be_read_ends_the_game():
    env, _ = start("game:TowerofHanoi-v0-easy")
    shown, reward, ended, truncated, info = env.step("A C")
    assert (reward, ended, truncated, info) == (-0.1, True, False, {"valid_action": False, "success": False})
    assert shown == "You did not provide a valid action.", "the suffix asks for no move behind the end"


def test_a_limit_on_turns_is_an_end_and_what_was_reached_is_no_success():
    env, _ = start("game:TowerofHanoi-v0-easy", wrap=True)
    came = [env.step(move) for move in [*HANOI[:6], "C B", "B C", "C B", "B C"]]
    assert came[-1][1:4] == (pytest.approx(2 / 3), True, False) and not came[-1][4]["success"]


def test_rewards_in_parts_add_up_to_a_success():
    """Mastermind pays each new place of the code as it is found."""
    env, _ = start("game:Mastermind-v0-easy", 3, wrap=True)
    first, second = env._game.game_code
    other = next(n for n in range(1, 7) if n not in (first, second))
    half, won = env.step(f"{first} {other}"), env.step(f"{first} {second}")
    assert half[1] == won[1] == 0.5 and won[2] and won[4]["success"] and not half[4]["success"]


def test_a_seed_names_a_game_and_instances_do_not_disturb_one_another():
    moves = ["left", "up", "right", "down"] * 3
    one, _ = start("game:Game2048-v0-hard", 4, wrap=True)
    alone = [one.step(move) for move in moves]
    one.reset(options={"task_id": "game:Game2048-v0-hard/4"})
    other, _ = start("game:Game2048-v0-hard", 5, wrap=True)
    beside = []
    for move in moves:
        beside.append(one.step(move))
        other.step(move)
    assert beside == alone and len({shown for shown, *_ in alone}) > 6


def test_questions_have_places_and_no_two_splits_share_one(halves):
    for id, kwargs, count in (("rg:basic_arithmetic", {"size": 50}, 50), ("math:GSM8K", halves, 40)):
        env = GemEnv(id, kwargs=kwargs)
        listed = {split: list(env.tasks(split)) for split in ("train", "validation", "test")}
        assert [len(listed[split]) for split in listed] == [count * 8 // 10, count // 10, count // 10]
        asked = [env.reset(options={"task_id": task})[0] for tasks in listed.values() for task in tasks]
        assert len(set(asked)) == count
        with pytest.raises(UserError, match=f"beyond the {count} questions"):
            env.reset(options={"task_id": f"{id}/{count}"})


def test_answers_are_graded(halves):
    env, asked = start("math:GSM8K", 5, kwargs=halves)
    half = int(asked.split()[2].split("/")[0]) + 1
    came = env.step(f"It is \\boxed{{{half}/2}}.")
    assert came == ("", 1.0, True, False, {"valid_action": True, "success": True}), "another form of the same number"
    for answer, valid in (("\\boxed{1000}", True), (f"{half}/2", False)):
        env.reset(options={"task_id": "math:GSM8K/5"})
        assert env.step(answer) == ("", 0.0, True, False, {"valid_action": valid, "success": False})
    env, _ = start("rg:countdown", 7)
    assert env.step(f"\\boxed{{{env._game.data['answer']}}}")[1:3] == (1.0, True)


@pytest.mark.parametrize("id", ["game:GuessTheNumber-v0-easy", "game:TowerofHanoi-v0-easy", "rg:basic_arithmetic"])
def test_the_checker_passes(id):
    assert [r for r in check_env(functools.partial(make_env, "gem", id=id), episodes=50) if r.problem] == []


def test_the_checker_passes_on_mathematics(halves):
    make = functools.partial(make_env, "gem", id="math:GSM8K", kwargs=halves)
    assert [r for r in check_env(make, episodes=5, tasks_tried=1) if r.problem] == []


def test_the_import_leaves_the_logging_of_the_process_alone():
    code = (
        "import logging, sys\nfrom openrlhf_agentprm.envs.adapters.gem import GemEnv\nGemEnv('game:TowerofHanoi-v0-easy')\n"
        "root = logging.getLogger()\nsys.exit(f'{root.handlers} {root.level}' if root.handlers or root.level != logging.WARNING else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert logging.getLogger().level == logging.WARNING


def test_what_is_wrong_is_told():
    with pytest.raises(UserError, match="did you mean 'game:TowerofHanoi-v0-easy'"):
        GemEnv("game:TowerOfHanoi-v0-easy")
    with pytest.raises(UserError, match="code:CodeContest is not played here: it runs the programs"):
        GemEnv("code:CodeContest")
    with pytest.raises(UserError, match=r"gem.make\('math:GSM8K'\) failed"):
        GemEnv("math:GSM8K", kwargs={"dataset_name": "/no/such/folder"})
