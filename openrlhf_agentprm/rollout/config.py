"""Which environment is played and how: the settings behind the `--env.*` flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..agents.chat import ChatFormat, load_tokenizer
from ..agents.few_shot import read_few_shot
from ..core.arguments import plain
from ..core.errors import UserError
from .builder import Limits
from .digest import text_digest
from .nursery import Provision
from .pool import EnvPool, Timeouts


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
        with self.pool(1, spares=0) as pool:
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
