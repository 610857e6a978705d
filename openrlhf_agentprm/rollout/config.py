"""The `--env.*` flags, shared by every command that plays."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from ..agents.chat import ChatFormat, load_tokenizer
from ..agents.few_shot import read_few_shot
from ..agents.parsing import ACTION_FORMATS
from ..agents.template import HISTORIES
from ..core.errors import UserError
from .builder import INVALID_ACTION, Limits
from .digest import text_digest
from .nursery import Provision
from .pool import EnvPool, Timeouts


def json_object(text: str) -> dict[str, Any]:
    """argparse type: a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}); write it as '{{\"key\": value}}'") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("a JSON object is wanted, such as '{\"declare\": true}'")
    return value


def positive_int(text: str) -> int:
    """argparse type: a whole number of 1 or more."""
    return _at_least(1, int(text))


def non_negative_int(text: str) -> int:
    """argparse type: a whole number of 0 or more."""
    return _at_least(0, int(text))


def _at_least(least: int, value: int) -> int:
    if value < least:
        raise argparse.ArgumentTypeError(f"{least} or more is allowed")
    return value


def non_negative_float(text: str) -> float:
    """argparse type: a number of 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("a number of 0 or more is allowed")
    return value


def seconds(text: str) -> float:
    """argparse type: a time limit; the operating system takes no wait of more than some weeks."""
    return _above_0(float(text), 1_000_000)


def cpus(text: str) -> float:
    """argparse type: CPUs to reserve; Ray takes shares of one."""
    return _above_0(float(text), 10_000)


def gibibytes(text: str) -> float:
    """argparse type: an amount of memory."""
    return _above_0(float(text), 100_000)


def _above_0(value: float, most: int) -> float:
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"more than 0 is allowed, and at most {most}")
    return value


@dataclass(frozen=True)
class EnvConfig:
    """Which environment is played, how long, and how its text becomes tokens."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    split: str = "train"
    first_task: int = 0
    num_tasks: int | None = None
    max_turns: int = 20
    max_tokens_per_turn: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    num_workers: int = 32
    num_spares: int = 0
    max_memory: float | None = None
    num_cpus: float | None = None
    num_pools: int = 1
    reset_timeout: float = 60.0
    step_timeout: float = 30.0
    max_retries: int = 2
    action_format: str = "action_only"
    system_prompt_file: str | None = None
    chat_template: str | None = None
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    history: str = "template"
    few_shot_file: str | None = None
    invalid_action: str = "message"
    invalid_penalty: float = 0.0

    @classmethod
    def from_namespace(cls, namespace: Any, **more: Any) -> EnvConfig:
        """From the nested `args.env`, and what stands elsewhere."""
        values = {name: getattr(namespace, name) for name in cls.__dataclass_fields__ if hasattr(namespace, name)} | more
        values["stop_token_ids"] = tuple(values.get("stop_token_ids") or ())
        values["args"] = plain(values.get("args") or {})
        values["chat_template_args"] = plain(values.get("chat_template_args") or {})
        config = cls(**values)
        if config.invalid_penalty and config.invalid_action == "message":
            raise UserError("--env.invalid_penalty is given, but --env.invalid_action is message; give penalty or end")
        return config

    def pool(self, size: int | None = None, *, spares: int | None = None) -> EnvPool:
        """So many workers (`--env.num_workers`), and so many spares (`--env.num_spares`)."""
        provision = Provision(self.max_memory, self.num_spares if spares is None else spares)
        return EnvPool(self.name, self.args, size or self.num_workers, Timeouts(self.reset_timeout, self.step_timeout), provision)

    def chat(self, tokenizer_path: str) -> ChatFormat:
        system_prompt = ""
        if self.system_prompt_file:
            try:
                with open(self.system_prompt_file, encoding="utf-8") as file:
                    system_prompt = file.read()
            except OSError as error:
                raise UserError(f"--env.system_prompt_file {self.system_prompt_file!r} cannot be read: {error}") from error
        return ChatFormat(
            load_tokenizer(tokenizer_path, self.chat_template),
            system_prompt=system_prompt,
            action_format=self.action_format,
            stop_token_ids=self.stop_token_ids,
            tools=self._tools(),
            few_shot=read_few_shot(self.few_shot_file) if self.few_shot_file else (),
            template_args=self.chat_template_args,
            history=self.history,
        )

    def _tools(self) -> list[dict[str, Any]]:
        """What the environment's tools are, where the action format is calls of them."""
        if self.action_format != "tool_call":
            return []
        if not self.name:
            raise UserError("--env.action_format tool_call needs an environment, whose tools the prompts tell of")
        with self.pool(1) as pool:
            if not pool.description["tools"]:
                raise UserError(f"--env.action_format tool_call needs an environment with tools(); {self.name!r} has none")
            return pool.description["tools"]

    def limits(self, max_tokens: int) -> Limits:
        return Limits(self.max_turns, max_tokens, self.max_tokens_per_turn, self.invalid_action, self.invalid_penalty)

    def rules(self) -> dict[str, Any]:
        """What else of the play is part of an episode's identity, where it is not the default."""
        return {} if self.invalid_action == "message" else {"invalid_action": self.invalid_action, "invalid_penalty": self.invalid_penalty}

    def played_as(self, sampling: Mapping[str, Any], split: str) -> EnvConfig:
        """These settings with the environment's arguments and the limits of episodes that are there already."""
        return replace(
            self,
            args=dict(sampling["env_args"]),
            split=split,
            max_turns=sampling["max_turns"],
            max_tokens_per_turn=sampling["max_tokens_per_turn"],
            invalid_action=sampling.get("invalid_action", "message"),
            invalid_penalty=sampling.get("invalid_penalty", 0.0),
        )

    def check_format(self, chat: ChatFormat, sampling: Mapping[str, Any]) -> None:
        """Refuse to go on with episodes whose text became tokens in another way."""
        if text_digest(chat.identity()) != sampling["format"]:
            raise UserError(
                "the episodes were played with another prompt format (tokenizer, chat template, system prompt, action format or stop tokens); "
                "give the same --env.action_format, --env.system_prompt_file, --env.few_shot_file, --env.chat_template, "
                "--env.chat_template_args, --env.history and --env.stop_token_ids"
            )

    def tasks(self, pool: EnvPool) -> list[str]:
        """The chosen slice of the split; an empty one is a `UserError`."""
        found = pool.tasks(self.split, self.first_task, self.num_tasks)
        if not found:
            raise UserError(f"split {self.split!r} of environment {self.name!r} has no task from number {self.first_task} on")
        return found


def check_context(pool: EnvPool, chat: ChatFormat, tasks: list[str], max_tokens: int) -> None:
    """Refuse a context that the first prompts fill: every episode would end before its first action.

    Raises:
        UserError: with the length that is needed.
    """
    lengths = []
    for task in tasks[:3]:
        try:
            answer = pool.call(0, {"do": "reset", "task_id": task, "seed": 0})
        except RuntimeError:  # a task that breaks is counted when it is played
            continue
        lengths.append(len(chat.first(answer["instruction"], answer["observation"])))
    if lengths and min(lengths) >= max_tokens:
        raise UserError(
            f"the context of {max_tokens} tokens (--data.max_len) is shorter than the first prompts of {pool.name!r} ({min(lengths)} tokens and "
            "more); raise it, or shorten the system prompt"
        )


def plain(value: Any) -> Any:
    """Dicts again, where the host's parser has made namespaces of them."""
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def add_env_flags(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--env.*`."""
    group = parser.add_argument_group("environment")
    add = group.add_argument
    default = EnvConfig("")
    add("--env.name", type=str, default=None, required=required, help="registered environment (agentprm list envs)")
    add("--env.args", type=json_object, default={}, help="its arguments, as a JSON object")
    add("--env.split", type=str, default=default.split, choices=["train", "validation", "test"], help="which tasks")
    add("--env.first_task", type=non_negative_int, default=0, help="number of the split's first task to take")
    add("--env.num_tasks", type=positive_int, default=None, help="how many tasks to take (all)")
    add("--env.max_turns", type=positive_int, default=default.max_turns, help="step limit of an episode; reaching it is `truncated`")
    add("--env.max_tokens_per_turn", type=positive_int, default=None, help="cap of tokens for one action (what the context leaves)")
    add(
        "--env.invalid_action",
        type=str,
        default=default.invalid_action,
        choices=list(INVALID_ACTION),
        help="what follows an invalid action: the environment's message, a penalty too, or the end, as a failure",
    )
    add("--env.invalid_penalty", type=non_negative_float, default=0.0, help="taken from the reward of an invalid action")
    add_play_flags(group)


def add_placement_flags(parser: argparse.ArgumentParser) -> None:
    """Add the `--env.*` flags of a run on a cluster: where environments are."""
    group = parser.add_argument_group("environments on a cluster")
    group.add_argument(
        "--env.num_cpus",
        type=cpus,
        default=None,
        help="CPUs that Ray reserves for a pool of environments, on nodes without GPUs first (not given: they run in each engine's process)",
    )
    group.add_argument("--env.num_pools", type=positive_int, default=1, help="pools of each engine, which share its --env.num_workers")


def add_play_flags(group: argparse._ArgumentGroup) -> None:
    """Add the `--env.*` flags that say how episodes are played, not which."""
    add = group.add_argument
    default = EnvConfig("")
    add(
        "--env.stop_token_ids",
        type=int,
        nargs="*",
        default=[],
        help="tokens that end an action, besides the template's end of turn",
    )
    add("--env.num_workers", type=positive_int, default=default.num_workers, help="environment processes: episodes played at once")
    add(
        "--env.num_spares",
        type=non_negative_int,
        default=default.num_spares,
        help="further processes with a built environment, which take the place of those that hang or die",
    )
    add("--env.max_memory", type=gibibytes, default=None, help="GiB of data that an environment's process may have (any)")
    add("--env.reset_timeout", type=seconds, default=default.reset_timeout, help="seconds that a reset may take")
    add("--env.step_timeout", type=seconds, default=default.step_timeout, help="seconds that a step may take")
    add("--env.max_retries", type=non_negative_int, default=default.max_retries, help="times that a broken episode is played again")
    add("--env.action_format", type=str, default=default.action_format, choices=list(ACTION_FORMATS), help="how an action is read")
    add_chat_flags(group)


def add_chat_flags(group: argparse._ArgumentGroup) -> None:
    """Add the `--env.*` flags that say how messages become tokens."""
    add = group.add_argument
    add("--env.system_prompt_file", type=str, default=None, help="text file with the system message")
    add(
        "--env.few_shot_file",
        type=str,
        default=None,
        help="JSONL of messages, or of episodes as messages, shown before the first observation",
    )
    add("--env.chat_template", type=str, default=None, help="file with a chat template in place of the tokenizer's")
    add("--env.chat_template_args", type=json_object, default={}, help="the template's variables, such as '{\"enable_thinking\": false}'")
    add(
        "--env.history",
        type=str,
        default=HISTORIES[0],
        choices=list(HISTORIES),
        help="earlier turns: what the chat template makes of them, which has to be what was sampled; or what was sampled, in any case",
    )
