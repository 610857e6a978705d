"""Whether a model speaks the tokens that it is given: a PRM a policy's, a model an episode store's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..agents.chat import load_tokenizer
from ..core.errors import UserError
from ..data.episode import Episode

_READ = 64  # actions that are read back, one an episode, from all over the data


def read_config(path: str) -> Any:
    """A model's configuration.

    Raises:
        UserError: there is none at `path`.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"no model could be loaded from {path!r}: {error}") from error


def vocabulary_digest(tokenizer: Any) -> str:
    """A fingerprint of which text each token id stands for."""
    return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def check_same_vocabulary(prm: str, policy: str) -> None:
    """Refuse a PRM whose tokens are not the policy's."""
    theirs, ours = (load_tokenizer(path).get_vocab() for path in (prm, policy))
    if theirs != ours:
        raise UserError(
            f"the PRM {prm!r} and the policy {policy!r} have different vocabularies ({len(theirs)} and {len(ours)} entries): it would score "
            "other words than were said; train a PRM from this policy"
        )


def check_vocabulary(model: str, dataset: str, episodes: Sequence[Episode]) -> None:
    """Refuse episodes that another tokenizer made: token ids without an embedding, or that read back as other words than were said.

    Raises:
        UserError: names the model and the store, and shows an action that reads back as another.
    """
    size = read_config(model).get_text_config().vocab_size
    largest = max((max(e.token_ids) for e in episodes if e.token_ids), default=0)
    if largest >= size:
        raise UserError(f"{dataset} holds token {largest}, but {model!r} has {size} embeddings: its episodes come from another tokenizer")
    tokenizer = load_tokenizer(model)
    spread = episodes[:: max(1, len(episodes) // _READ)]
    said = [(turn.action, e.token_ids[turn.action_start : turn.action_end]) for e in spread for turn in e.turns[:1] if turn.action]
    read = [(action, tokenizer.decode(tokens, skip_special_tokens=True)) for action, tokens in said]
    others = [(action, text) for action, text in read if _letters(action) not in _letters(text)]
    if 4 * len(others) > len(read):
        raise UserError(
            f"the tokens of {dataset} are not those of {model!r}: the action {others[0][0]!r} reads {others[0][1]!r} there, so its episodes "
            "come from another tokenizer; give a model with the tokenizer that they were collected with"
        )


def _letters(text: str) -> str:
    return "".join(text.split())
