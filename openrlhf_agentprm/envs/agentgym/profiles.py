"""The servers that are known, one profile each. Read from AgentGym 3ef9235; what was seen in play is in docs/environments/agentgym.md."""

from __future__ import annotations

from .profile import TASK, Profile

_TOOLS = "Answer with 'Action: NAME with Action Input: {JSON}', where NAME is a tool; 'finish' with the answer ends the episode."


def _tools(name: str, count: int, turns: int) -> Profile:
    """The tool servers differ in their names and tasks alone; their reward is the part of the goal that is reached so far."""
    return Profile(
        name=name, id_key="env_idx", create={"id": TASK}, id_at="", reset={"id": TASK}, first=("",), running=True, success_by="reward",
        outcome="reward", invalid=("Format error", "Observation: ERROR |"), tasks=count, turns=turns, instruction=_TOOLS,
    )  # fmt: skip


_ALL = [
    Profile(
        name="textcraft", create={}, success_by="reward", invalid=("Could not ", "Wrong item format"), close=True, verify=False,
        lines_in_any_order=True, tasks=544, turns=20,
        instruction="Craft the goal. Commands: 'get 2 oak log' fetches what nothing crafts, the listed 'craft …' commands, 'inventory'.",
    ),
    Profile(
        name="babyai", score="score", success_text="The task is completed.", actions="text", any_case=True, close=True, turns=20,
        tasks={"train": (0, 40_000), "validation": (40_000, 44_000), "test": (44_000, 48_000)},
        instruction="Reach the goal in the grid world by the available actions, each written exactly as it is listed.",
    ),
    Profile(
        name="sciworld", first=("task_description", "observation"), score="score", scale=100.0, success_by="score", success_at=100.0,
        outcome="score", invalid=("No known action matches that input.",), close=True, verify=False, lines_in_any_order=True, tasks=4639,
        reset_s=300.0, at_once=4, turns=30, instruction="Carry out the task by commands such as 'look around', 'open door to kitchen', 'focus on X'.",
    ),
    Profile(
        name="alfworld", reset={"game": TASK, "world_type": "Text"}, success_by="reward", loss_is_limit=True, actions="reply", shown_actions="first",
        invalid=("Nothing happens.",), at_once=2, turns=30,
        tasks={"train": (0, 2178), "validation": (2178, 2420), "test": (2420, 2620)},
        instruction="Carry out the household task. Every action is one of the available actions, written exactly as it is listed.",
    ),
    Profile(
        name="maze", prefix="/maze", reset={"game": TASK}, success_by="reward", loss_is_limit=True, actions="fixed", tasks=25, turns=15,
        fixed=("move up", "move down", "move left", "move right"),
        instruction="Find the goal of the maze. Actions: 'move up', 'move down', 'move left', 'move right'.",
    ),
    Profile(
        name="wordle", prefix="/wordle", reset={"seed": TASK}, success_by="reward", invalid=("invalid word",), turns=8,
        tasks={"train": (0, 100_000), "validation": (1_000_000, 1_010_000), "test": (2_000_000, 2_010_000)},
        instruction="Find the hidden word of five letters in six tries. Write each try with spaces: 's h i r e'. The answer has g for a letter in "
        "its place, y for one elsewhere in the word, b for one that is not in it.",
    ),
    Profile(
        name="webshop", id_key="env_idx", id_at="", reset={"session_id": TASK}, first=(0,), observation="state", success_by="reward",
        outcome="reward", actions="webshop", unchanged_is_invalid=True, ids_come_once=False, turns=10,
        tasks={"train": (1500, 6000), "validation": (500, 1500), "test": (0, 500)},
        instruction="Buy what the instruction describes. Actions: 'search[words]' where there is a search bar, 'click[name]' of a button or a "
        "product; 'click[buy now]' ends the episode.",
    ),
    Profile(
        name="sqlgym", id_key="env_idx", id_at="", reset={"item_id": TASK}, first=(0,), observation="state", success_by="reward",
        action=r"(?s)```sql\s*(.*?)\s*```", ids_come_once=False, at_once=8, turns=1,
        tasks={"train": (0, 8484), "validation": (8484, 9428), "test": (9428, 10_962)},
        instruction="Answer the question by one SQL statement in a ```sql block.",
    ),
    Profile(
        name="searchqa", id_key="env_idx", create={"id": TASK}, id_at="", reset={"id": TASK}, first=("",),
        invalid=("Your previous action is invalid.",), close=True, turns=5,
        tasks={"train": (51_713, 216_328), "validation": (216_328, 221_328), "test": (0, 51_713)},
        instruction="Think, then write either <search>a query</search> or <answer>the answer</answer>.",
    ),
    _tools("weather", 343, 10), _tools("movie", 238, 12), _tools("academia", 20, 12), _tools("todo", 155, 15), _tools("sheet", 20, 15),
    Profile(
        name="webarena", id_key="env_idx", id_at="env_idx", reset={"seed": 0, "idx": TASK}, first_get="observation", done="terminated",
        truncated="truncated", success_by="reward", broken=("TimeoutError",), invalid=("Cannot parse action",), close=True, verify=False,
        tasks=812, reset_s=300.0, at_once=2, turns=15,
        instruction="Reach the objective in the browser. Think, then write one action between ``` and ```; 'stop [answer]' ends the episode.",
    ),
]  # fmt: skip
PROFILES = {profile.name: profile for profile in _ALL}
