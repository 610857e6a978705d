"""Environments behind openenv-core's own server, over real sockets, with what breaks on the way."""

import contextlib
import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("openenv.core.env_server", reason="needs openenv-core and what docs/environments/openenv.md names")

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.adapters.openenv import OpenEnvEnv
from openrlhf_agentprm.envs.base import make_env
from openrlhf_agentprm.envs.checker import check_env
from openrlhf_agentprm.rollout.env_worker import EnvServer

SERVER = Path(__file__).with_name("openenv_server.py")
START = 120  # seconds that only what hangs takes


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextlib.contextmanager
def serving(port, sessions=16):
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(port), str(sessions)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + START
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server():
    with serving(free_port()) as url:
        yield url


GUESS = {"action_field": "number", "text_field": "hint"}
DESK = {"action_field": "text", "text_field": "screen.text", "action": {"tool": "write"}, "task_field": "level", "invalid": "no such tool"}
RANGES = {"train": [0, 3], "validation": [3, 4], "test": [4, 6]}


def guess(env, low=0, high=15):
    came = []
    while not came or not came[-1][2]:
        middle = (low + high) // 2
        came.append(env.step(str(middle)))
        low, high = (middle + 1, high) if came[-1][0] == "higher" else (low, middle - 1)
    return came


def test_an_episode_is_played_and_its_end_holds(server):
    env = OpenEnvEnv(f"{server}/guess", **GUESS, instruction="Find it.")
    assert env.reset(options={"task_id": "openenv/4"}) == (
        "Guess a number from 0 to 15.",
        {"instruction": "Find it.", "valid_action": True},
    )
    came = guess(env)
    assert came[-1] == ("right", 1.0, True, False, {"valid_action": True, "success": True})
    assert all(not info["success"] for *_, info in came[:-1])
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("1")
    env.reset(options={"task_id": "openenv/4"})
    assert guess(env) == came
    env.close()
    env.reset(options={"task_id": "openenv/4"})
    assert guess(env) == came, "a closed one connects anew"
    env.reset()
    lost = [env.step("15") for _ in range(5)]
    assert lost[-1][2] and not lost[-1][4]["success"]
    env.close()


def test_an_action_of_another_form_is_not_understood_and_ends_nothing(server):
    env = OpenEnvEnv(f"{server}/guess", **GUESS)
    env.reset()
    for wrong in ("xyzzy", "", "-1"):
        shown, reward, ended, _, info = env.step(wrong)
        assert shown.startswith("The action was not understood: Input should be") and (reward, ended, info["valid_action"]) == (
            0.0,
            False,
            False,
        )
    assert guess(env)[-1][4]["success"]
    env.close()


def test_fields_inside_others_json_actions_and_what_says_that_an_action_is_wrong(server):
    env = OpenEnvEnv(f"{server}/desk", **DESK, reset={"size": "large"}, ranges=RANGES, name="desk", graded=True)
    assert [list(env.tasks(split)) for split in RANGES] == [["desk/0", "desk/1", "desk/2"], ["desk/3"], ["desk/4", "desk/5"]]
    assert env.reset(options={"task_id": "desk/1"})[0] == "A large desk of level 1."
    assert env.step("a") == ("wrote a", 0.5, False, False, {"valid_action": True, "success": False})
    assert env.step("b")[2] and env.reward_is_graded
    env.close()
    env = OpenEnvEnv(f"{server}/desk", task_field="level", invalid="no such tool")
    env.reset(options={"task_id": "openenv/2"})
    assert env.step('{"tool": "write", "text": "ä"}')[0] == '{"screen": {"text": "wrote ä", "lines": ["ä"]}}'
    for wrong in ("look", "[1]", '{"tool": "dance", "text": ""}', '{"tool": "write"}'):
        assert env.step(wrong)[1:] == (0.0, False, False, {"valid_action": False, "success": False}), wrong
    env.close()


@pytest.mark.parametrize(
    "path, arguments",
    [("guess", GUESS), ("desk", {"task_field": "level", "invalid": "no such tool", "ranges": RANGES})],
    ids=["guess", "desk"],
)
def test_the_checker_passes(server, path, arguments):
    make = functools.partial(make_env, "openenv", url=f"{server}/{path}", **arguments)
    assert [r for r in check_env(make, episodes=50) if r.problem] == []


@pytest.mark.parametrize("tool, text, told", [
    ("break", "", "answered a step with error: .*the desk broke"),
    ("wait", "30", "did not answer a step within 1 s"),
    ("pile", "200000", r"more than 100000 bytes \(max_reply\)"),
])  # fmt: skip
def test_what_goes_wrong_breaks_the_episode_and_the_next_one_is_played(server, tool, text, told):
    env = OpenEnvEnv(f"{server}/desk", **DESK | {"action": {"tool": tool}}, timeout_s=1, max_reply=100_000)
    env.reset(options={"task_id": "openenv/0"})
    with pytest.raises(RuntimeError, match=told):
        env.step(text)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(text)
    assert env.reset(options={"task_id": "openenv/7"})[0] == "A small desk of level 7."
    env.close()


def test_a_server_that_is_started_again_breaks_what_was_played_and_no_more():
    port = free_port()
    with serving(port) as url:
        env, idle, worker = *(OpenEnvEnv(f"{url}/guess", **GUESS) for _ in range(2)), EnvServer("openenv", {"url": f"{url}/guess", **GUESS})
        env.reset()
        idle.reset()
        worker.answer({"do": "reset", "task_id": "openenv/1", "seed": 0})
    with serving(port):
        with pytest.raises(RuntimeError, match="the connection broke in a step"):
            env.step("3")
        broken = worker.answer({"do": "step", "action": "3"})
        assert "the connection broke" in broken["error"] and not broken["user_error"], "an error, not a reward of 0"
        for again in (env, idle):
            again.reset()
            assert guess(again)[-1][4]["success"]
            again.close()


def test_a_server_that_is_still_starting_is_waited_for_and_one_that_is_not_there_is_named():
    port = free_port()
    env = OpenEnvEnv(f"http://127.0.0.1:{port}/guess", **GUESS, timeout_s=0.6)
    with pytest.raises(RuntimeError, match=f"nothing answers at http://127.0.0.1:{port}/guess: is the server running there"):
        env.reset()
    env = OpenEnvEnv(f"http://127.0.0.1:{port}/guess", **GUESS, timeout_s=START)
    found = []
    waiting = threading.Thread(target=lambda: found.append(env.reset()[0]))
    waiting.start()
    with serving(port):
        waiting.join(START)
        assert found == ["Guess a number from 0 to 15."]
        env.close()


def test_a_server_without_room_says_so():
    with serving(free_port(), sessions=1) as url:
        one, other = (OpenEnvEnv(f"{url}/guess", **GUESS) for _ in range(2))
        one.reset()
        with pytest.raises(RuntimeError, match="no room for a session .*max_concurrent_envs"):
            other.reset()
        one.close()
        other.reset()
        other.close()


def test_a_redirect_leads_nowhere(server):
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", f"{server.replace('http', 'ws')}/guess/ws")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as redirecting:
        thread = threading.Thread(target=redirecting.handle_request)
        thread.start()
        with pytest.raises(RuntimeError, match="no session at .*redirect"):
            OpenEnvEnv(f"http://127.0.0.1:{redirecting.server_port}", **GUESS).reset()
        thread.join()


def test_what_is_wrong_is_told(server):
    with pytest.raises(UserError, match="missing or not taken: number, count"):
        env = OpenEnvEnv(f"{server}/guess", action_field="count", text_field="hint")
        env.reset()
        env.step("1")
    with pytest.raises(UserError, match=r"no field 'text' of text_field 'text' \(it has: hint\)"):
        OpenEnvEnv(f"{server}/guess", action_field="number", text_field="text").reset()
    with pytest.raises(UserError) as told:
        OpenEnvEnv("127.0.0.1:8000", ranges={"train": [0, 5]}, timeout_s=0, max_reply=0, invalid="(")
    assert len(told.value.problems) == 5 and "such as http://127.0.0.1:8000" in str(told.value)
    for ranges, wrong in ((RANGES | {"test": [2, 4]}, "share numbers"), (RANGES | {"test": [4, 4]}, "the range of test is")):
        with pytest.raises(UserError, match=wrong):
            OpenEnvEnv(server, ranges=ranges)


def test_no_proxy_is_used(server):
    code = (
        f"from openrlhf_agentprm.envs.adapters.openenv import OpenEnvEnv\nenv = OpenEnvEnv({server + '/guess'!r}, 'number', 'hint')\n"
        "print(env.reset()[0])\nenv.close()"
    )
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy"), "http://127.0.0.1:1")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **proxies, "no_proxy": ""}, capture_output=True, text=True)
    assert done.stdout == "Guess a number from 0 to 15.\n", done.stderr
