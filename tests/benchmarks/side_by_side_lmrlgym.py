"""The adapter alone on AgentGym's maze and wordle server: whole episodes, to each of their ends."""

import random
import re

from openrlhf_agentprm.envs.agentgym.http import ServerError


def maze(args, score_of, adapter):
    """The adapter alone: every start explored to the goal, and one played into the limit."""
    env = adapter(args, "maze")
    ways = {"move up": (-1, 0), "move down": (1, 0), "move left": (0, -1), "move right": (0, 1)}
    for number in range(26):
        score = score_of(f"maze_{number}")
        if number == 25:  # start and goal are one, which the server refuses without a word
            try:
                env.reset(f"maze_{number}")
                score.hold("start", "an error", "an episode", "maze_25")
            except ServerError:
                score.named["refused by the server"] += 1
            yield score
            continue
        text, _ = env.reset(f"maze_{number}")
        seen, way, turn, told = set(), [], 0, None
        while told is None or not (told[2] or told[3]):
            row, column = map(int, re.search(r"current position is at position (\d+), (\d+)", text).groups())
            seen.add((row, column))
            walls = {w for w, said in zip(ways, ("above you", "below you", "to your left", "to your right"), strict=True) if said in text}
            open_ = [w for w, (dy, dx) in ways.items() if w not in walls and (row + dy, column + dx) not in seen]
            back = {"move up": "move down", "move down": "move up", "move left": "move right", "move right": "move left"}
            way, action = ([*way, open_[0]], open_[0]) if open_ else (way[:-1], back[way[-1]])
            told = env.step("move up" if number == 0 else action)
            text, turn = told[0], turn + 1
        score.count["episodes"], score.count["answers"] = 1, turn
        ended, what = (told[2], told[3], told[4]["success"]), "51 times up, into a wall" if number == 0 else f"maze_{number}, explored"
        score.hold("end", ended, (False, True, False) if number == 0 else (True, False, True), what)
        score.named["limit" if told[3] else "success"] += 1
        yield score


def wordle(args, score_of, adapter):
    """The adapter alone: words that the server's list has left, but in the first game one word, to its end."""
    env = adapter(args, "wordle")
    score = score_of("wordle")
    for seed in range(args.seeds):
        text, _ = env.reset(f"wordle_{seed}")
        rng, told = random.Random(f"player {seed}"), None  # the server draws the word from the seed itself
        while told is None or not (told[2] or told[3]):
            words = env.env._session.get("filtered_vocab")
            words = words if isinstance(words, list) else ["crane"]
            if seed == 0:
                words = ["shire"]  # again and again, until the six tries are over
            told = env.step(" ".join(rng.choice([w.strip() for w in words if len(w.strip()) == 5] or ["crane"])) + "\n")
            score.count["answers"] += 1
        score.count["episodes"] += 1
        score.hold("success", told[4]["success"], seed != 0, f"wordle_{seed}")
        score.named["success" if told[4]["success"] else "failure"] += 1
    yield score
