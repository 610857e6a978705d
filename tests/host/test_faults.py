"""kill -9 of an engine, a PRM worker, the driver and an environment, at random moments of one PPO run, which goes on each time."""

import random

import pytest
from faults import Chain

pytestmark = pytest.mark.host
NAMED = {"engine core": "the vLLM engine 0 (process", "PRM worker": "a PRM worker (process {pid} on the node"}


def test_a_run_that_is_killed_over_and_over_finishes_every_step_once(tiny, tmp_path):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chain = Chain(tmp_path, tiny, random.Random(seed))
    for kind in ("engine core", "PRM worker", "driver", "environment"):
        run = chain.start()
        try:
            row = chain.kill(kind)
            if kind == "environment":
                code, _ = run.wait(300)
                assert code == 0, run.text()[-3000:]
            else:
                _ended_by(kind, row, run)
        finally:
            run.clear()
        chain.note()
    assert chain.whole(), chain.began


def _ended_by(kind, row, run):
    assert row, f"the run had ended before the {kind} was killed"
    if kind == "driver":
        assert row["code"] == -9
    else:
        assert row["code"] == 1, (row, run.text()[-3000:])
        assert NAMED[kind].format(pid=row["pid"]) in row["told"] and "saved last: global_step" in row["told"], row
        assert "to continue behind it: python -m openrlhf_agentprm.cli.train_ppo_ray" in row["told"]
    left = run.left(180)  # seconds, of a busy machine
    assert not left, (kind, left)
