"""AgentGym's servers at fault: errors in answers, restarts, and whatever else may stand at the other end of a socket."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import free_port

from openrlhf_agentprm.envs.agentgym import env as module
from openrlhf_agentprm.envs.agentgym.env import make
from openrlhf_agentprm.envs.agentgym.http import ServerError


@pytest.mark.parametrize(
    "name, task, told",
    [("maze", "maze_25", "tells of an error: ''"), ("maze", "maze_99999999", "index out of range"), 
     ("webshop", "webshop_99999999", "HTTP 500: Internal"),
     ("webarena", "webarena_7", "could not begin the task: 'TimeoutError'")],
)  # fmt: skip
def test_a_task_that_cannot_begin_is_an_error_and_the_old_episode_is_gone(serve, name, task, told):
    env = make(serve(name).url, name)
    env.reset()
    with pytest.raises(ServerError, match=told):
        env.reset(options={"task_id": task})
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("move up")
    env.reset()
    env.step("move up")


def test_an_error_in_an_answer_of_200_breaks_the_episode(serve):
    server = serve("maze")
    env = make(server.url, "maze")
    env.reset()
    server.family.sessions.clear()
    with pytest.raises(ServerError, match="The id 0 is not valid"):
        env.step("move up")
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("move up")
    env.reset()
    assert server.family.created == 2, "an id that has failed is not used again"


def test_a_missing_field_is_told_as_the_server_tells_it(serve):
    env = make(serve("maze").url, {"base": "maze", "reset": {"data_idx": "{task}"}})
    with pytest.raises(ServerError, match=r"POST .*/maze/reset: HTTP 422.*missing"):
        env.reset()


@contextlib.contextmanager
def process(name, port):
    command = [sys.executable, str(Path(__file__).with_name("agentgym_server.py")), name, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline().startswith("http")
        try:
            yield running
        finally:
            running.kill()


def test_a_server_that_is_killed_and_started_again(notes):
    """Its numbers begin anew: what plays on an old one would step another's game."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process("maze", port):
        one, other = make(url, "maze"), make(url, "maze")
        one.reset(options={"task_id": "maze_1"})
        other.reset(options={"task_id": "maze_2"})
    with pytest.raises(ServerError, match="Connection"):
        make(url, "maze").reset()
    with process("maze", port):
        there = other.reset(options={"task_id": "maze_2"})[0]
        with pytest.raises(ServerError, match="started again"):
            one.step("move left")  # which would move the other's
        assert other.step("jump")[0] == there, "nobody else has moved it"
        one.reset(options={"task_id": "maze_1"})
        one.step("move up")
    with process("maze", port), pytest.raises(ServerError, match="is not valid"):
        one.step("move up")


def playing(url, name):
    """A process that resets, steps and ends on the spot."""
    code = f"from openrlhf_agentprm.envs.agentgym.env import make; env = make({url!r}, {name!r}); env.reset(); env.step('a'); import os; os._exit(1)"
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize("name", ["maze", "searchqa"])
def test_the_session_of_a_killed_process_is_gone_on_in(serve, name):
    """A pool kills its processes; else each run would leave as many sessions behind as it has workers."""
    server = serve(name)
    for _ in range(3):
        with playing(server.url, name) as process:
            process.wait()
    env = make(server.url, name)
    env.reset()
    assert server.family.created == 1
    env.close()
    assert len(server.family.sessions) == (0 if env.profile.close else 1)


def test_a_session_whose_process_was_killed_in_a_step_is_left_alone(serve):
    """The server may still work at it."""
    server = serve("maze")
    server.family.delay = 3600
    with playing(server.url, "maze") as process:
        while not server.family.busy:
            time.sleep(0.01)
        process.kill()
    make(server.url, "maze").reset()
    assert server.family.created == 2


def test_no_two_play_in_a_slot_that_a_server_gives_twice(serve):
    server = serve("sqlgym")
    envs = [make(server.url, "sqlgym") for _ in range(9)]
    for env in envs[:8]:
        env.reset()
    with pytest.raises(ServerError, match="in which another instance plays: it has no more; take fewer"):
        envs[8].reset()
    envs[0].close()
    assert envs[8].reset() and server.family.created == 8


def test_where_nothing_can_be_noted_it_plays_all_the_same(serve, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    env = make(serve("maze").url, "maze")
    env.reset()
    env.step("move up")
    env.reset()
    env.close()


def test_a_pool_lives_through_a_restart(notes):
    from openrlhf_agentprm.rollout.pool import EnvPool

    port = free_port()
    with contextlib.ExitStack() as stack:
        with process("maze", port):
            pool = stack.enter_context(EnvPool("agentgym", {"server": f"http://127.0.0.1:{port}", "profile": "maze"}, 2))
            assert pool.tasks("test") == ["maze_9", "maze_19"]
            pool.call(0, {"do": "reset", "task_id": "maze_1", "seed": 0})
            assert pool.call(0, {"do": "step", "action": "move up"})["valid_action"] is True
        for request in ({"do": "step", "action": "move up"}, {"do": "reset", "task_id": "maze_1", "seed": 0}):
            with pytest.raises(RuntimeError, match="ServerError"):
                pool.call(0, request)
        with process("maze", port):
            assert "position" in pool.call(0, {"do": "reset", "task_id": "maze_1", "seed": 0})["observation"]
            assert pool.call(0, {"do": "step", "action": "move up"})["truncated"] is False


def test_a_server_is_asked_once_whether_it_is_there(serve):
    """Later it may be away for a while, which is an error of an episode and not the end of a run."""
    server = serve("maze")
    make(server.url, "maze")
    server.shutdown()
    server.server_close()
    with pytest.raises(ServerError):
        make(server.url, "maze").reset()
    assert any(known.url == server.url for known in module._answering)
