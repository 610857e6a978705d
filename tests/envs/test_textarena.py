"""TextArena's own games, played by their rules."""

import functools

import pytest

pytest.importorskip("textarena", reason="needs pip install 'openrlhf-agentprm[textarena]'")

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.adapters.textarena import TextArenaEnv
from openrlhf_agentprm.envs.base import make_env
from openrlhf_agentprm.envs.checker import check_env

HANOI = ["[A C]", "[A B]", "[C B]", "[A C]", "[B A]", "[B C]", "[A C]"]


def start(id, number=0, **kwargs):
    env = TextArenaEnv(id, **kwargs)
    return env, env.reset(options={"task_id": f"{id}/{number}"})[0]


def guess(env, low=1, high=20):
    """Guess by halves to the end: everything that came back."""
    came = []
    while not came or not came[-1][2]:
        middle = (low + high) // 2
        came.append(env.step(f"I say [{middle}]."))
        low, high = (middle + 1, high) if "higher" in came[-1][0] else (low, middle - 1)
    return came


def test_a_game_is_won_once_and_shows_only_what_is_new():
    env, first = start("TowerOfHanoi-v0-raw")
    assert first.startswith("You are playing Tower of Hanoi with 3 disks.") and first.endswith("A: [3, 2, 1]\nB: []\nC: []\n.")
    came = [env.step(move) for move in HANOI]
    assert came[0][0] == "You moved disk 1 from A to C.\n\nCurrent Board: \nA: [3, 2]\nB: []\nC: [1]\n."
    assert [(reward, ended, info["success"]) for _, reward, ended, _, info in came] == [(0.0, False, False)] * 6 + [(1.0, True, True)]
    assert came[-1][0].endswith("Congratulations! You solved the Tower of Hanoi puzzle.")
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("[A C]")


def test_the_second_wrong_move_in_a_row_ends_the_game():
    env, _ = start("TowerOfHanoi-v0-raw")
    valid = [env.step(move)[4]["valid_action"] for move in ("[A C]", "nonsense", "[A B]", "[B C]", "[C B]")]
    assert valid == [True, False, True, False, True], "a right move between two wrong ones"
    assert not env.step("nonsense")[2]
    shown, reward, ended, truncated, info = env.step("nonsense")
    assert (ended, truncated, info) == (True, False, {"valid_action": False, "success": False}) and 0 <= reward < 1
    assert shown.startswith("Invalid Move: ")


def test_a_part_of_the_reward_is_a_loss_unless_it_is_asked_for():
    env, _ = start("GuessTheNumber-v0-raw", 1)
    env.step("[10]")
    env.step("[10]")
    _, reward, ended, _, info = env.step("[10]")
    assert ended and 0 < reward < 1 and not info["success"] and not env.reward_is_graded
    env, _ = start("GuessTheNumber-v0-raw", 1, success=0.01, graded=True)
    env.step("[10]")
    env.step("nonsense")
    assert env.step("nonsense")[4]["success"] is False and env.reward_is_graded, "a forfeited game is no success"


def test_a_seed_names_a_game_and_instances_do_not_disturb_one_another():
    env, _ = start("GuessTheNumber-v0-raw", 1)
    alone = guess(env)
    assert alone[-1][1] == 1.0 and alone[-1][4]["success"]
    endings = {start("GuessTheNumber-v0-raw", n)[0]._game.state.game_state["game_number"] for n in range(12)}
    assert len(endings) > 4
    one, _ = start("2048-v0-easy-raw", 4)
    moves = ["[Left]", "[Up]", "[Right]", "[Down]"] * 3
    alone = [one.step(move) for move in moves]
    one.reset(options={"task_id": "2048-v0-easy-raw/4"})
    other, _ = start("2048-v0-easy-raw", 5)
    beside = []
    for move in moves:
        beside.append(one.step(move))
        other.step(move)
    assert beside == alone and len({shown for shown, *_ in alone}) > 6


def test_games_whose_messages_and_rewards_stand_in_each_other_s_place():
    env, _ = start("Countdown-v0-raw")
    shown, _, ended, _, info = env.step("nonsense")
    assert not ended and not info["valid_action"] and shown.startswith("You attempted an invalid move.")
    shown, reward, ended, _, info = env.step("nonsense")
    assert (reward, ended, info["success"]) == (0.0, True, False)


@pytest.mark.parametrize("id", ["GuessTheNumber-v0-raw", "TowerOfHanoi-v0-raw", "Mastermind-v0-raw"])
def test_the_checker_passes(id):
    assert [r for r in check_env(functools.partial(make_env, "textarena", id=id), episodes=50) if r.problem] == []


def test_what_is_wrong_is_told():
    with pytest.raises(UserError, match="no id 'TowerOfHanoi-v0' with '-raw' at its end; near ones: TowerOfHanoi-v0-raw"):
        TextArenaEnv("TowerOfHanoi-v0")
    with pytest.raises(UserError, match="a game of Alquerque-v0-raw failed: AssertionError: The number of players has to be 2"):
        TextArenaEnv("Alquerque-v0-raw")
    with pytest.raises(UserError, match=r"textarena.make\('TowerOfHanoi-v0-raw'\) failed: TypeError"):
        TextArenaEnv("TowerOfHanoi-v0-raw", kwargs={"disks": 3})
    with pytest.raises(UserError, match="plays games for one player alone"):
        TextArenaEnv("PublicGoodsGame-v0-raw")
    env = TextArenaEnv("TowerOfHanoi-v0-raw", kwargs={"num_disks": 4})
    assert "with 4 disks" in env.reset()[0]
