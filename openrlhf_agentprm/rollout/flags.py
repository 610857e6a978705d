"""The `--env.*` flags, shared by every command that plays."""

from __future__ import annotations

import argparse

from ..agents.parsing import ACTION_FORMATS
from ..agents.template import HISTORIES
from ..core.argument_types import cpus, gibibytes, json_object, non_negative_float, non_negative_int, positive_int, seconds
from .builder import INVALID_ACTION
from .config import EnvConfig


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
