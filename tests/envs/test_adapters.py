"""What the environments of other libraries share, on a library of three lines that draws from the process's generators."""

import inspect
import random
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.core.registry import ENVS
from openrlhf_agentprm.envs.adapters.common import NumberedEnv, OwnRandom, PlacedTasks, answer_in, built, last_boxed, of_split, package
from openrlhf_agentprm.envs.adapters.openenv_session import INSTALL as OPENENV_INSTALL
from openrlhf_agentprm.envs.base import make_env
from openrlhf_agentprm.envs.checker import check_env


class Dice(NumberedEnv):
    """Each step throws a die of `random` and one of `numpy.random`; "stop" ends, "break" raises, other words are not understood."""

    def __init__(self):
        super().__init__("dice", "Throw.", False, 100)
        self.random = OwnRandom()

    def _begin(self, number):
        with self.random(seed=number):
            return f"{random.random()} {np.random.random()}"

    def _act(self, action):
        if action == "break":
            raise OSError("broken")
        with self.random():
            shown = f"{random.random()} {np.random.random()}"
            print("a library's words")
        return shown, 0.0, action == "stop", False, {"valid_action": action in ("stop", "look"), "success": action == "stop"}


def play(env, number, steps=50):
    return [env.reset(options={"task_id": f"dice/{number}"})[0], *(env.step("look")[0] for _ in range(steps))]


def test_the_generators_of_the_process_are_as_before_and_nothing_is_printed(capsys):
    random.seed(5)
    np.random.seed(5)
    wanted = random.Random(5).random(), np.random.RandomState(5).random()
    play(Dice(), 1)
    assert (random.random(), np.random.random()) == wanted and capsys.readouterr().out == ""


def test_a_seed_is_the_library_s_own_and_instances_and_threads_do_not_disturb_one_another():
    random.seed(3)
    np.random.seed(3)
    assert Dice().reset(options={"task_id": "dice/3"})[0] == f"{random.random()} {np.random.random()}"
    alone, (one, other) = play(Dice(), 1), (Dice(), Dice())
    assert len(set(alone)) == 51
    one.reset(options={"task_id": "dice/1"})
    play(other, 2)
    assert [one.step("look")[0] for _ in range(50)] == alone[1:]
    found = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: play(Dice(), 1)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(4)] == [alone] * 4


def test_what_raises_in_the_block_restores_the_generators_too():
    random.seed(7)
    with pytest.raises(ZeroDivisionError), OwnRandom()(seed=1):
        1 / random.randint(0, 0)
    assert random.random() == random.Random(7).random()


def test_no_step_behind_an_end_an_error_or_close():
    env = Dice()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("look")
    env.reset()
    assert env.step("stop")[2]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("look")
    env.reset()
    with pytest.raises(OSError):
        env.step("break")
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("look")
    env.reset()
    env.close()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("look")


def test_the_checker_passes_and_tasks_are_numbers():
    assert [r for r in check_env(Dice, episodes=20) if r.problem] == []
    for wrong in ("dice/x", "dice/-1", "dice", "mice/1", "dice/1234567890", "dice/٣"):
        with pytest.raises(UserError, match="is no 'dice/NUMBER'"):
            Dice().reset(options={"task_id": wrong})
    with pytest.raises(UserError, match="tasks_per_split is 0"):
        NumberedEnv.__init__(Dice(), "x", "", False, 0)
    assert list(PlacedTasks("q", 3, 6)) == ["q/3", "q/4", "q/5"]
    with pytest.raises(UserError, match="unknown split 'dev'"):
        of_split({"train": 1}, "dev")


def test_answers_are_read_where_they_stand():
    text = r"<answer>1</answer> \boxed{2} or <answer> 3 </answer>"
    assert [answer_in(text, form) for form in ("marked", "tags", "boxed", "whole")] == ["3", "3", "2", text]
    assert [answer_in(r" \boxed{\frac{1}{2}} ", form) for form in ("marked", "tags", "boxed")] == [r"\frac{1}{2}", None, r"\frac{1}{2}"]
    assert answer_in("<answer> </answer>", "marked") is None and answer_in(" ", "whole") is None
    assert last_boxed(r"\boxed{1} then \boxed{2") == "1" and last_boxed(r"\boxed{}") == "" and last_boxed("}{") is None


def test_a_missing_package_and_a_wrong_argument_are_told():
    with pytest.raises(UserError, match="the environment 'x' needs no_such_package, which is not installed: pip install it"):
        package("no_such_package", "pip install it", "x")
    with pytest.raises(UserError, match="making y failed: ZeroDivisionError"):
        built("making y", lambda: 1 / 0)


@pytest.mark.parametrize(
    "name, absent, arguments, line",
    [
        ("textarena", "textarena", {"id": "TowerOfHanoi-v0-raw"}, "pip install 'openrlhf-agentprm[textarena]'"),
        ("gem", "gem", {"id": "rg:countdown"}, "pip install --no-deps gem-llm==0.1.0 reasoning-gym==0.1.25 "),
        ("reasoning_gym", "reasoning_gym", {"dataset": "countdown"}, "pip install 'openrlhf-agentprm[reasoning-gym]'"),
        ("openenv", "websockets.sync.client", {"url": "http://127.0.0.1:8000"}, "pip install 'openrlhf-agentprm[openenv]'"),
        ("verifiers", "verifiers", {"env": "ReasoningGymEnv"}, "pip install --no-deps verifiers==0.3.1 renderers "),
    ],
)
def test_each_tells_the_line_that_installs_what_it_needs(monkeypatch, name, absent, arguments, line):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UserError, match=re.escape(line)):
        make_env(name, **arguments)


def in_a_table(parameter):
    """A default as the pages write it."""
    default = parameter.default
    if default is None:
        return "–" if parameter.name in ("ranges", "invalid") else "{}"
    if default is inspect.Parameter.empty:
        return "required"
    return f'"{default}"' if isinstance(default, str) else str(default).lower()


@pytest.mark.parametrize("name", ["textarena", "gem", "reasoning_gym", "openenv", "verifiers"])
def test_a_page_has_the_arguments_their_defaults_and_the_line_that_installs(name):
    page = (Path(__file__).parents[2] / "docs" / "environments" / f"{name}.md").read_text()
    written = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.M))
    found = ENVS.load(name)
    assert written == {parameter.name: in_a_table(parameter) for parameter in inspect.signature(found).parameters.values()}
    assert getattr(sys.modules[found.__module__], "INSTALL", OPENENV_INSTALL) in page
