"""Where a remote reward model answers and how it is asked: an address by itself, or `remote.json`."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from ...core.errors import UserError, did_you_mean
from ..record import VALUES
from .http import check_url, is_url

PROTOCOLS = ("agentprm", "openrlhf", "vllm-pooling")
OUTPUTS = ("linear", "sigmoid")
_FILE = "remote.json"


@dataclass
class Settings:
    """Contents of `remote.json`.

    Args:
        url: of the server; /score_episodes or /pooling is added where there is no path.
        protocol: one of `PROTOCOLS`.
        timeout_s: for one request, all of its answer.
        retries: after the first attempt.
        tokenizer: folder, beside the file or absolute; needed by "openrlhf", whose protocol is in text.
        model: name that a vLLM server goes by.
        values, output: "vllm-pooling" alone, which does not tell them: how V is read, and what stands behind the head (see `Record`).
        episodes_per_request, concurrency: how a batch is dealt out.
        api_key_env: environment variable with a key, sent as a bearer token.
    """

    url: str
    protocol: str = "agentprm"
    timeout_s: float = 60.0
    retries: int = 4
    tokenizer: str | None = None
    model: str | None = None
    values: str = "previous_q"
    output: str = "linear"
    episodes_per_request: int = 16
    concurrency: int = 4
    api_key_env: str | None = None

    def problems(self) -> list[str]:
        found = check_url(self.url) if isinstance(self.url, str) else [f'"url" is {self.url!r}; wanted a text']
        for name, allowed in (("protocol", PROTOCOLS), ("values", VALUES), ("output", OUTPUTS)):
            value = getattr(self, name)
            if value not in allowed:
                found.append(f'"{name}" is {value!r}{did_you_mean(str(value), allowed)} (allowed: {", ".join(allowed)})')
        for name, least in (("retries", 0), ("episodes_per_request", 1), ("concurrency", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                found.append(f'"{name}" is {value!r}; wanted a whole number of {least} or more')
        if not (isinstance(self.timeout_s, int | float) and 0 < self.timeout_s < math.inf):
            found.append(f'"timeout_s" is {self.timeout_s!r}; wanted a number of seconds above 0')
        if self.protocol == "openrlhf" and not self.tokenizer:
            found.append(
                '"tokenizer" is missing: the protocol openrlhf is in text, so it needs the tokenizer that the episodes were made with'
            )
        if self.protocol != "vllm-pooling" and (self.values, self.output) != ("previous_q", "linear"):
            found.append(f'"values" and "output" are read with "vllm-pooling" only; {self.protocol} tells scores as they are')
        if self.api_key_env and not os.environ.get(self.api_key_env):
            found.append(f'"api_key_env" names {self.api_key_env!r}, which the environment does not have')
        return found


def read_settings(path: str) -> Settings:
    """Settings from an address, a JSON file or a folder."""
    if is_url(path):
        last = path_of(path).rpartition("/")[2]
        protocol = {"get_reward": "openrlhf", "pooling": "vllm-pooling"}.get(last, "agentprm")
        settings = Settings(path, protocol)
        if protocol == "openrlhf":
            raise UserError(f'{path}: the protocol openrlhf needs a tokenizer; write {_FILE} with "url", "protocol" and "tokenizer"')
    else:
        file = Path(path) / _FILE if Path(path).is_dir() else Path(path)
        settings = _from_file(file)
    if problems := settings.problems():
        raise UserError([f"{path}: {problem}" for problem in problems])
    return settings


def _from_file(file: Path) -> Settings:
    if not file.is_file():
        raise UserError(
            f"there is no {file}; a remote PRM is an address (http://HOST:PORT), or a folder with {_FILE} such as "
            '{"url": "http://127.0.0.1:8000", "protocol": "agentprm", "timeout_s": 60}'
        )
    try:
        about = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is no JSON object: {error}") from error
    allowed = [f.name for f in fields(Settings)]
    unknown = [f"{file} has the unknown key {name!r}{did_you_mean(name, allowed)}" for name in about if name not in allowed]
    if unknown or "url" not in about:
        raise UserError(unknown + ([] if "url" in about else [f'{file} has no "url"']))
    if isinstance(about.get("tokenizer"), str):
        beside = file.parent / about["tokenizer"]
        about["tokenizer"] = str(beside.resolve()) if beside.is_dir() else about["tokenizer"]
    return Settings(**about)


def path_of(url: str) -> str:
    return urlsplit(url).path.rstrip("/")
