"""The HTTP application: /score_episodes, the host's /get_reward, /health and /metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..prm.scoring import RewardModel
from .batcher import Batcher, Scores
from .requests import Item, Limits, Reader, RequestError

logger = logging.getLogger(__name__)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """What /metrics tells, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("agentprm_requests", "Requests by path and status", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("agentprm_request_seconds", "Seconds a request", ["path"], buckets=_SECONDS, registry=self.registry)
        self.batch = Histogram("agentprm_batch_episodes", "Episodes scored together", buckets=_COUNTS, registry=self.registry)
        self.together = Histogram("agentprm_batch_requests", "Requests scored together", buckets=_COUNTS, registry=self.registry)
        self.scoring = Histogram("agentprm_batch_seconds", "Seconds a batch", buckets=_SECONDS, registry=self.registry)
        self.tokens = Counter("agentprm_tokens", "Tokens scored", registry=self.registry)
        self.queued = Gauge("agentprm_queued_tokens", "Tokens that wait", registry=self.registry)

    def observe_batch(self, requests: int, episodes: int, tokens: int, seconds: float) -> None:
        self.together.observe(requests)
        self.batch.observe(episodes)
        self.tokens.inc(tokens)
        self.scoring.observe(seconds)

    def observe(self, path: str, status: int, seconds: float) -> None:
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)


class Service:
    """A reward model behind HTTP.

    Args:
        prm: scores.
        reader: makes episodes of bodies.
        about: what /health tells of the model.
        max_batch_tokens, max_wait_s: see `Batcher`.
    """

    def __init__(
        self, prm: RewardModel, reader: Reader, about: dict[str, Any], *, max_batch_tokens: int = 16_384, max_wait_s: float = 0.002
    ) -> None:
        self.reader = reader
        self.about = about
        self.limits: Limits = reader.limits
        self.metrics = Metrics()
        self.batcher = Batcher(
            prm,
            max_tokens=max_batch_tokens,
            max_wait_s=max_wait_s,
            queued_tokens=self.limits.queued_tokens,
            observe=self.metrics.observe_batch,
        )
        self.metrics.queued.set_function(lambda: self.batcher.queued)

    async def answer(
        self, request: Request, read: Callable[[Any], list[Item]], shape: Callable[[list[Item], Scores], dict[str, Any]]
    ) -> Response:
        started = time.perf_counter()
        try:
            content = await asyncio.wait_for(self._content(request, read, shape), self.limits.seconds)
            response: Response = JSONResponse(content)
        except RequestError as error:
            response = refusal(error)
        except asyncio.TimeoutError:
            response = refusal(RequestError(504, f"not scored within {self.limits.seconds:g} seconds"))
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            logger.exception("a request could not be scored")
            response = refusal(RequestError(500, f"the model failed: {type(error).__name__}: {error}"))
        self.metrics.observe(request.url.path, response.status_code, time.perf_counter() - started)
        return response

    async def _content(
        self, request: Request, read: Callable[[Any], list[Item]], shape: Callable[[list[Item], Scores], dict[str, Any]]
    ) -> dict[str, Any]:
        raw = await self._body(request)
        items = await asyncio.to_thread(lambda: read(_parsed(raw)))
        return shape(items, await asyncio.wrap_future(self.batcher.submit(items)))  # cancelled with this task when time is up

    async def _body(self, request: Request) -> bytes:
        limit = self.limits.body_bytes
        length = request.headers.get("content-length", "0")
        parts, size = [], int(length) if length.isdigit() else 0
        if size <= limit:
            size = 0
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limit:
                    break
        if size > limit:
            raise RequestError(413, f"the body has {size} bytes or more; at most {limit} are taken")
        return b"".join(parts)


def build_app(service: Service) -> FastAPI:
    """Paths; no page of documentation, which would load scripts from elsewhere."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/score_episodes")
    async def score_episodes(request: Request) -> Response:
        return await service.answer(request, service.reader.episodes, by_turn)

    @app.post("/get_reward")
    async def get_reward(request: Request) -> Response:
        return await service.answer(request, service.reader.queries, as_rewards)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok", **service.about})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        paths = "POST /score_episodes, POST /get_reward, GET /health, GET /metrics"
        return refusal(RequestError(error.status_code, f"{request.method} {request.url.path} is not here (there are {paths})"))

    return app


def by_turn(items: list[Item], scores: Scores) -> dict[str, Any]:
    """q, v and progress = q − v of every turn."""
    return {
        "episodes": [
            {
                "id": item.name,
                "turns": [
                    {"start": start, "end": end, "q": q, "v": v, "progress": q - v}
                    for (start, end), q, v in zip(item.spans, q_K, v_K, strict=True)
                ],
            }
            for item, (q_K, v_K) in zip(items, scores, strict=True)
        ]
    }


def as_rewards(items: list[Item], scores: Scores) -> dict[str, Any]:
    """As the host's own reward server answers: `rewards` for the advantage, `scores` for its filter, numbers for its log."""
    rewards = [q_K[-1] for q_K, _ in scores]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"prm_value": [v_K[-1] for _, v_K in scores]}}


def refusal(error: RequestError) -> JSONResponse:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {"Connection": "close"} if error.status == 413 else {}
    return JSONResponse({"error": {"status": error.status, "problems": error.problems}}, error.status, headers=headers)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error
