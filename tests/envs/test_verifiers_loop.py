"""verifiers' environments and what is around them: the network, event loops, threads, forks, and the end of an instance."""

import asyncio
import contextlib
import gc
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from openrlhf_agentprm.envs.adapters.verifiers.env import INSTALL

pytest.importorskip("verifiers", reason=f"needs {INSTALL}")

import hub_worlds
from hub_worlds import start

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.adapters.verifiers.ending import end_dropped
from openrlhf_agentprm.envs.adapters.verifiers.loop import OwnLoop

ADD = '{"name": "add", "arguments": {"a": 2, "b": 4}}'


class Judge(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"0.75")

    def log_message(self, *_):
        pass


def test_nothing_is_connected_to_unless_it_is_asked_for():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        env, _, _ = start("question", args={"network_of": f"http://127.0.0.1:{port}"}, network=True)
        assert env.step("1")[1] == 0.75
        for host in ("127.0.0.1", "localhost"):
            env, _, _ = start("question", args={"network_of": f"http://{host}:{port}"})
            with pytest.raises(UserError, match=f"hub_worlds asked for a connection to {host}:{port}; only with the argument network"):
                env.step("1")
            env.reset()
        server.shutdown()
    with pytest.raises(UserError, match=r"comes from a model over the network \(JudgeRubric\); give network true"):
        start("question", args={"judge": True})


@pytest.fixture
def closed():
    gc.collect()
    end_dropped()  # of tests before
    hub_worlds.CLOSED.clear()
    return hub_worlds.CLOSED


def test_it_is_stepped_in_a_running_loop_and_built_in_a_thread_and_the_signals_are_the_process_s():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    async def played():
        env, _, _ = start("guessing", 6)
        return [env.step(f"<guess>{n}</guess>")[0] for n in (3, 7)]

    assert asyncio.run(played()) == ["higher", "That is it."]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    found = []
    thread = threading.Thread(target=lambda: found.append(start("guessing", 6)[0].step("<guess>7</guess>")[0]))
    thread.start()
    thread.join()
    assert found == ["That is it."]


@pytest.fixture
def no_collector():
    """What is dropped is gone at once, or is in a cycle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_one_that_is_dropped_is_gone_at_once_and_ended_before_the_next_episode(closed):
    env, _, _ = start("sums")
    env.step(ADD)
    dropped = weakref.ref(env)
    del env
    assert dropped() is None
    env, _, _ = start("guessing")
    env.step("<guess>9</guess>")
    assert closed == []
    other, _, _ = start("sums")
    del env
    assert closed == []
    other.reset()
    assert closed == ["rollout", "rubric", "guessing"]


def test_a_collection_within_a_running_loop_and_under_its_locks_ends_nothing(closed):
    """The library asks for a thread in each turn, under a lock of the interpreter's; one environment is dropped in a cycle right there."""
    env, _, _ = start("guessing")
    env.me = env
    other, _, _ = start("guessing", 6)

    class Submits(ThreadPoolExecutor):
        def _adjust_thread_count(self):
            nonlocal env
            env = None
            gc.collect()
            super()._adjust_thread_count()

    with Submits(1) as threads:
        other._loop._here().set_default_executor(threads)
        assert other.step("<guess>7</guess>")[0] == "That is it."
        assert env is None and closed == ["rollout", "rubric"], "of the one that was played"
    other.reset()
    assert closed == ["rollout", "rubric"] * 2 + ["guessing"]


def test_one_that_is_still_open_is_ended_with_its_process_while_there_are_threads():
    code = """
import asyncio
from openrlhf_agentprm.envs.adapters.verifiers.ending import Ending

class Owner:
    pass

async def told():
    print(await asyncio.to_thread(lambda: "ended in a thread"))

owner = Owner()
ending = Ending(owner, lambda: asyncio.run(told()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "ended in a thread\n"), done.stderr


@pytest.mark.usefixtures("no_collector")
def test_a_teardown_connects_to_nothing_either(closed):
    env, _, _ = start("guessing", args={"ending": "9"})
    del env
    end_dropped()
    assert closed == ["rollout", "rubric", "9", "no connection to 127.0.0.1:9: the network was not asked for"]


def test_close_tears_down_once_and_ends_all_whatever_a_teardown_raises(closed):
    env, _, _ = start("guessing", args={"inner": True})
    env.close()
    env.close()
    assert closed == ["rollout", "rubric", "guessing", "inner"]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("<guess>1</guess>")
    env, _, _ = start("guessing", args={"ending": "raises", "inner": True})
    closed.clear()
    with pytest.raises(RuntimeError, match="the table is stuck") as told:
        env.close()
    assert closed == ["rollout", "rubric", "raises", "inner"] and told.value.args[1].is_closed()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("<guess>1</guess>")


def test_one_that_is_refused_is_torn_down(closed):
    with pytest.raises(UserError, match="its score_rollouts is false"):
        start("guessing", args={"score_rollouts": False, "inner": True})
    assert closed == ["guessing", "inner"]


def test_a_cleanup_that_raises_is_told_and_the_rubric_s_is_not_left_out(closed):
    env, _, _ = start("guessing", 3, args={"ending": "leaves"})
    with pytest.raises(OSError, match="the door is stuck"):
        env.step("<guess>4</guess>")
    assert closed == ["rollout", "rubric"]
    env.reset()
    assert closed == ["rollout", "rubric"], "each once"
    env.reset()
    assert closed == ["rollout", "rubric"] * 2, "an episode that is broken off too"


def test_a_loop_that_is_interrupted_is_given_up_and_a_fork_has_its_own():
    own, ended = OwnLoop("x", False), []

    async def interrupted():
        asyncio.get_running_loop().call_soon(interrupt)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own.run(interrupted())
    assert ended and own.run(asyncio.sleep(0, 7)) == 7


@pytest.mark.parametrize("network", [False, True])
def test_a_fork_has_a_loop_of_its_own_and_its_end_is_none_of_the_other_s(network):
    own = OwnLoop("x", network)

    async def woken():
        late = []
        asyncio.get_running_loop().call_later(60, late.append, True)  # wakes it otherwise
        await asyncio.to_thread(time.sleep, 0.3)
        return not late

    assert own.run(asyncio.sleep(0, 7)) == 7
    if not (child := os.fork()):
        came = own.run(asyncio.sleep(0, 8))
        gc.collect()  # the loop that came with the fork
        os._exit(came)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
    assert own.run(woken()), "a thread wakes the loop, which sleeps by then"
    own.close()


def test_ctrl_c_is_not_hidden_by_a_refusal():
    own = OwnLoop("x", False)

    async def refused_and_interrupted():
        with contextlib.suppress(OSError):
            await asyncio.open_connection("127.0.0.1", 9)
        asyncio.get_running_loop().call_soon(interrupt)
        await asyncio.Event().wait()

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own.run(refused_and_interrupted())
    assert own.run(asyncio.sleep(0, 7)) == 7, "and is forgotten"
    own.close()
