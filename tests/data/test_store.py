"""The episode store: nothing lost and nothing twice, whatever dies; bad files named."""

import errno
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn, episode_id, problems_of
from openrlhf_agentprm.data.journal import Journal
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter


def episode(n, **changes):
    values = dict(
        env="counter", task_id=f"t{n}", split="train", seed=0, sample=0, policy="p", policy_digest="d", sampling={"temperature": 1.0},
        status=Status.SUCCESS, outcome=1.0, terminated=True, truncated=False, token_ids=[1, 2, 3, 4, 5], logprobs=[0.0, 0.0, -0.5, 0.0, -1.0],
        turns=[Turn("obs", "go", 2, 3), Turn("see ✓", "stop", 4, 5, reward=1.0)],
    )  # fmt: skip
    return Episode(**(values | changes))


def test_round_trip_and_datasets(tmp_path):
    with EpisodeWriter(tmp_path, shard_size=2) as writer:
        assert [writer.add(episode(n)) for n in (0, 1, 2, 1)] == [True, True, True, False]
    assert list(EpisodeStore(tmp_path).episodes()) == [episode(0), episode(1), episode(2)] or len(EpisodeStore(tmp_path)) == 3
    assert sorted(e.task_id for e in EpisodeStore(tmp_path).episodes()) == ["t0", "t1", "t2"]
    import datasets

    (tmp_path / ".collect.json").write_text("{}")
    with EpisodeWriter(tmp_path) as writer:  # a collection that is under way does not disturb
        writer.add(episode(3))
        loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / ".cache"))
    assert len(loaded) == 3 and loaded[0]["turns"][1]["observation"] == "see ✓" and loaded[0]["token_ids"] == [1, 2, 3, 4, 5]


def test_an_outcome_is_reached_in_the_numbers_that_stores_keep(tmp_path):
    with EpisodeWriter(tmp_path) as writer:
        writer.add(episode(0, outcome=0.7))
    (kept,) = EpisodeStore(tmp_path).episodes()
    assert kept.outcome < 0.7 and kept.reaches(0.7) and not kept.reaches(0.70001) and episode(0, outcome=0.7).reaches(0.7)


def test_identity():
    base = dict(env="e", task_id="t", seed=0, sample=0, policy_digest="d", sampling={"temperature": 1.0})
    one = episode_id(**base)
    assert one == episode_id(**base)
    for change in (
        dict(policy_digest="retrained"),
        dict(sample=1),
        dict(sampling={"temperature": 0.5}),
        dict(task_id="u"),
        dict(seed=1),
    ):
        assert episode_id(**(base | change)) != one


def test_a_live_writers_journal_is_read_and_left_alone(tmp_path):
    first = EpisodeWriter(tmp_path)
    first.add(episode(0))
    assert len(EpisodeStore(tmp_path)) == 1
    with EpisodeWriter(tmp_path) as second:
        assert not second.add(episode(0)) and second.add(episode(1))
    first.add(episode(2))
    first.close()
    assert len(EpisodeStore(tmp_path)) == 3


def test_what_becomes_a_shard_while_a_store_is_read_is_not_missed(tmp_path):
    writer = EpisodeWriter(tmp_path)
    for n in range(2):
        writer.add(episode(n))
    writer.flush()
    writer.add(episode(2))
    rows = EpisodeStore(tmp_path).rows()
    found = [next(rows)["task_id"]]
    writer.add(episode(3))
    writer.close()
    found += [row["task_id"] for row in rows]
    assert sorted(found) == ["t0", "t1", "t2"]


def test_numbers_that_no_column_holds_are_refused_and_the_store_stays_open(tmp_path):
    with EpisodeWriter(tmp_path) as writer:
        writer.add(episode(0))
        for wrong in ({"seed": 1 << 63}, {"iteration": 1 << 31}):
            with pytest.raises(UserError, match=f"the episode of task 't1' with .*{list(wrong.values())[0]}.* cannot be stored in"):
                writer.add(episode(1, **wrong))
        writer.add(episode(1))
    assert len(EpisodeStore(tmp_path)) == 2


def test_a_new_journal_that_another_writer_took_for_a_dead_ones_is_made_again(tmp_path, monkeypatch):
    lock, taken = fcntl.flock, []

    def late(file, how):
        if not taken:
            taken.append(file)
            (path,) = tmp_path.glob(".journal-*")
            path.unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    writer = EpisodeWriter(tmp_path)
    writer.add(episode(0))
    assert taken and len(EpisodeStore(tmp_path)) == 1, "it is in a file that others see"
    writer.close()


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from data.test_store import episode
from openrlhf_agentprm.data.store import EpisodeWriter
with EpisodeWriter(sys.argv[1], shard_size=7) as writer:
    for n in range(100_000):
        if writer.add(episode(n)):
            print(n, flush=True)
"""


def test_killed_at_random_moments_nothing_is_lost_and_nothing_twice(tmp_path):
    rng, told = random.Random(0), set()
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "tests"], stdout=subprocess.PIPE, text=True)
        told.add(int(process.stdout.readline()))
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        told |= {int(line) for line in process.stdout.read().split("\n")[:-1] if line}
        process.wait()
    EpisodeWriter(tmp_path).close()
    found = [e.task_id for e in EpisodeStore(tmp_path).episodes()]
    assert len(found) == len(set(found))
    assert {f"t{n}" for n in told} <= set(found)
    assert set(found) == {f"t{n}" for n in range(len(found))}, "a gap: a finished episode was lost"
    assert not list(tmp_path.glob(".journal-*")) and not list(tmp_path.glob(".*.tmp"))


INTERRUPTED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from data.test_store import episode
import openrlhf_agentprm
from openrlhf_agentprm.data.store import EpisodeWriter
package = os.path.dirname(openrlhf_agentprm.__file__)
moment = left = 0
def trace(frame, event, argument):
    global left
    if not frame.f_code.co_filename.startswith(package):
        return None
    left -= event == "line"
    if left == 0 and event == "line":
        sys.settrace(None)
        raise KeyboardInterrupt
    return trace
def write(folder):
    rows = iter(range(3))
    def write_and_note(file, line, write=os.write):
        written = write(file, line)
        os.mkdir(f"{folder}-{next(rows)}")
        return written
    os.write = write_and_note
    sys.settrace(trace)
    try:
        with EpisodeWriter(folder, shard_size=2) as writer:
            for n in range(3):
                writer.add(episode(n))
    except KeyboardInterrupt:
        return 130
    return 0
status = 130
while status == 130:
    moment = left = moment + 1
    child = os.fork()
    if child == 0:
        try:
            os._exit(write(f"{sys.argv[1]}/{moment}"))
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(moment)
sys.exit(status)
"""


def test_ctrl_c_at_any_line_loses_nothing(tmp_path):
    """Raised before every single line of ours that writing runs: adding, turning the journal into a shard, closing."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), "tests"], stdout=subprocess.PIPE, text=True, check=True, timeout=1200
    )
    assert int(done.stdout) > 100
    for moment in range(1, int(done.stdout) + 1):
        folder = tmp_path / str(moment)
        written = {f"t{n}" for n in range(3) if (tmp_path / f"{moment}-{n}").exists()}
        for _ in range(2):
            found = [e.task_id for e in EpisodeStore(folder, allow_empty=True).episodes()]
            assert len(found) == len(set(found)) and written <= set(found), moment
            EpisodeWriter(folder).close()
        assert not list(folder.glob(".*")), moment


def test_a_torn_journal_line_is_dropped(tmp_path):
    writer = EpisodeWriter(tmp_path)
    writer.add(episode(0))
    with writer._journal.path.open("ab") as file:
        file.write(b'{"episode_id": "half')
    os.close(writer._journal._file)  # the writer dies: its lock goes
    EpisodeWriter(tmp_path).close()
    assert len(EpisodeStore(tmp_path)) == 1


def test_a_row_that_does_not_fit_is_an_error_and_costs_nothing(tmp_path):
    """The kernel cuts the write short, as on a full disk: here at a limit of the file's size."""
    journal = Journal(tmp_path / ".journal-x.jsonl")
    journal.append({"n": 0})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            journal.append({"n": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.ENOSPC
    journal.append({"n": 2})
    assert journal.path.read_text() == '{"n":0}\n{"n":2}\n'


def test_bad_folders_and_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no episode store at"):
        EpisodeStore(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no episode"):
        EpisodeStore(tmp_path)
    with EpisodeWriter(tmp_path, shard_size=1) as writer:
        writer.add(episode(0))
        writer.add(episode(1))
    torn = EpisodeStore(tmp_path).shards()[0]
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{torn.name} cannot be read as Parquet"):
        EpisodeStore(tmp_path).ids()


def test_problems_are_told_with_their_place():
    bad = episode(0, turns=[Turn("o", "a", 2, 2), Turn("o", "a", 3, 9, reward=float("nan"))], outcome=float("nan"), logprobs=[0.0])
    told = "\n".join(problems_of(bad))
    for part in (
        "turn 0 has no token",
        "turn 1 spans [3, 9) of 5 tokens",
        "turn 1 has the reward nan",
        "its outcome is nan",
        "1 log-prob",
    ):
        assert part in told
    assert "no action" in problems_of(episode(0, turns=[]))[0]
    assert problems_of(episode(0)) == []


def test_several_stores_are_read_as_one(tmp_path):
    for name, numbers in (("a", (0, 1)), ("b", (1, 2))):
        with EpisodeWriter(tmp_path / name) as writer:
            for n in numbers:
                writer.add(episode(n))
    both = EpisodeStore(f"{tmp_path / 'a'}, {tmp_path / 'b'}")
    assert sorted(e.task_id for e in both.episodes()) == ["t0", "t1", "t2"] and both.rows_in_shards() == 4, "each once"
    with pytest.raises(UserError, match=rf"no episode store at {tmp_path}/c"):
        EpisodeStore(f"{tmp_path / 'a'},{tmp_path / 'c'}")
    odd = tmp_path / "a,b"
    with EpisodeWriter(odd) as writer:
        writer.add(episode(5))
    assert len(EpisodeStore(odd)) == 1, "a folder's own name may have a comma"
