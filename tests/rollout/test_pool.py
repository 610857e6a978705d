"""The pool: limits kept, deaths noticed, nothing left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.rollout.env_worker import EnvServer
from openrlhf_agentprm.rollout.nursery import Child, Nursery, Provision
from openrlhf_agentprm.rollout.pool import EnvPool, Timeouts


def reset(task):
    return {"do": "reset", "task_id": task, "seed": 0}


def ask(pool, worker, request):
    pool.send(worker, request)
    while True:
        for reply in pool.poll(None):
            return reply


@pytest.fixture
def pool():
    with EnvPool("thirdparty_faulty", {}, 2, Timeouts(reset=20, step=1.0)) as pool:
        yield pool


def test_a_good_environment_plays(pool):
    assert ask(pool, 0, reset("train-1")).value["observation"] == "at 0"
    reply = ask(pool, 0, {"do": "step", "action": "up"})
    assert reply.kind == "ok" and reply.value["observation"] == "at 1" and reply.value["valid_action"] is True


@pytest.mark.parametrize(
    "task, kind, message",
    [
        ("train-0", "error", "broken on purpose"),
        ("train-10", "timeout", "did not answer step within 1 s"),
        ("train-20", "died", "process ended during step"),
    ],
)
def test_what_breaks_is_told_and_the_worker_is_usable_again(pool, task, kind, message):
    ask(pool, 0, reset(task))
    reply = ask(pool, 0, {"do": "step", "action": "up"})
    assert reply.kind == kind and message in reply.message
    assert ask(pool, 0, reset("train-1")).kind == "ok" and ask(pool, 1, reset("train-2")).kind == "ok"
    assert pool.counts[kind] == 1 and pool.counts["restarts"] == (kind != "error")


@pytest.mark.parametrize(
    "task, kind, message",
    [
        ("train-0", "error", "broken on purpose"),
        ("train-10", "timeout", "did not answer reset within 3 s"),
        ("train-20", "died", "process ended during reset"),
    ],
)
def test_what_breaks_in_a_reset_is_told_and_the_worker_is_usable_again(task, kind, message):
    with EnvPool("thirdparty_faulty", {"where": "reset"}, 1, Timeouts(reset=3, step=20)) as pool:
        reply = ask(pool, 0, reset(task))
        assert reply.kind == kind and message in reply.message and not reply.user_error
        assert ask(pool, 0, reset("train-1")).kind == "ok" and ask(pool, 0, {"do": "step", "action": "up"}).kind == "ok"


def test_replay_demonstrations_and_tasks():
    with EnvPool("thirdparty_count", {}, 1) as pool:
        answers = pool.call(0, {"do": "replay", "task_id": "train-3", "seed": 0, "actions": ["up", "up", "nonsense"]})
        assert [a["observation"] for a in answers] == ["at 0", "at 1", "at 2", "at 2"] and answers[-1]["valid_action"] is False
        request = {"do": "demonstrate", "task_id": "train-3", "seed": 0, "demonstrator": "expert", "noise": 0.0, "max_turns": 9}
        played = pool.call(0, request)
        assert played["steps"][-1][0] == "stop" and played["steps"][-1][1]["success"]
        assert pool.tasks("test", 2, 3) == ["test-2", "test-3", "test-4"]
        with pytest.raises(UserError, match="the demonstrator 'clever' needs an environment with demonstrator"):
            pool.call(0, request | {"demonstrator": "clever"})


def test_an_environment_that_cannot_be_built_is_told_at_once():
    with pytest.raises(UserError, match="unknown environment 'babyay'"):
        EnvPool("babyay", {}, 2)
    with pytest.raises(UserError, match="does not take these arguments"):
        EnvPool("thirdparty_count", {"speed": 2}, 1)
    with pytest.raises(RuntimeError, match="'thirdparty_unbuildable': error: RuntimeError: broken on purpose"):
        EnvPool("thirdparty_unbuildable", {"how": "raise"}, 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("hang", r"'thirdparty_unbuildable' was not built within 2 s \(--env.reset_timeout\)"),
        ("exit", "'thirdparty_unbuildable' ended its process while it was being built"),
    ],
)
def test_an_environment_that_hangs_or_exits_while_it_is_built_is_told_in_time(how, message):
    started = time.monotonic()
    with pytest.raises(UserError, match=message):
        EnvPool("thirdparty_unbuildable", {"how": how}, 2, Timeouts(reset=2, step=60))
    assert time.monotonic() - started < 30


def test_two_threads_that_replace_workers_do_not_take_each_others_answers(monkeypatch):
    """`send` to a lost worker in one thread while `poll` replaces another: never two requests out on the one control socket."""
    asking, most, first_is_in = 0, 0, threading.Event()
    send_fds = socket.send_fds

    def slow(*args):
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        first_is_in.set()
        time.sleep(0.5)
        result = send_fds(*args)
        asking -= 1
        return result

    with EnvPool("thirdparty_faulty", {}, 2, Timeouts(20, 20)) as pool:
        os.kill(pool._workers[0].pid, signal.SIGKILL)
        while not pool._workers[0].lost:
            assert ask(pool, 1, reset("train-20")).kind == "ok"
        monkeypatch.setattr(socket, "send_fds", slow)
        sender = threading.Thread(target=lambda: first_is_in.wait(20) and pool.send(0, reset("train-1")))
        sender.start()
        died = ask(pool, 1, {"do": "step", "action": "up"})
        sender.join()
        assert (died.worker, died.kind) == (1, "died") and most == 1
        replies = {reply.worker: reply.kind for reply in pool.poll(None)}
        assert replies == {0: "ok"} and ask(pool, 1, reset("train-1")).kind == "ok"


def test_a_worker_that_dies_while_nothing_is_asked_of_it():
    with EnvPool("thirdparty_count", {}, 2, Timeouts(20, 5.0)) as pool:
        for worker in (0, 1):
            assert ask(pool, worker, reset("train-1")).kind == "ok"
            os.kill(pool._workers[worker].pid, signal.SIGKILL)
        time.sleep(0.1)
        assert ask(pool, 0, reset("train-1")).kind == "ok", "a reset needs nothing of the dead process"
        lost = ask(pool, 1, {"do": "step", "action": "up"})
        assert lost.kind == "died" and "ended before step" in lost.message
        assert ask(pool, 1, reset("train-1")).kind == "ok" and pool.counts["restarts"] == 2


def test_a_worker_that_reads_nothing_is_late_whatever_is_sent_to_it():
    with EnvPool("thirdparty_count", {}, 2, Timeouts(20, 1.0)) as pool:
        assert ask(pool, 0, reset("train-1")).kind == "ok"
        os.kill(pool._workers[0].pid, signal.SIGSTOP)
        late = ask(pool, 0, {"do": "step", "action": "up" * (4 << 20)})  # more than a socket holds
        assert late.kind == "timeout" and "did not answer step within 1 s" in late.message
        assert ask(pool, 0, reset("train-1")).kind == "ok" and ask(pool, 1, reset("train-1")).kind == "ok"


def test_a_worker_that_has_ended_is_not_killed_by_its_number():
    ended, other = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2))
    child = Child(ended.pid)
    ended.kill()
    ended.wait()
    child.pid = other.pid  # as where the system gives the number out again
    child.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(0.5)
    held = Child(other.pid)
    held.kill()
    held.kill()
    assert other.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("instruction", r'info\["instruction"\] that is NoneType; wanted str'),
        ("valid_action", r'info\["valid_action"\] = 1; wanted a bool'),
        ("success", r'info\["success"\] = None'),
    ],
)
def test_a_broken_protocol_is_no_failure_of_the_policy(task, message):
    with EnvPool("thirdparty_vague", {}, 1, Timeouts(20, 5.0)) as pool:
        replies = [ask(pool, 0, reset(f"train-{task}"))]
        if replies[0].kind == "ok":
            replies.append(ask(pool, 0, {"do": "step", "action": "stop"}))
    assert replies[-1].kind == "error" and not replies[-1].user_error
    assert re.search(message, replies[-1].message)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("outcome", r'info\["outcome"\] = nan; wanted a finite number'),
        ("reward", "the reward inf; wanted a finite number"),
        ("observation", r"an observation that cannot be written as UTF-8 \(.*'\\ud800'"),
        ("step", r"an observation that cannot be written as UTF-8 \(.*'\\udfff'"),
        ("instruction", r'info\["instruction"\] that cannot be written as UTF-8'),
        ("long-instruction", r'info\["instruction"\] that has 1000001 characters; at most 1000000 are taken'),
        ("action", "an action of a demonstrator that cannot be written as UTF-8"),
        ("error", r"RuntimeError: \\ud800"),
    ],
)
def test_odd_text_and_numbers_are_a_fault_of_the_environment(task, message):
    request = {"do": "demonstrate", "task_id": f"train-{task}", "seed": 0, "demonstrator": "expert", "noise": 0.0, "max_turns": 5}
    with EnvPool("thirdparty_odd", {}, 1, Timeouts(20, 5.0)) as pool:
        reply = ask(pool, 0, request)
        assert ask(pool, 0, reset("train-1")).kind == "ok"
    assert reply.kind == "error" and not reply.user_error and re.search(message, reply.message)
    reply.message.encode()


def test_an_answer_that_json_cannot_say_costs_no_worker():
    with EnvPool("thirdparty_odd", {}, 1, Timeouts(20, 5.0)) as pool:
        with pytest.raises(RuntimeError, match=r"'thirdparty_odd': error: .*no JSON: 'utf-8' codec can't encode character '.*ud800'"):
            pool.tasks("test")
        assert ask(pool, 0, reset("train-1")).kind == "ok" and not pool.counts["restarts"]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(pool, holds):
    """Have the pool read what comes, as it does while it is used, until something holds."""
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        ask(pool, 1, reset("train-1"))
    assert holds()


def test_a_spare_takes_the_place_of_a_worker_that_dies():
    with EnvPool("thirdparty_count", {}, 2, Timeouts(20, 20), Provision(spares=2)) as pool:
        ready = lambda: [s.pid for s in pool._spares.workers if s.deadline is None]  # noqa: E731
        until(pool, lambda: len(ready()) == 2)
        first, second = ready()
        os.kill(first, signal.SIGKILL)
        until(pool, lambda: ready() == [second])
        ask(pool, 0, reset("train-1"))
        os.kill(pool._workers[0].pid, signal.SIGKILL)
        assert ask(pool, 0, {"do": "step", "action": "up"}).kind == "died"
        assert pool._workers[0].pid == second, "one that is alive, and has built its environment"
        assert ask(pool, 0, reset("train-1")).value["observation"] == "at 0"
        until(pool, lambda: len(ready()) == 2)
        assert len({w.pid for w in pool._workers + pool._spares.workers}) == 4
        assert pool.counts == {"restarts": 1, "error": 0, "timeout": 0, "died": 1}


def test_spares_that_died_with_their_worker_are_not_taken():
    """As when the process that all are forked from dies: nobody has read of the spares' deaths yet."""
    with EnvPool("thirdparty_count", {}, 2, Timeouts(20, 20), Provision(spares=2)) as pool:
        until(pool, lambda: all(s.deadline is None for s in pool._spares.workers))
        dead = [s.pid for s in pool._spares.workers] + [pool._workers[0].pid]
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        while any(alive(pid) for pid in dead):
            time.sleep(0.01)
        pool._replace(0)
        assert ask(pool, 0, reset("train-1")).kind == "ok" and pool._workers[0].pid not in dead


def test_a_mixtures_spares_have_all_its_parts_built(tmp_path):
    parts = [{"env": "thirdparty_count"}, {"env": "thirdparty_noted", "args": {"file": str(tmp_path / "played")}}]
    server = EnvServer("mixture", {"parts": parts})
    assert "HasTasks" in server.answer({"do": "describe"})["ok"]["abilities"] and list(server.env._built) == []
    assert server.answer({"do": "warm_up"}) == {"ok": None} and list(server.env._built) == ["thirdparty_count", "thirdparty_noted"]


def test_what_asks_for_more_memory_than_it_may_have_fails_alone():
    with EnvPool("thirdparty_hungry", {}, 2, Timeouts(20, 20), Provision(max_memory=1.0)) as pool:
        for worker in (0, 1):
            ask(pool, worker, reset("train-1"))
        failed = ask(pool, 0, {"do": "step", "action": "eat 2000"})
        assert failed.kind == "error" and failed.message.startswith("MemoryError")
        assert ask(pool, 1, {"do": "step", "action": "eat 100"}).kind == "ok", "the other goes on"
        assert ask(pool, 0, reset("train-1")).kind == "ok"
    with EnvPool("thirdparty_hungry", {}, 1) as pool:
        ask(pool, 0, reset("train-1"))
        assert ask(pool, 0, {"do": "step", "action": "eat 2000"}).kind == "ok", "without a limit"


def test_an_answer_without_end_ends_its_process(monkeypatch):
    with EnvPool("thirdparty_count", {}, 2) as pool:
        monkeypatch.setattr("openrlhf_agentprm.rollout.spares.LONGEST", 1000)
        found = ask(pool, 0, {"do": "tasks", "split": "train", "first": 0, "count": None})
        assert found.kind == "died" and "answered tasks within 60 s by more than" in found.message
        assert ask(pool, 0, reset("train-1")).kind == "ok"


def test_closing_leaves_no_process():
    pool = EnvPool("thirdparty_faulty", {}, 4, Timeouts(20, 0.5), Provision(spares=1))
    ask(pool, 0, reset("train-20"))
    ask(pool, 0, {"do": "step", "action": "up"})
    pids = [w.pid for w in pool._workers + pool._spares.workers] + [pool._nursery.pid]
    pool.close()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_killing_the_process_that_workers_are_forked_from_costs_the_episodes_in_play_and_no_more(pool):
    ask(pool, 0, reset("train-1"))
    pids, first = [w.pid for w in pool._workers], pool._nursery.pid
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ask(pool, 0, {"do": "step", "action": "up"}).kind == "died"
    for worker in (0, 1):
        assert ask(pool, worker, reset("train-1")).value["observation"] == "at 0"
    assert pool._nursery.pid != first


def test_a_process_that_hangs_instead_of_forking_is_started_anew(pool, monkeypatch):
    fork = Nursery._fork

    def soon(self):
        with monkeypatch.context() as patched:
            patched.setattr("openrlhf_agentprm.rollout.nursery._OWN_LIMIT", 5.0)
            return fork(self)

    first = pool._nursery.pid
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr(Nursery, "_fork", soon)
    ask(pool, 0, reset("train-20"))
    assert ask(pool, 0, {"do": "step", "action": "up"}).kind == "died"
    assert ask(pool, 0, reset("train-1")).kind == "ok" and pool._nursery.pid != first


def test_an_owner_killed_while_the_environment_is_built_leaves_no_process():
    code = (
        "import time\nfrom openrlhf_agentprm.rollout.pool import EnvPool, Nursery, Timeouts\n"
        "Nursery._await_build = lambda own: (own._answers.readline(), print(own.pid, flush=True), time.sleep(60))\n"
        "EnvPool('thirdparty_unbuildable', {'how': 'hang'}, 1, Timeouts(0.1, 1.0))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    zygote = int(owner.stdout.readline())
    assert alive(zygote)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 20
    while alive(zygote) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(zygote)


def test_killing_the_owner_leaves_no_process():
    code = (
        "import time\nfrom openrlhf_agentprm.rollout.pool import EnvPool\npool = EnvPool('thirdparty_count', {}, 3)\n"
        "print(*[w.pid for w in pool._workers], pool._nursery.pid, flush=True)\ntime.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(p) for p in owner.stdout.readline().split()]
    assert all(alive(pid) for pid in pids)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
