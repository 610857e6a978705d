"""A policy's fingerprint: two models under one name are told apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

_WHOLE = 2 << 30  # bytes of weights that are read whole; of larger files, both ends
_PART = 16 << 20


def policy_digest(path: str) -> str:
    """SHA-256 over a model folder's config, tokenizer and weights; over the name and the commit of a hub model."""
    folder = Path(path)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(f"{path}@{_commit(path)}".encode())
        return digest.hexdigest()[:16]
    names = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin", ".json", ".jinja"))
    large = sum(f.stat().st_size for f in names) > _WHOLE
    for file in names:
        digest.update(f"{file.name}:{file.stat().st_size}".encode())
        with file.open("rb") as data:
            if large and file.stat().st_size > 2 * _PART:
                digest.update(data.read(_PART))
                data.seek(-_PART, 2)
                digest.update(data.read())
            else:
                while chunk := data.read(_PART):
                    digest.update(chunk)
    return digest.hexdigest()[:16]


def _commit(name: str) -> str:
    """The commit of a hub model that is in use here; empty where none can be told."""
    from transformers import AutoConfig

    try:
        return getattr(AutoConfig.from_pretrained(name), "_commit_hash", None) or ""
    except (OSError, ValueError):
        return ""


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
