"""kill -9 of every kind of process of a PPO run at random moments: how each run ended, what it said, what it left, and whether it went on.

    python tests/benchmarks/faults.py [KILLS] [SEED]

One run of 24 steps after the other, each started again with the same command until it is through; on a CPU it is the tiny policy of the tests.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def main(kills=20, seed=0):
    from faults import KINDS, Chain
    from launching import module

    plugins = str(Path(__file__).parent.parent / "plugins")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [plugins, os.environ.get("PYTHONPATH", "")]))
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp") as folder:  # short: the paths of Ray's sockets
        os.environ["RAY_TMPDIR"] = folder
        policy = Path(folder) / "tiny"
        module("tiny_policy", "--env.name", "thirdparty_count", "--env.num_tasks", 20, "--tiny.output", policy)
        kinds = [kind for _ in range(kills) for kind in rng.sample(KINDS, len(KINDS))][:kills]
        print("| killed | after step | exit code | after | named | left behind |\n|---|---|---|---|---|---|", flush=True)
        number = 0
        while kinds:
            number += 1
            print(f"run {number}: {'whole' if play(Chain(Path(folder) / str(number), policy, rng), kinds) else 'NOT WHOLE'}", flush=True)


def play(chain, kinds):
    """One run to its end, with kills on its way; True if every step was finished with tasks of its own."""
    from faults import KINDS, TITLES

    while True:
        run, row = chain.start(), None
        try:
            try:
                row = chain.kill(kinds[0]) if kinds else None
            except LookupError as error:  # such as a worker of vLLM's, where its core is the only one
                print(f"| {kinds[0]} | {error} | | | | |", flush=True)
                kinds[0] = chain.rng.choice([kind for kind in KINDS if kind != kinds[0]])  # KILLS are kills
            if row:
                del kinds[0]
            if row is None or row["killed"] == "environment":
                code, _ = run.wait(900)
                if row:
                    row |= {"code": code}
            else:
                code = row["code"]
            left = run.left(60)
        finally:
            run.clear()
        chain.note()
        if row:
            named = (
                "-"
                if row["killed"] not in TITLES
                else "yes"
                if f"process {row['pid']} " in row["told"] or "engine" in row["told"] or "its raylet" in row["told"]
                else "NO"
            )
            print(
                f"| {row['killed']} | {row['step']} | {row['code']} | {row['seconds']:.1f} s | {named} | {len(left)} {left[:2]} |",
                flush=True,
            )
        if code == 0:
            return chain.whole()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
