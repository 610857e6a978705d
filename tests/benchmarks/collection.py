"""What a collection loses and costs: environments that break, a collector that is killed, and the store's own speed.

    python tests/benchmarks/collection.py faulty [EPISODES]   5 % of them raise, 5 % hang, 1 % kill their process
    python tests/benchmarks/collection.py kills [KILLS] [SEED] kill -9 of the collector at random moments
    python tests/benchmarks/collection.py store [TURNS]        episodes written by one core, and a store of so many turns opened
    python tests/benchmarks/collection.py steps [EPISODES]     steps/s of a worker beside those of the environment alone

The first two are the real command with the tiny policy of the tests, by vLLM.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy
import psutil

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))
_PLAY = ["--env.max_turns", 3, "--env.max_tokens_per_turn", 4, "--data.max_len", 128]


def policy(folder):
    from launching import module

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS / "plugins"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))
    module("tiny_policy", "--env.name", "thirdparty_count", "--env.num_tasks", 20, "--tiny.layers", 2, "--tiny.output", folder / "tiny")
    return folder / "tiny"


def start(log, *flags):
    line = [sys.executable, "-m", "openrlhf_agentprm.cli.collect", *map(str, flags)]
    with log.open("a") as file:
        return psutil.Popen(line, stdout=file, stderr=file, start_new_session=True)


def faulty(folder, episodes=10_000):
    """Every other episode is there, counts are exact, memory stays, no process is left."""
    from openrlhf_agentprm.data.store import EpisodeStore

    tasks = 500
    flags = [
        "--env.name", "thirdparty_accidents", "--env.num_tasks", tasks, *_PLAY, "--env.num_workers", 64, "--env.step_timeout", 2,
        "--env.max_retries", 0, "--policy.model_name_or_path", policy(folder), "--collect.output", folder / "store",
        "--collect.n_samples_per_task", episodes // tasks,
    ]  # fmt: skip
    began = time.monotonic()
    run = start(folder / "log", *flags)
    memory, zombies, family = [], 0, {}
    while run.poll() is None:
        done = len(EpisodeStore(folder / "store", allow_empty=True).ids()) if (folder / "store").is_dir() else 0
        children = run.children(recursive=True)
        family |= {child.pid: child for child in children}
        zombies = max(zombies, sum(_status(child) == psutil.STATUS_ZOMBIE for child in children))
        memory.append((done, _megabytes(run), sum(map(_megabytes, children))))
        time.sleep(3)
    seconds = time.monotonic() - began
    assert run.returncode == 0, (folder / "log").read_text()[-3000:]
    rows = list(EpisodeStore(folder / "store").rows(["episode_id", "task_id", "status"]))
    wanted = {"env_error": 6 * episodes // 100, "timeout": 5 * episodes // 100}
    found = {name: sum(row["status"] == name for row in rows) for name in wanted}
    right = all((row["status"] in wanted) == (int(row["task_id"].rpartition("-")[2]) % 100 < 11) for row in rows)
    early = next(m for m in memory if m[0] >= episodes // 4)
    left = [p for p in family.values() if _status(p) not in (None, psutil.STATUS_ZOMBIE)]
    ids = {row["episode_id"] for row in rows}
    print(f"{len(rows)} episodes ({len(ids)} ids) in {seconds:.0f} s; {found}, wanted {wanted}; each by its task: {right}")
    most = [max(m[place] for m in memory if m[0] >= early[0]) for place in (1, 2)]
    told = zip(("collector", "its children"), early[1:], most, strict=True)
    print(f"MB at {early[0]} episodes and at most from there on:", *(f"{who} {then:.0f} and {now:.0f};" for who, then, now in told))
    print(f"at most {zombies} zombies at a look; processes left: {len(left)}")
    print(json.loads((folder / "store/.collect.json").read_text()))


def _status(process):
    try:
        return process.status()
    except psutil.Error:
        return None


def _megabytes(process):
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0


def kills(folder, count=20, seed=0):
    """The episodes of a run that was killed so often are those of one that was not."""
    from openrlhf_agentprm.data.store import EpisodeStore

    rng, model = random.Random(seed), policy(folder)
    flags = [
        "--env.name", "thirdparty_count", "--env.num_tasks", 500, *_PLAY, "--env.num_workers", 16, "--policy.model_name_or_path", model,
        "--collect.n_samples_per_task", 2 * count, "--collect.shard_size", 64,
    ]  # fmt: skip
    ids_of = lambda name: [row["episode_id"] for row in EpisodeStore(folder / name).rows(["episode_id"])]  # noqa: E731
    whole = start(folder / "whole.log", *flags, "--collect.output", folder / "whole")
    assert whole.wait() == 0, (folder / "whole.log").read_text()[-3000:]
    before: set[str] = set()
    for number in range(count):
        run = start(folder / "killed.log", *flags, "--collect.output", folder / "killed")
        while run.poll() is None and len(EpisodeStore(folder / "killed", allow_empty=True).ids()) <= len(before):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        now = ids_of("killed")
        assert len(now) == len(set(now)) and before < set(now), "an episode was lost, or is there twice"
        before = set(now)
        print(f"kill {number + 1}: {len(now)} episodes", flush=True)
    last = start(folder / "killed.log", *flags, "--collect.output", folder / "killed")
    assert last.wait() == 0, (folder / "killed.log").read_text()[-3000:]
    one, other = sorted(ids_of("whole")), sorted(ids_of("killed"))
    assert one == other, f"{len(one)} episodes without a kill, {len(other)} with {count}"
    print(f"{len(one)} episodes without a kill, and the same with {count}")


def store(folder, turns=1_000_000, per_episode=10, tokens=400):
    """Turns a second of one writer, and the time in which a store of so many turns is opened."""
    from openrlhf_agentprm.data.episode import Episode, Status, Turn
    from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter

    rng = numpy.random.default_rng(0)
    told = ["You see a red ball 3 steps in front of you and a door on your left. " * 2, "go to the red ball"]
    width = tokens // per_episode

    def episode(number):
        spans = [(width * k + width - 8, width * (k + 1)) for k in range(per_episode)]
        return Episode(
            env="e", task_id=f"t{number}", split="train", seed=0, sample=0, policy="p", policy_digest="d", sampling={"temperature": 1.0},
            status=Status.SUCCESS, outcome=1.0, terminated=True, truncated=False,
            token_ids=rng.integers(0, 50_000, tokens).tolist(), logprobs=(-rng.random(tokens, dtype="float32")).tolist(),
            turns=[Turn(*told, start, end) for start, end in spans],
        )  # fmt: skip

    count = turns // per_episode
    wall, cpu = time.monotonic(), time.process_time()
    with EpisodeWriter(folder / "store") as writer:
        for number in range(count):
            writer.add(episode(number))
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    size = sum(f.stat().st_size for f in (folder / "store").iterdir()) / 2**20
    print(
        f"{turns} turns in {count} episodes of {tokens} tokens: {turns / wall:.0f} turns/s, {turns / cpu:.0f} by CPU-seconds; {size:.0f} MB"
    )
    for name, opened in (
        ("opened, and its rows counted", lambda: EpisodeStore(folder / "store").rows_in_shards()),
        ("its ids read", lambda: len(EpisodeStore(folder / "store"))),
        ("opened to write on", lambda: len(EpisodeWriter(folder / "store").ids)),
    ):
        began = time.monotonic()
        found = opened()
        print(f"{name}: {found} in {time.monotonic() - began:.2f} s", flush=True)


def steps(folder, episodes=60):
    """The expert's episodes, each in this process and in a worker: steps a second when busy, and processor time when asked now and then."""
    from openrlhf_agentprm.core.errors import UserError
    from openrlhf_agentprm.envs.base import make_env
    from openrlhf_agentprm.rollout.pool import EnvPool

    for name, kwargs in (
        ("babyai", {}),
        ("babyai", {"levels": "reliable", "observation": "full"}),
        ("textcraft", {}),
        ("alfworld", {}),
        ("textworld", {}),
        ("scienceworld", {}),
    ):
        try:
            with EnvPool(name, kwargs, 1) as pool:
                cost, count = _costs(make_env(name, **kwargs), pool, episodes)
        except UserError as error:
            print(f"{name}: {error}")
            continue
        alone, busy, waiting, asked, asking = (1e6 * seconds / count for seconds in cost)
        print(
            f"{name} {kwargs or ''}: {count} steps; kept busy, {1e6 / alone:.0f} a second alone and {1e6 / busy:.0f} by a worker "
            f"({alone / busy:.0%}); with a wait before each, {waiting:.0f} µs of processor alone and {asked:.0f} of a worker "
            f"({waiting / asked:.0%}), {asking:.0f} of who asks",
            flush=True,
        )


def _costs(env, pool, episodes, wait=3e-4):
    """Seconds and steps. Alone and by a worker without a pause, by the clock; then with pauses, by the processor: alone, the worker, who asks."""
    total, count = numpy.zeros(5), 0
    for task in pool.tasks("train", 0, episodes):
        actions = _expert_actions(env, task)
        total += (
            _alone(env, task, actions, 0.0, time.perf_counter),
            _ahead(pool, task, actions),
            _alone(env, task, actions, wait, time.thread_time),
            *_asked(pool, task, actions, wait),
        )
        count += len(actions)
    env.close()
    return total, count


def _expert_actions(env, task, most=40):
    actions, ended = [], False
    env.reset(seed=0, options={"task_id": task})
    while not ended and len(actions) < most:
        try:
            actions.append(env.unwrapped.expert_action())
        except Exception:  # an expert that gives up
            break
        _, _, terminated, truncated, _ = env.step(actions[-1])
        ended = terminated or truncated
    return actions


def _alone(env, task, actions, wait, clock):
    env.reset(seed=0, options={"task_id": task})
    spent = 0.0
    for action in actions:
        if wait:
            time.sleep(wait)
        began = clock()
        env.step(action)
        spent += clock() - began
    return spent


def _ahead(pool, task, actions):
    """The next request is there when a step has been answered, and who asks does not sleep: the worker need not wait, nor wake anybody."""
    from openrlhf_agentprm.rollout.wire import encode

    pool.call(0, {"do": "reset", "task_id": task, "seed": 0})
    connection = pool._workers[0].connection
    requests = [encode({"do": "step", "action": action}) for action in actions]
    sent, answered, began = 0, 0, time.perf_counter()
    while answered < len(requests):
        while sent < min(answered + 2, len(requests)):
            connection.sendall(requests[sent])
            sent += 1
        with contextlib.suppress(BlockingIOError):
            answered += connection.recv(1 << 16, socket.MSG_DONTWAIT).count(b"\n")
    return time.perf_counter() - began


def _asked(pool, task, actions, wait):
    pool.call(0, {"do": "reset", "task_id": task, "seed": 0})
    theirs, asking = _processor_time(pool), 0.0
    for action in actions:
        time.sleep(wait)
        began = time.thread_time()
        pool.call(0, {"do": "step", "action": action})
        asking += time.thread_time() - began
    return _processor_time(pool) - theirs, asking


def _processor_time(pool):
    """Seconds that the worker's process has run so far."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pool._workers[0].pid}/task").glob("*/schedstat")) / 1e9


if __name__ == "__main__":
    what, *numbers = sys.argv[1:] or ["?"]
    if what not in ("faulty", "kills", "store", "steps"):
        sys.exit(__doc__)
    place = Path(tempfile.mkdtemp(prefix="collection-", dir="/tmp"))
    try:
        {"faulty": faulty, "kills": kills, "store": store, "steps": steps}[what](place, *map(int, numbers))
    finally:
        shutil.rmtree(place)
