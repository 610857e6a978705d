"""One episode of a verifiers environment, in the order in which its own loop goes: the stop conditions are asked behind each message of the
agent, then the environment answers; at the end it cleans up and its rubric gives the reward, and cleans up as well."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....core.errors import UserError
from ..common import brief
from .library import RewardErrors, rubrics

LIMITS = ("max_turns_reached", "max_total_completion_tokens_reached", "prompt_too_long")


@dataclass
class Came:
    """What came of a message: new messages of the environment; at the end the reward, and whether a limit ended it."""

    messages: list[Any] = field(default_factory=list)
    ended: bool = False
    truncated: bool = False
    reward: float = 0.0


class Episode:
    """A rollout's state, and the prompt that the agent has seen so far.

    Args:
        vf: the package.
        env: the environment.
        name: for messages.
    """

    def __init__(self, vf: Any, env: Any, name: str) -> None:
        self._vf, self._env, self._name = vf, env, name
        self._prompt: list[Any] = []
        self.state: Any = None
        self._cleaned: list[Any] = []
        self._raised: list[str] = []
        for rubric in rubrics(env.rubric):
            rubric.logger = RewardErrors(rubric, self._raised)

    async def begin(self, row: Mapping[str, Any], client: Any) -> list[Any]:
        """The prompt."""
        env = self._env
        self.state = await env.init_state(dict(row), client, "agent", {})
        self._cleaned.clear()
        self.state["timing"].generation.start = time.time()
        try:
            made = await env.setup_state(self.state)
            self.state = self.state if made is None else made
            if await env.is_completed(self.state):
                self._raise_error()
                raise RuntimeError(f"{self._name} ended before its first turn ({self.state.get('stop_condition')})")
            self._prompt = self._normalized(await env.get_prompt_messages(self.state))
        except self._vf.Error as error:
            raise self._failed("the beginning", error) from error
        return self._prompt

    async def turn(self, content: str | None, calls: Sequence[Any]) -> Came:
        """Give a message of the agent's."""
        try:
            return await self._turn(content, calls)
        except self._vf.OverlongPromptError:
            self.state["prompt_too_long"] = self.state["is_truncated"] = True
            return await self._end([], truncated=True)
        except self._vf.Error as error:
            raise self._failed("a turn", error) from error

    async def _turn(self, content: str | None, calls: Sequence[Any]) -> Came:
        env, state = self._env, self.state
        await env.add_model_response(state, self._prompt, self._response(content, list(calls)))
        if await env.is_completed(state):
            self._raise_error()
            return await self._end([], await self._by_a_limit())
        before = [*self._prompt, *state["trajectory"][-1]["completion"]]
        now = self._normalized(await env.get_prompt_messages(state))
        if state.get("final_env_response") is not None:
            await env.is_completed(state)
            self._raise_error()
            return await self._end(self._normalized(state["final_env_response"]), truncated=False)
        if now[: len(before)] != before:
            raise UserError(f"{self._name} rewrites what was said before (get_prompt_messages); only one that adds to it is played")
        self._prompt = now
        return Came(now[len(before) :])

    def _response(self, content: str | None, calls: list[Any]) -> Any:
        types = self._vf_types()
        message = types.ResponseMessage(
            content=content, tool_calls=calls or None, finish_reason="tool_calls" if calls else "stop", is_truncated=False, tokens=None
        )
        return types.Response(id="", created=0, model="agent", usage=None, message=message)

    def call(self, name: str, arguments: str) -> Any:
        """A call of a tool, as messages hold it."""
        return self._vf_types().ToolCall(id=f"call_{len(self.state['trajectory'])}", name=name, arguments=arguments)

    async def _by_a_limit(self) -> bool:
        """Whether nothing but a limit on turns or tokens ended it; the one turn of an environment of single turns is none."""
        env, state = self._env, self.state
        told = state.get("stop_condition")
        if told not in LIMITS or (told == "max_turns_reached" and env.max_turns == 1):
            return False
        others = [condition for condition in env._stop_conditions if condition.__name__ not in LIMITS]
        found = [await env._render_stop(state, condition) for condition in others]
        state["stop_condition"] = told
        self._raise_error()
        return not any(found)

    async def _end(self, messages: list[Any], truncated: bool) -> Came:
        env, state = self._env, self.state
        self._raised.clear()
        try:
            await self._clean_up(env)
            if env.rubric.has_group_rewards:
                await env.rubric.score_group([state])
            else:
                await env.rubric.score_rollout(state)
        finally:
            await self._clean_up(env.rubric)
        if self._raised:
            raise RuntimeError(f"the reward of {self._name} failed: {'; '.join(self._raised)}")
        return Came(messages, True, truncated, state["reward"])

    async def abandon(self) -> None:
        """Clean up what is left of an episode."""
        if self.state is not None:
            try:
                await self._clean_up(self._env)
            finally:
                await self._clean_up(self._env.rubric)

    async def _clean_up(self, owner: Any) -> None:
        """Once in an episode, even where it raises."""
        if owner not in self._cleaned:
            self._cleaned.append(owner)
            await owner.cleanup(self.state)

    def _normalized(self, messages: Any) -> list[Any]:
        import verifiers.utils.message_utils as utils

        return list(utils.maybe_normalize_messages(messages, field_name="messages"))

    def _vf_types(self) -> Any:
        import verifiers.types as types

        return types

    def _raise_error(self) -> None:
        if (error := self.state.get("error")) is not None:
            raise self._failed("the episode", error) from (error if isinstance(error, BaseException) else None)

    def _failed(self, where: str, error: Any) -> RuntimeError:
        cause = getattr(error, "__cause__", None)
        why = " from ".join(f"{type(e).__name__}: {brief(e)}" for e in (error, cause) if e is not None)
        return RuntimeError(f"{where} of {self._name} failed: {why}")


def text_of(message: Any, name: str) -> str:
    """A message's text; calls of tools in it are written as an agent writes them."""
    calls = getattr(message, "tool_calls", None) or []
    return "\n".join(filter(None, (_content_of(message, name), *map(_written, calls))))


def _written(call: Any) -> str:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:  # what a model wrote need be no JSON
        arguments = call.arguments
    return json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)


def _content_of(message: Any, name: str) -> str:
    content = message.content
    if content is None or isinstance(content, str):
        return content or ""
    kinds = [part.get("type") for part in content]
    if set(kinds) - {"text"}:
        raise UserError(f"{name} shows more than text ({', '.join(sorted(set(map(str, kinds)) - {'text'}))})")
    return "\n".join(str(part.get("text")) for part in content)


def shown(messages: Sequence[Any], name: str) -> str:
    """Messages as one text, told apart where some are an assistant's."""
    texts = [text_of(message, name) for message in messages]
    if any(message.role == "assistant" for message in messages):
        texts = [f"{message.role.capitalize()}: {text}" for message, text in zip(messages, texts, strict=True)]
    return "\n\n".join(text for text in texts if text)
