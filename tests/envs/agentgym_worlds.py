"""Games behind the wire formats of AgentGym's servers, with their faults: ours where one fits, else small ones of a few lines.

Each world has `begin(task)`, which gives the fields of a reset's answer, and `act(action)`, which gives those of a step's.
"""

import random
import re
import sqlite3

from openrlhf_agentprm.envs.arithmetic import ArithmeticEnv
from openrlhf_agentprm.envs.textcraft.env import TextCraftEnv

LEVELS = ("GoToRedBallNoDists", "GoToLocalS6N3", "OpenDoorColor")
WALLS = ("#######", "#.....#", "#.###.#", "#G..#.#", "#######")
WORDS = ("shire", "crane", "stone", "grape", "pride", "slate")


class BabyAI:
    """A success behind half of the level's time has done false, play goes on, and each repeated action adds the reward again."""

    def __init__(self, late=False):
        from openrlhf_agentprm.envs.babyai.env import BabyAIEnv

        self.env, self.late, self.score, self.reward = BabyAIEnv(levels=LEVELS, observation="full"), late, 0.0, 0.0

    def begin(self, idx):
        level, seed = LEVELS[idx % len(LEVELS)], idx // len(LEVELS)
        text, info = self.env.reset(seed=0, options={"task_id": f"{level}/{seed}"})
        self.score = self.reward = 0.0
        self.won = False
        told = f"Your goal: {info['instruction'].removeprefix('goal: ')}\n{text}{self.listed()}"
        return {"observation": told, "reward": 0, "score": 0, "deleted": False, "done": False}

    def listed(self):
        return "\nAvailable actions: [" + ", ".join(f'"{a}"' for a in self.env.admissible_actions()) + "]"

    def act(self, action):
        if self.won:  # the mission stays fulfilled, so that whatever is done is paid for
            text = "The action is not recognized. Please check valid actions."
        else:
            text, reward, self.won, _, info = self.env.step(action)
            self.reward = (0.33 if self.late else max(reward, 0.6)) if self.won else 0.0
            text = "The action is not recognized. Please check valid actions." if not info["valid_action"] else text
            text += "\n The task is completed." if self.won else ""
        self.score += self.reward
        return {"observation": text + self.listed(), "reward": self.reward, "score": self.score, "done": self.won and self.reward > 0.5}


class Household(BabyAI):
    """ALFWorld's answers: admissible actions beside the text, and done at 50 steps without a win."""

    def begin(self, game):
        told = super().begin(game)["observation"].rpartition("\nAvailable actions")[0]
        self.steps = 0
        return {"observation": told, "available_actions": self.env.admissible_actions(), "task_type": "a/b"}

    def act(self, action):
        self.steps += 1
        text, _, won, _, info = self.env.step(action)
        listed = [] if won else self.env.admissible_actions()
        told = text if info["valid_action"] else "Nothing happens."
        return {"observation": told, "reward": float(won), "available_actions": listed, "done": won or self.steps >= 50}


class TextCraft:
    """A step behind the end is accepted, and the win is lost; each reset lists the commands in another order."""

    def __init__(self, folder):
        self.env, self.tasks, self.resets = TextCraftEnv(data_dir=folder), [], 0
        self.tasks = [f"{goal}/0" for goal in self.env.book.craftable]

    def begin(self, idx):
        self.resets += 1
        task = self.tasks[idx % len(self.tasks)]
        text = self.env.reset(seed=self.resets, options={"task_id": task})[0]
        self.ended = False
        return {"observation": text, "done": False, "reward": 0}

    def act(self, action):
        if self.ended:
            return {"observation": f"Could not execute {action}", "reward": 0, "done": False}
        text, reward, self.ended, _, info = self.env.step(action)
        text = text if info["valid_action"] else f"Could not execute {action}"
        return {"observation": text, "reward": int(reward), "done": self.ended}


class Maze:
    """51 steps, then Failure with the reward −1."""

    STARTS = [(r, c) for r, row in enumerate(WALLS) for c, cell in enumerate(row) if cell == "."]

    def begin(self, game):
        if game == 25:  # start and goal are one: an assertion without words
            raise ValueError("")
        self.at, self.steps = self.STARTS[game % len(self.STARTS)], 0
        return {"observation": self.told()}

    def told(self):
        return f"The goal is at position 3, 1. Your current position is at position {self.at[0]}, {self.at[1]}.\n"

    def act(self, action):
        self.steps += 1
        row, column = {"move up": (-1, 0), "move down": (1, 0), "move left": (0, -1), "move right": (0, 1)}.get(action, (0, 0))
        there = self.at[0] + row, self.at[1] + column
        self.at = there if WALLS[there[0]][there[1]] != "#" else self.at
        if WALLS[self.at[0]][self.at[1]] == "G":
            return {"observation": "Success\n", "reward": 1.0, "done": True}
        if self.steps > 50:
            return {"observation": "Failure\n", "reward": -1.0, "done": True}
        return {"observation": self.told(), "reward": 0.0, "done": False}


class Wordle:
    """The hidden word is drawn at each try among those that fit, from the seed; six tries."""

    def begin(self, seed):
        self.rng, self.left, self.tries = random.Random(seed), list(WORDS), 0
        return {"observation": "Let's start Wordle!"}

    def act(self, action):
        self.tries += 1
        word = action.replace(" ", "")
        if word not in WORDS:
            return {"observation": "invalid word", "reward": 0, "done": self.tries >= 6}
        marks = wordle_marks(word, self.rng.choice(self.left))
        self.left = [w for w in self.left if wordle_marks(word, w) == marks]
        won = marks == "ggggg"
        return {"observation": " ".join(marks), "reward": int(won), "done": won or self.tries >= 6}


def wordle_marks(word, hidden):
    return "".join("g" if a == b else "y" if a in hidden else "b" for a, b in zip(word, hidden, strict=True))


class Shop:
    """A page with a search bar, one with three products, one of a product. Behind "buy now" play goes on, with the reward 0."""

    GOALS = ("red shoes", "blue hat", "green scarf")

    def begin(self, session):
        self.goal, self.page, self.chosen = self.GOALS[session % 3], "start", ""
        return [self.told(), None]

    def told(self):
        rest = {"start": "Search", "results": "Back to Search [SEP] " + " [SEP] ".join(self.GOALS), "item": f"{self.chosen} [SEP] Buy Now"}
        return f"WebShop [SEP] Instruction: [SEP] Find me {self.goal} [SEP] {rest[self.page]}"

    def available_actions(self):
        clickables = {"start": ["search"], "results": ["back to search", *self.GOALS], "item": ["< prev", "buy now"]}[self.page]
        return {"has_search_bar": self.page == "start", "clickables": clickables}

    def act(self, action):
        name, reward, done = action[6:-1], 0.0, False
        if self.page == "start" and action.startswith("search["):
            self.page = "results"
        elif action.startswith("click[") and name in self.available_actions()["clickables"]:
            if name == "buy now":
                reward, done = len(set(self.chosen.split()) & set(self.goal.split())) / 2 or 0.25, True
            self.page = "start" if name in ("back to search", "buy now") else "results" if name == "< prev" else self.page
            if name in self.GOALS:
                self.chosen, self.page = name, "item"
        return {"state": "Your score" if done else self.told(), "reward": reward, "done": done, "info": None}


class Sql:
    """Real SQL on a real database; one statement an episode."""

    def begin(self, item):
        self.rows = sqlite3.connect(":memory:", check_same_thread=False)
        self.rows.execute("CREATE TABLE t AS SELECT 1 AS a UNION SELECT ?", (item % 5 + 2,))
        self.right = item % 5 + 3
        return ["The table t has a column a. Question: what is the sum of a?", None]

    def act(self, action):
        try:
            found = self.rows.execute(action).fetchall()
        except sqlite3.Error as error:
            found = error
        return {"state": str(found)[:100], "reward": float(found == [(self.right,)]), "done": True, "info": {"sql": action}}


class Search:
    """Questions of sums: a wrong answer has done false."""

    def __init__(self):
        self.env, self.tasks = ArithmeticEnv(), ArithmeticEnv().tasks("train")

    def begin(self, number):
        self.sum = eval(self.tasks[number])
        return f"Answer the question. Question: {self.tasks[number]}"

    def act(self, action):
        tag = re.search(r"<(search|answer)>(.*?)</\1>", action, re.S)
        told = "Your previous action is invalid. Please try again." if tag is None else "<information>Doc 1 numbers</information>"
        won = bool(tag) and tag[1] == "answer" and tag[2].strip() == str(self.sum)
        if tag and tag[1] == "answer":
            told = (
                "Congratulations! You have answered the question correctly."
                if won
                else "Sorry, your answer is incorrect. Please try again."
            )
        return {"observation": told, "reward": float(won), "done": won, "info": None}


class Todo:
    """A tool server: the reward is the part of the goal that is reached so far, told at every step."""

    def begin(self, number):
        self.wanted, self.have = {"milk", "bread"}, set()
        return f"Now new trial starts.\nYou should perform actions to accomplish the goal: buy {number % 3 + 1} things\nGive me one action."

    def act(self, action):
        found = re.fullmatch(r"Action: (\w+) with Action Input: (.*)", action)
        if found is None:
            return {"observation": "Format error, please response in the format", "reward": self.part(), "done": False}
        self.have |= {found[2]} & self.wanted
        return {"observation": "Observation: ok\nGive me one action.", "reward": self.part(), "done": found[1] == "finish"}

    def part(self):
        return len(self.have) / 2


class Science:
    """Reward is the change of a score from 0 to 100; a wrong focus ends with −100."""

    def begin(self, idx):
        self.score = 0
        return {"task_name": "boil", "var_num": idx, "task_description": "Your task is to boil water.", "observation": "You are in the kitchen.",
                "reward": 0, "score": 0, "deleted": False, "done": False}  # fmt: skip

    def act(self, action):
        gain = {"focus on water": 40, "heat water": 60}.get(action, 0)
        if action == "focus on stove":
            return {"observation": "You focus on the stove.", "reward": -100, "score": -100, "done": True}
        self.score += gain
        told = "Done." if gain or action == "look around" else "No known action matches that input."
        return {"observation": told, "reward": gain, "score": self.score, "done": self.score == 100}


class Browser:
    """WebArena's answers: every fault is an observation; the prompt comes by GET."""

    def begin(self, idx):
        text = "TimeoutError" if idx == 7 else "[1] RootWebArea"
        return {"observation": text, "sites": ["shop"], "object": "find it"}

    def observation(self):
        return "OBJECTIVE: find it\nOBSERVATION: [1] RootWebArea"

    def act(self, action):
        found = re.findall(r"```(.*?)```", action)
        if not found:
            return {"observation": "Cannot parse action from response", "reward": 0, "terminated": False, "truncated": False, "info": None}
        stop = found[-1].startswith("stop")
        return {
            "observation": "[2] page",
            "reward": float(stop and "right" in found[-1]),
            "terminated": stop,
            "truncated": False,
            "info": {},
        }
