"""BabyAI by AgentGym's rules: what its server (commit 3ef9235, minigrid 2.3.1) answered to the same actions stands here word for word."""

import random

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.agentgym.profiles import PROFILES
from openrlhf_agentprm.envs.agentgym.reading import read_step
from openrlhf_agentprm.envs.agentgym.rules import judge
from openrlhf_agentprm.envs.babyai.agentgym_routes import Routes
from openrlhf_agentprm.envs.base import make_env
from openrlhf_agentprm.envs.checker import check_env

SEE = "In front of you in this room, you can see several objects: "
ROOM = "The room has walls around you. "
EMPTY = "You are not carrying anything."
BALL = ["turn left", "turn right", "move forward", "pickup red ball 1", "go to red ball 1", "check available actions"]


def listing(*actions):
    return "\nAvailable actions: [" + ", ".join(f'"{action}"' for action in actions) + "]"


def begin(task):
    env = make_env("babyai", levels="agentgym", rules="agentgym")
    text, info = env.reset(options={"task_id": task})
    return env, f"{info['instruction']}\n{text}"


@pytest.mark.parametrize("levels", ["GoToRedBall,PickupLoc", "Open,PutNextS7N4Carrying,SynthSeq"])
def test_passes_the_checker(levels):
    expert = levels == "GoToRedBall,PickupLoc"  # minigrid's bot cannot put a carried thing
    found = [r for r in check_env(lambda: make_env("babyai", levels=levels, rules="agentgym")) if r.problem]
    assert [r for r in found if expert or "expert" not in r.name] == []


def test_first_observation_messages_and_success():
    env, first = begin("GoToRedBallNoDists/0")
    ball = "There is a red ball 1 4 steps in front of you and 3 steps to your right.  "
    assert first == f"Your goal: go to the red ball\n{SEE}{ball}{ROOM}You are facing a wall 6 steps away. {EMPTY}{listing(*BALL)}"
    assert env.admissible_actions() == BALL
    for action, said, valid in [
        ("go to blue box 1", "The action is not recognized. Please check valid actions.", False),
        ("", "No change in state.", False),
        ("Please check", f"You can take the following actions: {', '.join(BALL)}", False),
        (" CHECK available actions ", f"You can take the following actions: {', '.join(BALL)}", True),
    ]:
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation == said + listing(*BALL) and (reward, terminated, truncated) == (0, False, False)
        assert info == {"valid_action": valid, "success": False}
    env.step("Move Forward")
    observation, reward, terminated, _, info = env.step("go to red ball 1")
    ball = "There is a red ball 1 right in front of you 1 steps away.  "
    assert observation == f"{SEE}{ball}{ROOM}You are facing a wall 3 steps away. {EMPTY}\n The task is completed.{listing(*BALL)}"
    assert reward == pytest.approx(0.9015625) and terminated and info["success"]


def test_a_success_behind_half_of_the_time_ends_here_though_the_server_says_not_done():
    env, _ = begin("GoToRedBallNoDists/0")
    for _ in range(40):
        env.step("turn left")
    _, reward, terminated, _, info = env.step("go to red ball 1")
    assert reward == pytest.approx(0.33906249999999993) and terminated and info["success"]


def test_only_toggle_opens_a_door_for_a_mission():
    """`toggle and go through` ends with a step, and the reward is that of the last move."""
    env, first = begin("OpenRedDoor/0")
    assert '"move forward", "toggle and go through red closed door 1", "go to red closed door 1"' in first
    env.step("go to red closed door 1")
    assert env.step("go to red closed door 1")[0].startswith("No change in state.\nAvailable")
    observation, reward, terminated, *_ = env.step("toggle and go through red closed door 1")
    gone = f"{SEE}{ROOM}You are facing a wall 4 steps away. {EMPTY}{listing('turn left', 'turn right', 'move forward', 'check available actions')}"
    assert (observation, reward, terminated) == (gone, 0.0, False)
    env, _ = begin("OpenRedDoor/0")
    env.step("go to red closed door 1")
    observation, reward, terminated, *_ = env.step("toggle")
    assert "red open door 1 right in front of you 1 steps away." in observation and '"go through red open door 1"' in observation
    assert reward == pytest.approx(0.946) and terminated


def test_a_failed_mission_is_called_completed_and_goes_on():
    env, _ = begin("PickupDistDebug/0")
    observation, reward, terminated, _, info = env.step("pickup purple box 1")
    actions = ["turn left", "turn right", "move forward", "drop", "go to red ball 1", "check available actions"]
    ball = "There is a red ball 1 0 steps in front of you and 3 steps to your right.  "
    told = (
        f"{SEE}{ball}{ROOM}You are facing a wall 2 steps away. You are carrying a purple box.\n The task is completed.{listing(*actions)}"
    )
    assert (observation, reward, terminated, info["success"]) == (told, 0.0, False, False)
    assert "You are facing a box 1 steps away." in env.step("drop")[0]
    assert env.step("move forward")[0].startswith("There is a barrier in front of you, you can't move forward.\n")
    assert env.step("drop")[0].startswith("You cannot drop the object, as you are not carrying anything.\n")


def test_the_adapter_takes_such_a_text_for_no_success():
    profile = PROFILES["babyai"]
    for reward, done, success in ((0, False, False), (0.339, False, True), (-0.1, False, True), (0.9, True, True)):
        answer = {"observation": f"x\n The task is completed.{listing(*BALL)}", "reward": reward, "score": reward, "done": done}
        told = judge(profile, read_step(profile, answer), None, action="turn left", before="", admissible=BALL)
        assert (told.success, told.terminated) == (success, success), answer


def test_worlds_that_today_s_minigrid_begins_otherwise():
    _, first = begin("GoToObjS6/0")
    key = "There is a blue key 1 1 steps in front of you and 1 steps to your right.  "
    actions = ["turn left", "turn right", "move forward", "pickup blue key 1", "go to blue key 1", "check available actions"]
    assert first == f"Your goal: go to the blue key\n{SEE}{key}{ROOM}You are facing a wall 2 steps away. {EMPTY}{listing(*actions)}"
    env, first = begin("PutNextS7N4Carrying/0")
    assert "There is a yellow box 1 2 steps" in first and "You are carrying a yellow box." in first, (
        "the view is from before it was taken up"
    )
    assert "There is a yellow box 1 right in front of you 1 steps away." in env.step("drop")[0]


def test_snapshots_come_back():
    env, _ = begin("UnlockLocalDist/0")
    env.step("pickup red key 1")
    state, seen = env.snapshot(), [env.step(a)[0] for a in ("turn left", "move forward", "drop")]
    for _ in range(2):
        env.restore(state)
        assert [env.step(a)[0] for a in ("turn left", "move forward", "drop")] == seen


def test_the_expert_plays_by_these_actions():
    for level in ("PickupLoc", "OpenRedDoor", "UnlockLocalDist", "PutNextLocalS6N4"):
        env, _ = begin(f"{level}/2")
        for _ in range(80):
            action = env.expert_action()
            assert action in env.admissible_actions()
            *_, info = env.step(action)
            if info["success"]:
                break
        assert info["success"], level


class Standing:
    """An agent at (5, 5) in an open field."""

    agent_pos, agent_view_size = (5, 5), 7

    def __init__(self, facing):
        self.agent_dir = facing


def test_ways_worked_by_hand():
    """Facing right, the column behind the agent (4) can be walked and the one behind that cannot; facing up, nothing behind can."""
    around = Routes(Standing(0), {(6, 5)})
    assert around.to((6, 5)) == [] and around.to((8, 5)) == [0, 2, 1, 2, 2, 2, 1]  # by the left, where the search looks first
    behind = Routes(Standing(0), set())
    assert behind.to((3, 5)) == [1, 1, 2] and behind.to((2, 5)) is None
    assert Routes(Standing(3), set()).to((5, 7)) is None
    assert Routes(Standing(0), {(6, y) for y in range(2, 9)}).to((8, 5)) is None
    assert behind.to((7, 5), enter=True) == [2, 2]


def one_queue(goal, enter, solid):
    """The server's search as it is: a queue in which a state stands once for each way that leads to it."""
    steps = ((1, 0), (0, 1), (-1, 0), (0, -1))
    start = (5, 5, 0)
    queue, popped, came = [start], set(), {}
    while queue:
        x, y, d = state = queue.pop(0)
        popped.add(state)
        ahead = (x + steps[d][0], y + steps[d][1])
        if ((x, y) if enter else ahead) == goal:
            moves = []
            while state != start:
                state, move = came[state]
                moves.insert(0, move)
            return moves
        for move, after in ((2, (*ahead, d)), (0, (x, y, (d - 1) % 4)), (1, (x, y, (d + 1) % 4))):
            inside = 4 <= after[0] < 12 and 2 <= after[1] < 9
            if inside and after not in popped and after[:2] not in solid:
                queue.append(after)
                came[after] = (state, move)
    return None


def test_of_several_ways_the_server_s_is_taken():
    rng, several = random.Random(0), 0
    for _ in range(60):
        solid = {(rng.randint(5, 11), rng.randint(2, 8)) for _ in range(22)} - {(5, 5)}
        goal, enter = (rng.randint(6, 9), rng.randint(3, 7)), rng.random() < 0.3
        way = Routes(Standing(0), solid).to(goal, enter)
        assert way == one_queue(goal, enter, solid)
        several += way is not None and len(way) > 4
    assert several > 10


@pytest.mark.parametrize("given, told", [(dict(rules="gym"), "rules is 'gym'"), (dict(rules="agentgym", memory=True), "no say; drop them")])
def test_what_is_wrong_is_told(given, told):
    with pytest.raises(UserError, match=told):
        make_env("babyai", **given)
