"""Environments of Gymnasium's own and one that takes text, played in words."""

from functools import partial

import gymnasium
import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.checker import check_env
from openrlhf_agentprm.envs.gym_text import GymTextEnv

LAKE = dict(id="FrozenLake-v1", actions=["left", "down", "right", "up"], instruction="Cross the ice.", kwargs={"is_slippery": False})


class Echo(gymnasium.Env):
    """Text in, text out."""

    observation_space = action_space = gymnasium.spaces.Text(max_length=100)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = str(self.np_random.integers(1000))
        return f"say {self.word}", {}

    def step(self, action):
        return "heard", float(action == self.word), True, False, {}


class Pair(Echo):
    action_space = gymnasium.spaces.MultiDiscrete([3, 4])

    def step(self, action):
        return f"{action.tolist()}", 0.0, False, False, {}


@pytest.fixture(scope="module", autouse=True)
def registered():
    for kind in (Echo, Pair):
        gymnasium.register(f"agentprm_tests/{kind.__name__}-v0", kind)
    yield
    for kind in (Echo, Pair):
        del gymnasium.registry[f"agentprm_tests/{kind.__name__}-v0"]


def test_a_discrete_world_by_names_with_what_it_renders():
    env = GymTextEnv(**LAKE)
    observation, info = env.reset(options={"task_id": "FrozenLake-v1/3"})
    assert observation == "[red S]FFF\nFHFH\nFFFH\nHFFG" and info["instruction"] == "Cross the ice."
    told, _, _, _, info = env.step("jump")
    assert told == f"Could not understand the action.\n{observation}" and not info["valid_action"]
    steps = [env.step(action) for action in ("Down", "down", "right", "right", "down", " right ")]
    assert steps[0][0] == "  (Down)\nSFFF\n[red F]HFH\nFFFH\nHFFG"
    assert [reward for _, reward, *_ in steps] == [0, 0, 0, 0, 0, 1] and steps[-1][2] and steps[-1][4]["success"]
    with pytest.raises(RuntimeError):
        env.step("down")


@pytest.mark.parametrize(
    "args",
    [LAKE, LAKE | {"kwargs": {"is_slippery": True}}, {"id": "CliffWalking-v1", "graded": True}, {"id": "Taxi-v4"}, {"id": "Blackjack-v1"}],
    ids=lambda args: args["id"],
)
def test_worlds_of_gymnasium_pass_the_checker(args):
    assert [r for r in check_env(partial(GymTextEnv, **args), episodes=50) if r.problem] == []


def test_text_and_other_spaces():
    echo = GymTextEnv("agentprm_tests/Echo-v0")
    assert not hasattr(echo, "admissible_actions")
    observation, _ = echo.reset(options={"task_id": "agentprm_tests/Echo-v0/5"})
    assert echo.step(observation.removeprefix("say "))[1:3] == (1.0, True)
    pair = GymTextEnv("agentprm_tests/Pair-v0")
    pair.reset()
    assert pair.step("[2, 3]")[0] == "[2, 3]"
    assert [pair.step(text)[4]["valid_action"] for text in ("[2, 4]", "[1]", "two", '{"a": 1}', "[1e400, 0]")] == [False] * 5


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"id": "Nothing-v0"}, "gymnasium.make\\('Nothing-v0'\\) failed: NameNotFound"),
        ({"id": "FrozenLake-v1", "actions": ["left"]}, "has 4 actions; 1 names are given"),
        ({"id": "agentprm_tests/Echo-v0", "actions": ["a"]}, "which has no names"),
        ({"id": "FrozenLake-v1", "module": "no_such_module"}, "ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_is_told(args, told):
    with pytest.raises(UserError, match=told):
        GymTextEnv(**args)
    with pytest.raises(UserError, match="is no 'FrozenLake-v1/NUMBER'"):
        GymTextEnv(**LAKE).reset(options={"task_id": "x/1"})
