"""The package verifiers and its environments as they are found: which versions are played, how one is built, which are refused."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any

from ....core.errors import UserError
from ..common import brief, built, package
from .loop import OwnLoop

INSTALL = (
    "pip install --no-deps verifiers==0.3.1 renderers tenacity prime-pydantic-config aiolimiter prime-sandboxes connectrpc==0.11.1 pyqwest "
    "protobuf-py==0.1.1 aiofiles openai-agents griffelib"
)
OWN = ("ReasoningGymEnv", "TextArenaEnv")  # of the library's classes, those that are built from numbers and texts alone
_REMOTE = {"SandboxMixin", "SandboxEnv", "CliAgentEnv", "BrowserEnv", "OpenEnvEnv"}  # what they do runs elsewhere


def library() -> Any:
    """The package, with the API in which an environment answers turn by turn.

    Raises:
        UserError: it is not installed, or has that API no more.
    """
    found = package("verifiers", INSTALL, "verifiers")
    try:
        importlib.import_module("datasets")
        importlib.import_module("verifiers.envs.multiturn_env")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("verifiers"):
            raise UserError(
                f"the environment 'verifiers' needs {error.name}, which is not installed: {INSTALL} (where OpenRLHF and vLLM are not installed: "
                "pip install 'openrlhf-agentprm[verifiers]')"
            ) from error
        raise UserError(
            f"verifiers {getattr(found, '__version__', '')} has its v1 API alone, whose harness plays whole episodes by itself; played here "
            f"is the earlier API (MultiTurnEnv), of versions 0.1.14 to 0.3.1: {INSTALL}"
        ) from error
    return found


def build(vf: Any, name: str, args: Mapping[str, Any], network: bool, loop: OwnLoop) -> tuple[Any, list[Any]]:
    """(the environment, all that were built in it and have to be torn down, itself too); one that is refused is torn down."""
    make = (lambda: getattr(vf, name)(**args)) if name in OWN else (lambda: vf.load_environment(name, **args))
    with _quiet(vf) as made:
        try:
            env = built(f"the environment {name!r} with the arguments {dict(args)}", make)
            problems = _problems(vf, name, env, network)
            if problems:
                raise UserError(problems)
            built(f"a data set of {name}", lambda: (env.build_dataset(), env.build_eval_dataset()))
        except BaseException:
            with contextlib.suppress(Exception):
                tear_down(made, loop)
            raise
    return env, made


def tear_down(made: list[Any], loop: OwnLoop) -> None:
    """Tear environments down, the last one first, each of them whatever another raises; then the loop is closed."""
    with contextlib.ExitStack() as left:
        left.callback(loop.close)
        for env in made:
            left.callback(_tear_down_one, env, loop)


def _tear_down_one(env: Any, loop: OwnLoop) -> None:
    loop.run(env._teardown())


@contextlib.contextmanager
def _quiet(vf: Any) -> Iterator[list[Any]]:
    """While an environment is built: its handlers of signals are not put in place of the process's, which only a main thread could do; those
    that want to be torn down at the process's end are collected; data sets show no progress."""
    import datasets

    module = sys.modules[vf.Environment.__module__]
    made: list[Any] = []

    def register(teardown: Callable[[], None]) -> None:
        made.append(inspect.getclosurevars(teardown).nonlocals["self"])

    theirs = {name: getattr(module, name) for name in ("signal", "atexit")}
    shown = not datasets.utils.are_progress_bars_disabled()
    module.__dict__["signal"] = SimpleNamespace(**vars(signal) | {"signal": lambda *_: None})
    module.__dict__["atexit"] = SimpleNamespace(register=register)
    datasets.utils.disable_progress_bars()
    try:
        yield made
    finally:
        module.__dict__.update(theirs)
        if shown:
            datasets.utils.enable_progress_bars()


def _problems(vf: Any, name: str, env: Any, network: bool) -> list[str]:
    """Why an environment is not played."""
    kind = type(env).__name__
    if isinstance(env, vf.EnvGroup):
        return [
            f"{name} is a group of environments ({', '.join(env.env_names)}); name one of them, or mix them by the environment 'mixture'"
        ]
    if not isinstance(env, vf.MultiTurnEnv):
        return [f"{name} is a {kind}; played are MultiTurnEnv and what is made of it (SingleTurnEnv, ToolEnv, StatefulToolEnv, …)"]
    problems = []
    kept = {"rollout": vf.MultiTurnEnv, "get_model_response": vf.Environment}
    if others := [method for method, owner in kept.items() if getattr(type(env), method) is not getattr(owner, method)]:
        problems.append(
            f"{name} is a {kind}, which asks the model in its own way ({', '.join(others)}), so that no turn can be given to it"
        )
    if not network and (remote := _REMOTE & {base.__name__ for base in type(env).__mro__}):
        problems.append(f"{name} is a {kind}, which works over the network ({', '.join(sorted(remote))}); give network true to let it")
    return problems + _problems_of_rewards(vf, name, env, network)


def _problems_of_rewards(vf: Any, name: str, env: Any, network: bool) -> list[str]:
    problems = []
    if not network and (judges := [type(rubric).__name__ for rubric in rubrics(env.rubric) if isinstance(rubric, vf.JudgeRubric)]):
        problems.append(f"the reward of {name} comes from a model over the network ({', '.join(judges)}); give network true to let it ask")
    own = [rubric for rubric in rubrics(env.rubric) if type(rubric).score_rollout is vf.Rubric.score_rollout]
    if empty := [type(rubric).__name__ for rubric in own if not rubric.funcs]:
        problems.append(f"{name} gives no reward: a rubric of it has no reward function ({', '.join(empty)})")
    elif len(own) == sum(not hasattr(rubric, "rubrics") for rubric in rubrics(env.rubric)) and not any(map(weighed, own)):
        metrics = ", ".join(name_of(function) for rubric in own for function in rubric.funcs)
        problems.append(f"{name} gives no reward: all that its rubric has are metrics, of weight 0 ({metrics})")
    if not env.score_rollouts:
        problems.append(f"{name} gives no reward: its score_rollouts is false")
    return problems


def rubrics(rubric: Any) -> list[Any]:
    """A rubric and all that are in it."""
    return [rubric, *(inner for part in getattr(rubric, "rubrics", ()) for inner in rubrics(part))]


def name_of(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def weighed(rubric: Any) -> list[str]:
    """The names of a rubric's functions that the reward counts; those of weight 0 are metrics."""
    return [name_of(function) for function, weight in zip(rubric.funcs, rubric.weights, strict=False) if weight]


class RewardErrors(logging.LoggerAdapter):
    """In the place of a rubric's log: keeps what its reward functions raise, which the library logs and counts as 0.

    Args:
        rubric: whose log it is.
        raised: is added to.
    """

    def __init__(self, rubric: Any, raised: list[str]) -> None:
        super().__init__(rubric.logger, {})
        self._rubric, self._raised = rubric, raised

    def error(self, msg: object, *args: Any, **kwargs: Any) -> None:
        found = re.match(r"Error calling (?:group )?reward function (.+?): ", str(msg))
        error = sys.exc_info()[1]
        if found and error is not None and found[1] in weighed(self._rubric):
            self._raised.append(f"{found[1]}: {type(error).__name__}: {brief(error)}")
        super().error(msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


def no_model(vf: Any, name: str, refused: list[str]) -> Any:
    """What stands in the place of a client: whoever asks it for a text is told that there is none, which is added to a list."""

    async def refuse(self: Any, *_: Any, **__: Any) -> Any:
        refused.append(f"{name} asks a model for a text of its own; no model is lent to it here")
        raise UserError(refused[-1])

    methods = dict.fromkeys((*vf.Client.__abstractmethods__, "get_response"), refuse)
    return type("NoModel", (vf.Client,), methods)(None)
