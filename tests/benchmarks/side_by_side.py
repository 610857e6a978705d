"""Our environments beside AgentGym's servers: the same tasks and actions in both, and every answer compared.

    python tests/benchmarks/side_by_side.py babyai --server http://127.0.0.1:36002 [--levels GoToRedBall,Open] [--seeds 3]
    python tests/benchmarks/side_by_side.py alfworld --server http://127.0.0.1:36005 --data HOME/.cache/alfworld --configs agentenv-alfworld/configs
    python tests/benchmarks/side_by_side.py textcraft --server http://127.0.0.1:36001 --recipes agentenv_textcraft/recipes --seeds 100
    python tests/benchmarks/side_by_side.py maze --server http://127.0.0.1:36003     (or wordle: whole episodes of the adapter alone)

Each task is played by our expert, and by seeded players that mix its actions with admissible and invalid ones. A line a level tells how many
answers were equal; the first difference is shown in full. What docs/environments/agentgym.md names as ours on purpose is counted by its
name; any other difference ends the command with 1. `side_by_side_games.py` makes games for the alfworld server.
"""

import argparse
import contextlib
import functools
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from side_by_side_lmrlgym import maze, wordle
from side_by_side_textcraft import textcraft

from openrlhf_agentprm.envs.babyai.levels import AGENTGYM_LEVELS
from openrlhf_agentprm.envs.babyai.view import describe_compact, describe_full, look
from openrlhf_agentprm.envs.base import make_env

ODD = ("dance", "", " ", "check", "please check it", "drop", "toggle", "move forward", "Turn Left ", "pickup", "go to red ball 1", "go to goal",
       "pickup blue box 2", "toggle and go through red locked door 1", "go through green closed door 1", "help", "go to cabinet 1", "inventory ",
       "Look", "take mug 1 from desk 1", "put apple 1 in/on fridge 1", "ünïcode 🎲", "x" * 500)  # fmt: skip


class Score:
    """What was compared in a level."""

    def __init__(self, name):
        self.name, self.count, self.first, self.named = name, Counter(), "", Counter()

    def hold(self, what, ours, theirs, told):
        """Whether two are equal; else it is noted."""
        self.count["answers"] += what == "observation"
        if ours == theirs:
            return True
        self.count["differ"] += 1
        self.first = self.first or f"{told}: {what}\n    ours   {ours!r}\n    server {theirs!r}"
        return False

    def line(self):
        verdict = f"{self.count['differ']} DIFFER, first in {self.first}" if self.count["differ"] else "equal"
        named = "".join(f"; {name} ×{n}" for name, n in sorted(self.named.items()))
        return f"{self.name}: {self.count['episodes']} episodes, {self.count['answers']} answers, {verdict}{named}"


class Timed:
    """The adapter, with its requests counted and timed."""

    requests, seconds = 0, 0.0

    def __init__(self, env):
        self.env = env

    def _call(self, work):
        started = time.perf_counter()
        found = work()
        Timed.requests, Timed.seconds = Timed.requests + 1, Timed.seconds + time.perf_counter() - started
        return found

    def reset(self, task):
        return self._call(lambda: self.env.reset(options={"task_id": task}))

    def step(self, action):
        return self._call(lambda: self.env.step(action))


def adapter(args, profile):
    return Timed(make_env("agentgym", server=args.server, profile=profile, reset_s=900, step_s=900))


def play(score, ours, theirs, rng, turns, told, share, see=lambda text: None):
    """One episode from where both stand, with a share of expert's actions; ends with it, or at the first difference."""
    score.count["episodes"] += 1
    for turn in range(turns):
        action = None
        if rng.random() < share:
            signal.setitimer(signal.ITIMER_VIRTUAL, 1)
            with contextlib.suppress(Exception):  # minigrid's bot gives up or searches for ever on some levels, and behind others' moves
                action = ours.expert_action()
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            share = share if action is not None else 0
        if action is None:
            listed = ours.admissible_actions()
            action = rng.choice(listed) if rng.random() < 0.75 else rng.choice([*ODD, *refused(ours)])
        mine, yours = ours.step(action), theirs.step(action)
        at = f"{told}, turn {turn}, {action!r}"
        same = [score.hold("observation", mine[0], yours[0], at), score.hold("reward", round(mine[1], 12), round(yours[1], 12), at)]
        same += [score.hold("end", mine[2:4], yours[2:4], at)]
        same += [score.hold(key, mine[4][key], yours[4][key], at) for key in ("success", "valid_action")]
        over = mine[2] or mine[3] or yours[2] or yours[3]
        if not over:
            same.append(score.hold("available actions", ours.admissible_actions(), theirs.env.admissible_actions(), at))
            see(mine[0])
        if not all(same):
            return
        if over:
            late = "" if yours[4]["answer"]["done"] else ", late (the server's done is false)"
            score.named["step limit" if yours[3] else "success" + late if yours[4]["success"] else "failure"] += 1
            return
    score.named["still going, without a limit"] += 1


def too_long(*_):
    raise TimeoutError


def refused(ours):
    """Actions that the server refuses with a reason of their own."""
    server = getattr(ours.unwrapped, "_server", None)
    return list(server._refusals) if server else []


def babyai(args):
    levels = args.levels.split(",") if args.levels else AGENTGYM_LEVELS
    ours, theirs = (
        make_env("babyai", levels="agentgym", rules="agentgym"),
        adapter(args, "babyai"),
    )
    for level in levels:
        score = Score(level)
        for seed in range(args.first, args.first + args.seeds):
            for player, share in (("expert", 1), ("mixed", 0.3)):
                task, number = f"{level}/{seed}", AGENTGYM_LEVELS.index(level) + 40 * seed
                yours, _ = theirs.reset(f"babyai_{number}")
                mine = begun(ours, task)
                if mine != yours and begun(ours, task, as_2_3_1=True) == yours:
                    score.named["room of an earlier mission (minigrid 2.3.1)"] += 1
                    mine = yours
                if score.hold("observation", mine, yours, f"{task}, start"):
                    rng = random.Random(f"{task}/{player}")
                    turns = 60 if seed == 0 or player == "expert" else 25
                    play(score, ours, theirs, rng, turns, f"{task} {player}", share, lambda text: styles(score, ours, text))  # noqa: B023
        yield score


def begun(ours, task, as_2_3_1=False):
    """The first observation with the goal. minigrid 2.3.1 keeps the locked room of the mission before, and the server resets twice."""
    level, seed = task.split("/")
    ours._built.clear()
    if as_2_3_1:
        ours._start(level, int(seed))
        kind = type(ours._built[level])
        forgets_none = lambda self, room: self.__dict__.update(locked_room=room or self.__dict__.get("locked_room"))  # noqa: E731
        ours._built[level].__class__ = type(
            kind.__name__, (kind,), {"locked_room": property(lambda self: self.__dict__.get("locked_room"), forgets_none)}
        )
        ours._start(level, int(seed))
    text, info = ours.reset(options={"task_id": task})
    return f"{info['instruction']}\n{text}"


SEEN = re.compile(
    r"There is a (\w+) (?:(open|closed|locked) )?(\w+) \d+ (right in front of you \d+|\d+ steps in front of you and \d+ steps to your \w+)"
)
NAMED = re.compile(r"(?:(open|closed|locked) )?(\w+) (ball|box|key|door) \d+")


def styles(score, ours, text):
    """What the two observation styles of our own rules tell of this state, beside what the server tells."""
    if not text.startswith(("In front", "You cannot see")):
        return
    view = look(ours.grid_env)
    full, compact = describe_full(view, ours.grid_env), describe_compact(view, ours.grid_env)
    facts = [(color, state, kind, place) for color, state, kind, place in SEEN.findall(text)]
    rest = lambda told: (re.findall(r"facing a \w+ \d+", told), re.findall(r"carrying a[^.]*", told))  # noqa: E731
    score.hold("full style", (SEEN.findall(full), *rest(full)), (facts, *rest(text)), "styles")
    listed = NAMED.findall(compact.partition(". ")[0])
    score.hold("compact style", listed, [(state, color, kind) for color, state, kind, _ in facts], "styles")
    score.count["styles"] += 1


def alfworld(args):
    ours = make_env("alfworld", data_dir=args.data, rules="agentgym")
    theirs = adapter(args, {"base": "alfworld", "shown_actions": "none"})
    rows = json.loads((Path(args.configs) / "mappings_train.json").read_text())
    for row in rows[args.first : args.first + args.seeds]:
        task = f"{row['task_type']}/{row['task_id']}"
        score = Score(task)
        for player, share in (("expert", 1), ("mixed", 0.3), ("random", 0)):
            mine, info = ours.reset(options={"task_id": task})
            yours, _ = theirs.reset(f"alfworld_{row['item_id']}")
            same = score.hold("observation", f"{mine}\n{info['instruction']}", yours, "start")
            same &= score.hold("available actions", ours.admissible_actions(), theirs.env.admissible_actions(), "start")
            if same:
                play(score, ours, theirs, random.Random(f"{task}/{player}"), 60, player, share)
        yield score


WORLDS = {"babyai": babyai, "alfworld": alfworld} | {
    name: functools.partial(world, score_of=Score, adapter=adapter)
    for name, world in (("textcraft", textcraft), ("maze", maze), ("wordle", wordle))
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--server", required=True)
    parser.add_argument("--levels", default="")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--data")
    parser.add_argument("--configs")
    parser.add_argument("--recipes")
    args = parser.parse_args()
    if unknown := [level for level in filter(None, args.levels.split(",")) if level not in AGENTGYM_LEVELS]:
        parser.error(f"AgentGym has no levels {', '.join(unknown)}; it has {', '.join(AGENTGYM_LEVELS)}")
    signal.signal(signal.SIGVTALRM, too_long)
    count, named = Counter(), Counter()
    for score in WORLDS[args.world](args):
        print(score.line(), flush=True)
        count += score.count
        named += score.named
    print(f"all: {dict(count)}; {dict(named)}; {Timed.requests / max(Timed.seconds, 1e-9):.0f} requests/s of one instance")
    return 1 if count["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
