"""A reward model behind an address: ours, one that speaks the host's remote reward model protocol, or vLLM's pooling server.

    agentprm:     POST /score_episodes with token ids and spans → q and v of every turn
    openrlhf:     POST {"query": [text]} → {"rewards": [number]}; Q(s_t, a_t) is the reward of the episode's text up to the end of turn t,
                  V(s_t) that of the turn before, and V(s_0) the reward of the prompt
    vllm-pooling: POST /pooling with token ids → numbers at every token, read as a checkpoint of ours is: Q at end − 1, V at start − 1

Nothing but the address given is asked. An answer that is late, wrong or none is asked for again, then it is an error that names the episodes;
no score is ever made up.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import torch

from ...agents.chat import load_tokenizer
from ...core.batches import ProcessScores
from ...core.errors import UserError
from ...data.layout import Span
from ..record import SCALES, Record
from ..scoring import ScoreBatch, values_as_recorded
from ..vocabulary import check_same_vocabulary, vocabulary_digest
from .http import Address, WrongAnswer
from .remote_settings import Settings, path_of, read_settings
from .separators import episodes_of

_PATHS = {"agentprm": "/score_episodes", "vllm-pooling": "/pooling"}
_Turns = tuple[list[float], list[float]]  # q and v by turn


class RemotePRM:
    """Scores over HTTP (registry entry `remote`).

    Args:
        settings: where and how.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.address = Address(_full_url(settings), settings.timeout_s, settings.retries, headers)
        self._tokenizer = load_tokenizer(settings.tokenizer) if settings.protocol == "openrlhf" and settings.tokenizer else None
        self.record = Record(kind="remote", method="remote", values=settings.values, output=settings.output, value_trained=False)

    @classmethod
    def load(cls, path: str) -> RemotePRM:
        """From an address, a JSON file, or a folder with `remote.json` (see `Settings`).

        Raises:
            UserError: all that is wrong with the settings.
        """
        return cls(read_settings(path))

    @classmethod
    def check(cls, path: str, policy: str | None = None) -> None:
        """Ask a server of ours what it serves; of other protocols, check the settings and the tokenizer that they name.

        Raises:
            UserError: the settings are wrong, ours does not answer, or it speaks other tokens than the policy.
        """
        settings = read_settings(path)
        if policy is not None and settings.tokenizer:
            check_same_vocabulary(settings.tokenizer, policy)
        if settings.protocol != "agentprm":
            return
        told = cls(settings).health()
        if policy is not None and told.get("vocabulary") != vocabulary_digest(load_tokenizer(policy)):
            raise UserError(
                f"the PRM {told.get('model')!r} at {path} and the policy {policy!r} have different vocabularies: it would score other words "
                "than were said"
            )

    @classmethod
    def describe(cls, path: str) -> Record:
        """What a server of ours tells of its model; of others nothing is known, so their V counts as untrained."""
        prm = cls(read_settings(path))
        told = prm.health() if prm.settings.protocol == "agentprm" else {}
        allowed = {"method": _is_text, "values": _is_text, "output": _is_text, "value_trained": _is_flag, "scale": _is_scale}
        known = {name: told[name] for name, well in {**allowed, "step_delimiter": _are_ids}.items() if name in told and well(told[name])}
        return replace(prm.record, **known)

    def health(self) -> dict[str, Any]:
        """What a server of ours tells of its model."""

        def read(answer: Any) -> dict[str, Any]:
            if not (isinstance(answer, dict) and "digest" in answer):
                raise WrongAnswer(f"{_brief(answer)}; wanted what agentprm serve tells of its model")
            return answer

        base = self.address.url.removesuffix(_PATHS["agentprm"])
        return Address(base, self.address.timeout_s, self.address.retries, self.address.headers).ask(
            "the state of the remote scorer", None, read, path=f"{path_of(base)}/health"
        )

    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU.

        Raises:
            UserError: a request failed for good; names its episodes.
        """
        tokens, spans = episodes_of(batch)
        size = self.settings.episodes_per_request
        asked = [i for i, of_row in enumerate(spans) if of_row]  # a row without turns has no score
        parts = [asked[start : start + size] for start in range(0, len(asked), size)]
        ask: Callable[..., list[_Turns]] = {"agentprm": self._episodes, "openrlhf": self._texts, "vllm-pooling": self._pooled}[
            self.settings.protocol
        ]

        def scored(rows: list[int]) -> list[_Turns]:
            what = _identity(rows, tokens, spans, batch.names)
            return ask(what, [tokens[i] for i in rows], [spans[i] for i in rows])

        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            found = [turns for part in pool.map(scored, parts) for turns in part]
        q_BK, v_BK = torch.zeros(batch.positions.mask_BK.shape), torch.zeros(batch.positions.mask_BK.shape)
        for row, (q, v) in zip(asked, found, strict=True):
            q_BK[row, : len(q)], v_BK[row, : len(v)] = torch.tensor(q), torch.tensor(v)
        if self.settings.protocol == "agentprm":  # V as the server reads it
            return ProcessScores(q_BK, v_BK)
        return values_as_recorded(q_BK, v_BK, batch.positions.mask_BK, self.record)

    def _episodes(self, what: str, tokens: list[list[int]], spans: list[list[Span]]) -> list[_Turns]:
        def read(answer: Any) -> list[_Turns]:
            episodes = _list(answer, "episodes", len(tokens))
            return [_turns(entry, len(s)) for entry, s in zip(episodes, spans, strict=True)]

        return self.address.ask(what, {"episodes": [{"token_ids": t, "spans": s} for t, s in zip(tokens, spans, strict=True)]}, read)

    def _texts(self, what: str, tokens: list[list[int]], spans: list[list[Span]]) -> list[_Turns]:
        assert self._tokenizer is not None
        ends = [[s[0][0], *(end for _, end in s)] for s in spans]  # the prompt, then every turn
        texts = [self._tokenizer.decode(t[:end], skip_special_tokens=False) for t, e in zip(tokens, ends, strict=True) for end in e]
        prompts = [self._tokenizer.decode(t[: e[0]], skip_special_tokens=False) for t, e in zip(tokens, ends, strict=True) for _ in e]
        payload = {"query": texts, "prompts": prompts, "labels": [None] * len(texts)}
        numbers = iter(self.address.ask(what, payload, lambda answer: [_number(x) for x in _list(answer, "rewards", len(texts))]))
        found = [[next(numbers) for _ in e] for e in ends]
        return [(rewards[1:], rewards[:-1]) for rewards in found]

    def _pooled(self, what: str, tokens: list[list[int]], spans: list[list[Span]]) -> list[_Turns]:
        payload = {"input": tokens, "task": "token_classify", "use_activation": False, "encoding_format": "float"}
        payload |= {"model": self.settings.model} if self.settings.model else {}

        def read(answer: Any) -> list[_Turns]:
            data = {entry.get("index"): entry for entry in _list(answer, "data", len(tokens)) if _indexed(entry)}
            if data.keys() != set(range(len(tokens))):
                raise WrongAnswer(f"the entries have the indices {_brief(sorted(data))}; wanted 0 to {len(tokens) - 1}, each once")
            return [self._at_turns(_list(data[i], "data", len(t)), s) for i, (t, s) in enumerate(zip(tokens, spans, strict=True))]

        return self.address.ask(what, payload, read)

    def _at_turns(self, by_token: list[Any], spans: list[Span]) -> _Turns:
        q = [self._label(by_token[end - 1]) for _, end in spans]
        return q, [self._label(by_token[start - 1]) for start, _ in spans]

    def _label(self, numbers: Any) -> float:
        if not (isinstance(numbers, list) and len(numbers) == 1):
            raise WrongAnswer(f"{_brief(numbers)} at a token; wanted one number, as a scalar PRM gives")
        value = _number(numbers[0])
        return float(torch.tensor(value).sigmoid()) if self.settings.output == "sigmoid" else value


def identity_of(path: str) -> str:
    """A fingerprint of a remote scorer: its settings, and the digest of the model that a server of ours tells."""
    settings = read_settings(path)
    told = RemotePRM(settings).health()["digest"] if settings.protocol == "agentprm" else ""
    return hashlib.sha256(json.dumps([asdict(settings), told], sort_keys=True).encode()).hexdigest()[:16]


def _full_url(settings: Settings) -> str:
    path = _PATHS.get(settings.protocol)
    base = settings.url.rstrip("/")
    return base if path is None or base.endswith(path) else base + path


def _identity(rows: Sequence[int], tokens: Sequence[Sequence[int]], spans: Sequence[Sequence[Span]], names: Sequence[str]) -> str:
    """Which episodes are asked for: by name where they have one, else by their place in the batch; with a digest of their tokens."""
    told = []
    for i in rows[:4]:
        digest = hashlib.sha256(repr(list(tokens[i])).encode()).hexdigest()[:8]
        name = names[i] if names else f"number {i} of the batch"
        told.append(f"{name} ({len(spans[i])} turns, {len(tokens[i])} tokens, {digest})")
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    return f"scores of {len(rows)} episode(s): {', '.join(told)}{more}"


def _list(answer: Any, key: str, count: int) -> list[Any]:
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise WrongAnswer(f'{_brief(answer)}; wanted an object with a list "{key}"')
    if len(found) != count:
        raise WrongAnswer(f'"{key}" has {len(found)} entries; {count} were asked for')
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_scale(value: Any) -> bool:
    return value in list(SCALES)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(ids, list) and ids and all(type(i) is int for i in ids) for ids in value)


def _indexed(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("index")) is int


def _turns(entry: Any, count: int) -> _Turns:
    turns = _list(entry, "turns", count)
    if not all(isinstance(turn, dict) for turn in turns):
        raise WrongAnswer(f"{_brief(turns)}; wanted objects with q and v")
    return [_number(turn.get("q")) for turn in turns], [_number(turn.get("v")) for turn in turns]


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise WrongAnswer(f"{_brief(value)} where a score was wanted")
    return float(value)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"
