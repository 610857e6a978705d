"""PPO runs of which a process is killed: the run as a user starts it, its processes by what they do, and what is left of it."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from host.test_ppo import SMALL, steps

TITLES = {
    "trainer": "ray::PPOTrainer",
    "PRM worker": "ray::PRMModelActor",
    "policy worker": "ray::PolicyModelActor",
    "rollout actor": "ray::RolloutRayActor",
    "engine core": "VLLM::EngineCor",
    "vLLM worker": "VLLM::Worker",
    "raylet": "raylet/raylet",
}
KINDS = ["driver", "environment", *TITLES]


def flags(folder, policy, *, tasks=128):
    """A policy, a PRM in a worker group, environments; a checkpoint at each step."""
    game = [
        "--env.name",
        "thirdparty_noted",
        "--env.args",
        f'{{"file": "{folder}/played"}}',
        "--env.num_tasks",
        tasks,
        "--env.max_turns",
        3,
    ]
    return [
        *SMALL, *game, "--env.max_tokens_per_turn", 4, "--env.num_workers", 4, "--actor.model_name_or_path", policy,
        "--prm.name", "thirdparty_position", "--prm.model_name_or_path", "nowhere", "--train.colocate_all",
        "--algo.advantage.estimator", "thirdparty_constant", "--ckpt.output_dir", folder / "out", "--ckpt.path", folder / "state",
        "--ckpt.save_steps", 1, "--algo.kl.init_coef", 0, "--ckpt.max_num", 2, "--ckpt.load_enable",
    ]  # fmt: skip


@dataclass
class Run:
    """One start of the command; its output goes to a file."""

    folder: Path
    flags: list
    environment: dict = field(default_factory=dict)

    def start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        line = [str(x) for x in (sys.executable, "-m", "openrlhf_agentprm.cli.train_ppo_ray", *self.flags)]
        with self.log.open("w") as log:
            self.driver = psutil.Popen(line, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self.environment})
        self.family = {}
        return self

    def text(self):
        return self.log.read_text(errors="replace")

    def reach(self, count, limit=900):
        """Until this start has finished so many steps, or has ended."""
        end = time.monotonic() + limit
        while len(steps(self.text())) < count and self.driver.poll() is None:
            assert time.monotonic() < end, self.text()[-3000:]
            time.sleep(0.5)

    def look(self):
        """Note every process that the run has by now; those that Ray or vLLM hands to another parent stay known."""
        for process in [self.driver, *self.family.values()]:
            try:
                self.family |= {child.pid: child for child in process.children(recursive=True)}
            except psutil.Error:
                continue

    def find(self, kind):
        """The first process that does this."""
        self.look()
        if kind == "driver":
            return self.driver
        for process in self.family.values():
            try:
                line, parent = " ".join(process.cmdline()), process.parent()
                if kind == "environment":
                    if "rollout.zygote" in line and parent and "rollout.zygote" in " ".join(parent.cmdline()):
                        return process
                elif TITLES[kind] in line:
                    return process
            except psutil.Error:
                continue
        raise LookupError(f"no {kind} among {len(self.family)} processes")

    def kill(self, kind):
        found = self.find(kind)
        os.kill(found.pid, signal.SIGKILL)
        return found.pid

    def wait(self, limit):
        """(exit code or None where it still waits, seconds)."""
        started = time.monotonic()
        try:
            code = self.driver.wait(limit)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            code = None
        return code, time.monotonic() - started

    def left(self, patience=30):
        """Titles of the processes that are still there so long after the end, but for services of Ray's own."""
        end = time.monotonic() + patience
        while (alive := [p for p in self.family.values() if _is_alive(p) and not _serves_ray(p)]) and time.monotonic() < end:
            time.sleep(0.2)
        return sorted(_title(p) for p in alive)

    def clear(self):
        self.look()
        for process in [self.driver, *self.family.values()]:
            try:
                process.kill()
                process.wait(10)
            except psutil.Error:
                continue


def _is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _serves_ray(process):
    """Its agents, log monitor and the like, which try for a minute or more to reach a Ray that is gone: tests/host/test_orphans.py."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    titled = bool(line) and line[0].strip() in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return titled or any("/site-packages/ray/" in part for part in line[1:3])


def _title(process):
    try:
        return " ".join(process.cmdline())[:60]
    except psutil.Error:
        return "?"


STEPS, PROMPTS = 24, 8  # three kills take seven steps each at most


@dataclass
class Chain:
    """Starts of one command, each of which goes on where the one before it was killed."""

    folder: Path
    policy: Path
    rng: random.Random

    def __post_init__(self):
        self.began = {}  # step: the tasks that were begun in it, by start
        self.before, self.told = (1, []), 0  # first step and tasks of the last start, and the last step that it has told of

    def start(self):
        noted = self.folder / "played"
        self.seen = len(noted.read_text().split()) if noted.exists() else 0
        self.run = Run(self.folder, flags(self.folder, self.policy, tasks=STEPS * PROMPTS)).start()
        return self.run

    def kill(self, kind, limit=180):
        """Kill it at a random moment of the four steps behind its second one; what came of it, as a row of a table."""
        self.run.reach(2)  # a step is told before it is saved, and the first one is slow
        told = steps(self.run.text())
        assert told, f"the run ended by itself: {self.run.text()[-3000:]}"
        time.sleep(self.rng.uniform(0, 4) * min(step["timing/step_total"] for step in told.values()))
        try:
            pid = self.run.kill(kind)
        except LookupError:
            if max(steps(self.run.text())) < STEPS or self.run.wait(60)[0] is None:
                raise
            return None  # it was coming to its end
        at = max(steps(self.run.text()))
        code, seconds = (None, 0.0) if kind == "environment" else self.run.wait(limit)
        last = [line for line in self.run.text().splitlines() if line.startswith("error: ")]
        return {"killed": kind, "pid": pid, "step": at, "code": code, "seconds": seconds, "told": last[-1] if last else ""}

    def note(self):
        """What this start has finished, and that each step took the tasks that it takes in any other start.

        A driver that is killed takes the last lines of its log with it; a step behind which the next start goes on was finished too.
        """
        found = steps(self.run.text())
        first, tasks = min(found), list(dict.fromkeys((self.folder / "played").read_text().split()[self.seen :]))
        for number in range(self.told + 1, first):
            self._finished(number, *self.before)
        for number in sorted(found):
            self._finished(number, first, tasks)
        self.before, self.told = (first, tasks), max(found)
        return found

    def _finished(self, number, first, tasks):
        at = (number - first) * PROMPTS
        self.began.setdefault(number, []).append(frozenset(tasks[at : at + PROMPTS]))

    def whole(self):
        """Every step was finished, a repeated one with the same tasks, and each task belongs to one step."""
        told = [sets[0] for _, sets in sorted(self.began.items())]
        same = all(len(set(sets)) == 1 for sets in self.began.values())
        return sorted(self.began) == list(range(1, STEPS + 1)) and same and len(frozenset().union(*told)) == STEPS * PROMPTS
