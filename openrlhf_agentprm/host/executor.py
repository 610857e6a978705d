"""Our agent executor inside the host's rollout actors: registered environments, played token-exactly.

The host loads this file as `--train.agent_func_path` and builds `AgentExecutor` without arguments; the driver's settings arrive in an
environment variable of the job. Environments run in a pool of processes owned by the rollout actor, or in pools that Ray places.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase

from openrlhf_agentprm.data.episode import Status
from openrlhf_agentprm.host.determinism import TurnSeeds
from openrlhf_agentprm.host.env_pools import AsyncPool, RayPools
from openrlhf_agentprm.host.spare_prompts import rollout_of
from openrlhf_agentprm.host.turn_limits import rollout_settings
from openrlhf_agentprm.rollout.builder import Assignment, EpisodeBuilder
from openrlhf_agentprm.rollout.config import EnvConfig
from openrlhf_agentprm.rollout.pool import Reply

logger = logging.getLogger(__name__)
_GIVEN_UP = "given up"
_STATUS_OF = {"error": Status.ENV_ERROR, "died": Status.ENV_ERROR, "timeout": Status.TIMEOUT}


class _Played:
    """One episode: its rollout, seeds by attempt and turn, what is logged of it, the policy versions of each turn's first and last token.

    No dataclass, which asks for its module by name: the host loads this file without one.
    """

    def __init__(self, rollout: int, seed_of: Callable[[int, int], int | None]) -> None:
        self.rollout = rollout
        self.seed_of = seed_of
        self.logs: dict[str, float] = {"env_retries": 0, "env_seconds": 0.0}
        self.versions: list[tuple[int, int]] = []


class AgentExecutor(AgentExecutorBase):
    """Plays one episode for each sample that the host asks for."""

    def __init__(self) -> None:
        settings = rollout_settings()
        self.config = EnvConfig(**{**settings["env"], "stop_token_ids": tuple(settings["env"].get("stop_token_ids", ()))})
        self.policy = settings["policy"]
        self.chat = self.config.chat(self.policy)
        self.workers = RayPools(self.config) if self.config.num_cpus else AsyncPool(self.config.pool())
        self.seeds = TurnSeeds()
        self._given_up = 0  # the last rollout whose episodes nobody waits for any more
        self._sampling: dict[asyncio.Task[Any], int] = {}  # what is in the engine, and of which rollout

    async def give_up(self, rollout: int) -> None:
        """End the episodes of a rollout and those before it; back when none of them is in the engine, so that its cache can be emptied."""
        self._given_up = max(self._given_up, rollout)
        asked = [task for task, of in self._sampling.items() if 0 < of <= self._given_up]
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    async def execute(
        self, prompt: str, label: str, sampling_params: Any, max_length: int, hf_tokenizer: Any, llm_engine: Any, images: Any = None
    ) -> dict[str, Any]:
        """The host's contract: play the task named in `label`, answer tokens, action ranges and reward.

        An episode whose environment broke is played again up to `--env.max_retries` times; then it is answered as a placeholder with its
        status, which takes part in no statistic and no loss.
        """
        task = json.loads(label)
        sampling = {"temperature": sampling_params.temperature, "top_p": sampling_params.top_p}
        assignment = Assignment(self.config.name, task["task_id"], task["split"], task["seed"], 0, self.policy, "online", sampling)
        played = _Played(rollout_of(sampling_params), self.seeds.episode(label, sampling_params.seed))
        builder = await self._play(assignment, sampling_params, max_length, llm_engine, played)
        while builder.episode().status in (Status.ENV_ERROR, Status.TIMEOUT) and played.logs["env_retries"] < self.config.max_retries:
            played.logs["env_retries"] += 1
            builder = await self._play(assignment, sampling_params, max_length, llm_engine, played)
        if (error := builder.episode().error) and error != _GIVEN_UP:
            _tell_once(f"{self.config.name}: {error}")
        return self._response(prompt, label, builder, played, with_logprobs=sampling_params.logprobs is not None)

    async def _play(
        self, assignment: Assignment, sampling_params: Any, max_length: int, llm_engine: Any, played: _Played
    ) -> EpisodeBuilder:
        """One attempt, which is noted in `played`."""
        played.versions.clear()
        builder = EpisodeBuilder(assignment, self.chat, self.config.limits(max_length), graded=self.workers.graded)

        async def ask(request: dict[str, Any]) -> Reply:
            started = time.monotonic()
            reply = await self.workers.ask(worker, request)
            played.logs["env_seconds"] += time.monotonic() - started
            return reply

        async with self.workers.worker() as worker:
            if self._is_over(builder, played):
                return builder
            reply = await ask(builder.request())
            if _broke(builder, reply):
                return builder
            builder.begin(reply.value)
            while not self._is_over(builder, played):
                seed = played.seed_of(int(played.logs["env_retries"]), len(played.versions))
                sampled = asyncio.ensure_future(self._sample(builder, sampling_params, seed, llm_engine))
                self._sampling[sampled] = played.rollout
                try:
                    tokens, logprobs, sampled_by = await sampled
                except asyncio.CancelledError:
                    if not self._is_over(builder, played):
                        raise
                    return builder
                finally:
                    del self._sampling[sampled]
                played.versions.append(sampled_by)
                reply = await ask({"do": "step", "action": builder.act(tokens, logprobs)})
                if _broke(builder, reply):
                    return builder
                builder.observe(reply.value)
        return builder

    def _is_over(self, builder: EpisodeBuilder, played: _Played) -> bool:
        """Whether there is nothing more to play; an episode that was given up ends here."""
        if 0 < played.rollout <= self._given_up and not builder.finished:
            builder.fail(Status.TRUNCATED, _GIVEN_UP)
        return builder.finished

    async def _sample(
        self, builder: EpisodeBuilder, sampling_params: Any, seed: int | None, llm_engine: Any
    ) -> tuple[list[int], list[float], tuple[int, int]]:
        params = sampling_params.clone()
        params.seed = seed
        params.extra_args = None
        params.max_tokens = builder.budget
        # The host's 1 forbids the engine to end a turn at once. The policy may, so its samples would be another policy's.
        params.min_tokens = 0
        params.stop_token_ids = self.chat.stop_token_ids
        answered = await llm_engine.generate(list(builder.token_ids), params)
        output = answered.outputs[0]
        tokens = list(output.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(tokens, output.logprobs or [], strict=False)]
        return tokens, logprobs, answered.policy_versions

    def _response(
        self,
        prompt: str,
        label: str,
        builder: EpisodeBuilder,
        played: _Played,
        *,
        with_logprobs: bool,
    ) -> dict[str, Any]:
        episode = builder.episode()
        # A placeholder still needs a token that predicts and one that is predicted.
        tokens = episode.token_ids if len(episode.token_ids) > 1 else [self.chat.end_token_id] * 2
        logprobs = episode.logprobs if len(episode.token_ids) > 1 else [0.0, 0.0]
        return {
            "prompt": prompt,
            "label": label,
            "images": None,
            "mm_train_inputs": None,
            "reward": episode.outcome,
            "scores": episode.outcome,
            "observation_tokens": tokens,
            "action_ranges": [(t.action_start, t.action_end) for t in episode.turns],
            "turn_rewards": [t.reward for t in episode.turns],
            "valid_actions": [t.valid_action for t in episode.turns],
            "policy_versions": played.versions,
            "rollout_log_probs": logprobs if with_logprobs else None,
            "truncated": episode.truncated,
            "status": episode.status.value,
            "extra_logs": {"turns": len(episode.turns), "valid_actions": _share_valid(episode), **played.logs},
        }


@functools.cache
def _tell_once(error: str) -> None:
    """The first of every kind of breakage, in the rollout actor's log."""
    logger.warning("an episode broke: %s", error)


def _broke(builder: EpisodeBuilder, reply: Reply) -> bool:
    if reply.kind == "ok":
        return False
    builder.fail(_STATUS_OF[reply.kind], reply.message)
    return True


def _share_valid(episode: Any) -> float:
    return sum(t.valid_action for t in episode.turns) / max(1, len(episode.turns))
