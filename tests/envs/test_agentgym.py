"""AgentGym's servers, played over a real socket: what a step means on each, and the sessions they are played in."""

import gc
import json
import os
import threading

import pytest
from launching import agentprm

from openrlhf_agentprm.envs.agentgym.env import make
from openrlhf_agentprm.envs.agentgym.http import ServerError


def play(env, *actions, task=None):
    """The first observation, and (reward, terminated, truncated, success, valid, outcome) of each action."""
    first, _ = env.reset(options={"task_id": task or env.tasks("train")[0]})
    told = [env.step(action) for action in actions]
    return first, [(r, t, u, i["success"], i["valid_action"], i.get("outcome")) for _, r, t, u, i in told]


ON = (0.0, False, False, False, True, None)
BAD = (0.0, False, False, False, False, None)
WON = (1.0, True, False, True, True, None)


def graded(reward, ended, success, outcome, valid=True):
    return reward, ended, False, success, valid, outcome


CASES = {
    "maze": (["move right", "jump", "move left"], [ON, BAD, ON], "maze_0"),
    "wordle": (["s h i r e", "z z z z z"] + ["c r a n e"] * 4, None, "wordle_0"),
    "webshop": (
        ["click[buy now]", "search[hat]", "click[blue hat]", "click[buy now]"],
        [graded(0, False, False, 0, False), graded(0, False, False, 0), graded(0, False, False, 0), graded(1, True, True, 1)],
        "webshop_1501",
    ),
    "sqlgym": (["I think.\nAction: ```sql\nSELECT sum(a) FROM t\n```"], [WON], "sqlgym_0"),
    "searchqa": (
        ["hm", "<search>sums</search>", "<answer>999</answer>", "<answer>{}</answer>"], [BAD, ON, ON, WON], "searchqa_51713",
    ),
    "todo": (
        ["buy", "Action: add with Action Input: milk", "Action: add with Action Input: milk", "Action: finish with Action Input: bread"],
        [graded(0, False, False, 0, False), graded(0.5, False, False, 0.5), graded(0, False, False, 0.5), graded(0.5, True, True, 1)],
        "todo_0",
    ),
    "sciworld": (
        ["fly", "look around", "focus on water", "heat water"],
        [graded(0, False, False, 0, False), graded(0, False, False, 0), graded(0.4, False, False, 0.4), graded(0.6, True, True, 1)],
        "sciworld_0",
    ),
    "webarena": (["go", "I ```click [1]``` now", "```stop [right]```"], [BAD, ON, WON], "webarena_0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_step_means(serve, name):
    actions, wanted, task = CASES[name]
    env = make(serve(name).url, name)
    if name == "searchqa":
        question = env.reset(options={"task_id": task})[0].rpartition(" ")[2]
        actions = [action.format(eval(question)) for action in actions]
    first, told = play(env, *actions, task=task)
    if name == "wordle":  # six tries: the last ends it without success, unless a guess was right
        assert told[1] == BAD and told[-1] in ((0.0, True, False, False, True, None), WON) and "six tries" in env.profile.instruction
    else:
        assert told == wanted
    assert {"sciworld": "Your task is to boil water.\nYou are", "webarena": "OBJECTIVE: find it"}.get(name, "") in first


def test_a_wrong_focus_ends_with_no_outcome_rather_than_a_negative_one(serve):
    assert play(make(serve("sciworld").url, "sciworld"), "focus on stove")[1] == [graded(-1.0, True, False, 0.0)]


def test_a_bought_thing_that_half_fits_is_graded(serve):
    shopping = ["search[x]", "click[red shoes]", "click[buy now]"]
    assert play(make(serve("webshop").url, "webshop"), *shopping, task="webshop_1")[1][-1] == graded(0.25, True, False, 0.25)


def test_a_limit_of_the_servers_is_no_failure(serve):
    *_, last = play(make(serve("maze").url, "maze"), *["move up"] * 51, task="maze_0")[1]
    assert last == (-1.0, False, True, False, True, None)
    env = make(serve("alfworld").url, "alfworld")
    *rest, last = play(env, *["turn left", "turn right"] * 25)[1]
    assert rest == [ON] * 49 and last == (0.0, False, True, False, True, None)


def test_babyai_in_time_and_late(serve):
    """A late success has done false; the text tells it, and the adapter ends there, before anything is paid twice."""
    for late in (False, True):
        server = serve("babyai", late=late)
        env = make(server.url, "babyai")
        observation, _ = env.reset(options={"task_id": "babyai_2"})
        assert observation.startswith("Your goal: open ") and "toggle" in observation
        world = server.family.sessions[0]
        ended, steps = False, 0
        while not ended:
            action = world.env.expert_action()
            _, reward, ended, truncated, info = env.step(action)
            steps += 1
            assert info["valid_action"] and not truncated, action
        assert (
            info["success"] and info["answer"]["done"] is not late and reward == (0.33 if late else info["score"]) and "outcome" not in info
        )
        with pytest.raises(RuntimeError, match="call reset"):
            env.step("turn left")
        assert server.family.steps == steps


def test_admissible_actions_where_they_cost_nothing(serve):
    for name in ("babyai", "alfworld", "maze"):
        env = make(serve(name).url, name)
        env.reset()
        listed = env.admissible_actions()
        assert listed == env.admissible_actions() != [] and "dance" not in listed
        assert env.step("dance")[4]["valid_action"] is False
        assert env.step(listed[0].upper())[4]["valid_action"] is (name == "babyai"), (
            "the real servers of the others answer capitals with nothing"
        )
    env = make(serve("webshop").url, "webshop")
    env.reset(options={"task_id": "webshop_0"})
    assert env.admissible_actions() == ["search[Find me red shoes]"]
    env.step(env.admissible_actions()[0])
    assert env.admissible_actions() == ["click[back to search]", "click[red shoes]", "click[blue hat]", "click[green scarf]"]
    assert not hasattr(make(serve("wordle").url, "wordle"), "admissible_actions")


def test_actions_are_shown_below_the_first_observation_or_below_each(serve):
    url = serve("alfworld").url
    for profile, shown in (("alfworld", [True, False]), ({"base": "alfworld", "shown_actions": "all"}, [True, True])):
        env = make(url, profile)
        told = [env.reset()[0]]
        listed = env.admissible_actions()
        told.append(env.step("turn left")[0])
        assert ["\nAVAILABLE ACTIONS: " in observation for observation in told] == shown
        assert told[0].endswith("\nAVAILABLE ACTIONS: " + ", ".join(listed))


def test_the_end_is_latched_where_the_server_would_go_on(serve):
    server = serve("textcraft")
    env = make(server.url, "textcraft")
    goals = server.family.make().tasks
    task = f"textcraft_{goals.index('planks/0')}"
    _, told = play(env, "get 1 log", "fly", "craft 4 planks using 1 log", task=task)
    assert told == [ON, BAD, WON]
    with pytest.raises(RuntimeError, match="without a running episode"):
        env.step("inventory")
    assert server.family.steps == 3


def test_textcraft_numbers_name_no_tasks_so_the_first_observation_does(serve):
    """Each reset lists the commands in another order; the fingerprint is of the set of lines, and a profile that verifies the text refuses it."""
    server = serve("textcraft")
    env = make(server.url, "textcraft")
    (first, info), (second, again) = (env.reset(options={"task_id": "textcraft_0"}) for _ in range(2))
    assert first != second and info["task_fingerprint"] == again["task_fingerprint"]
    assert env.reset(options={"task_id": "textcraft_1"})[1]["task_fingerprint"] != info["task_fingerprint"]
    strict = make(server.url, {"base": "textcraft", "verify": True, "lines_in_any_order": False})
    strict.reset(options={"task_id": "textcraft_0"})
    with pytest.raises(ServerError, match="began with another observation than before"):
        strict.reset(options={"task_id": "textcraft_0"})


def test_sessions_are_kept_from_episode_to_episode_and_from_instance_to_instance(serve):
    server = serve("maze")
    for _ in range(5):
        env = make(server.url, "maze")
        for task in ("maze_0", "maze_1", "maze_2"):
            env.reset(options={"task_id": task})
        env.close()
        env.close()
    assert server.family.created == 1
    one, other = make(server.url, "maze"), make(server.url, "maze")
    one.reset()
    other.reset()
    assert server.family.created == 2, "two at a time are two"


def test_sessions_are_closed_where_they_can_be_also_by_the_garbage_collector(serve):
    server = serve("searchqa")
    env = make(server.url, "searchqa")
    env.reset()
    env.reset()
    assert len(server.family.sessions) == 1
    env.close()
    assert not server.family.sessions
    env = make(server.url, "searchqa")
    env.reset()
    del env
    gc.collect()
    assert not server.family.sessions
    with pytest.raises(RuntimeError):
        make(server.url, "searchqa").step("x")


def test_a_forked_copy_leaves_the_session_to_whom_it_belongs(serve):
    server = serve("searchqa")
    env = make(server.url, "searchqa")
    env.reset()
    child = os.fork()
    if not child:
        try:
            env.close()
            env.reset()
            env.step("x")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert server.family.created == 2 and server.family.steps == 1 and 0 in server.family.sessions
    env.step("x")


def test_calls_of_two_threads_are_one_after_the_other(serve):
    server = serve("maze")
    server.family.delay = 0.005
    env = make(server.url, "maze")
    env.reset()
    threads = [threading.Thread(target=lambda: [env.step("move up") for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.family.steps == 40 and server.family.overlaps == 0


@pytest.mark.parametrize("name", ["maze", "wordle", "webshop", "searchqa", "sciworld", "babyai", "alfworld"])
def test_the_checker_passes(serve, name):
    args = json.dumps({"server": serve(name).url, "profile": name})
    told = agentprm("env", "check", "agentgym", "--env.args", args, "--check.episodes", "20").stdout
    assert "agentgym: 19 of 19 checks passed" in told, told
