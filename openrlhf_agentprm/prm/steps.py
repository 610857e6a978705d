"""`--prm.step_delimiter`: what ends a step, read from the flags, from labels made before, or from how a PRM was trained."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..agents.chat import load_tokenizer
from ..core.errors import UserError
from ..data.episode import Episode
from ..data.sidecar import read_about
from ..data.steps import Delimiters, Text, in_steps
from .dataset import PRMData, load_data
from .record import Record
from .vocabulary import check_vocabulary

logger = logging.getLogger(__name__)
_TOLD = 8  # delimiters that a message shows


def given_delimiters(prm: Any, model: str | None) -> Delimiters | None:
    """The delimiters of the flags `args.prm`; None where they say nothing.

    Args:
        model: whose tokens they are; its tokenizer is loaded only if a flag is given. None: ids are taken as they are.

    Raises:
        UserError: ids that the tokenizer does not have, a text that is empty or that it cannot write, `none` beside others.
    """
    ids, text = prm.step_delimiter, prm.step_delimiter_text
    if ids is None and text is None:
        return None
    if ids == [()] and text is None:
        return ()
    if () in (ids or []):
        raise UserError("--prm.step_delimiter none stands for whole responses; leave out the other delimiters, or it")
    if model is None and text is not None:
        raise UserError("--prm.step_delimiter_text needs a tokenizer, and none is known here; give token ids with --prm.step_delimiter")
    if model is None:
        return tuple(sorted(set(ids)))
    tokenizer = load_tokenizer(model)
    if beyond := sorted({i for sequence in ids or [] for i in sequence if i >= len(tokenizer)}):
        raise UserError(
            f"--prm.step_delimiter has the token {', '.join(map(str, beyond))}, but the tokenizer of {model!r} has {len(tokenizer)} (0 to "
            f"{len(tokenizer) - 1}); take the ids of this tokenizer, or give the text with --prm.step_delimiter_text"
        )
    return tuple(sorted({*(ids or []), *(delimiters_of_text(tokenizer, text, model) if text is not None else ())}))


def delimiters_of_text(tokenizer: Any, text: str, model: str = "") -> Delimiters:
    r"""Every token whose text ends with `text`, and the sequence that the tokenizer makes of it behind a letter.

    A tokenizer that merges signs writes the end of a paragraph as one of many tokens (".\n\n", ")\n\n", …), so one id is seldom enough. Special
    tokens are none of them.

    Args:
        text: `\n` and `\t` may be written out, as a shell leaves them.

    Raises:
        UserError: it is empty, or the tokenizer has no way to write it.
    """
    wanted = text.replace("\\n", "\n").replace("\\t", "\t")
    if not wanted:
        raise UserError("--prm.step_delimiter_text is empty; give the text that ends a step, such as '\\n\\n'")
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    found = {(i,) for i, written in enumerate(texts) if written.endswith(wanted) and i not in special}
    before, both = (tuple(tokenizer.encode(part, add_special_tokens=False)) for part in ("a", "a" + wanted))
    behind = both[len(before) :]
    if both[: len(before)] == before and behind and not any(behind[-1:] == one for one in found) and wanted in tokenizer.decode(both):
        found.add(behind)
    if not found:
        raise UserError(
            f"the tokenizer of {model or tokenizer.name_or_path!r} has no token that ends with {wanted!r} and cannot write it: steps have to be "
            "told by another text, or by ids with --prm.step_delimiter"
        )
    return tuple(sorted(found))


def trained_on(name: str, paths: Iterable[str]) -> list[tuple[str, Record]]:
    """Each checkpoint behind these reward models with its record; of what is served elsewhere, the address with what the server tells.

    Args:
        name: of the registry, or "auto".
    """
    from .kinds import AUTO, kind_of, records_of
    from .kinds.ensemble import checkpoints_of

    found: list[tuple[str, Record]] = []
    for path in paths:
        if (kind_of(path) if name == AUTO else name) == "remote":
            found += [(path, record) for record in records_of("remote", path)]
        else:
            found += [(checkpoint, Record.load(checkpoint)) for checkpoint in checkpoints_of(name, path)]
    return found


def settle(given: Delimiters | None, trained: Iterable[tuple[str, Record]]) -> Delimiters:
    """What ends a step when these PRMs score: the flags' delimiters, else those that all of them were trained with.

    Of a PRM that another maker trained or serves nothing is known, and it goes with any.

    Args:
        trained: from `trained_on`.

    Raises:
        UserError: nothing is given, and the PRMs were trained with unlike ones.
    """
    known = {path: record.delimiters for path, record in trained if record.method not in ("unknown", "remote")}
    if given is None:
        if len(set(known.values())) > 1:
            told = "; ".join(f"{path}: {shown(delimiters)}" for path, delimiters in known.items())
            raise UserError(f"the PRMs were trained with unlike step delimiters ({told}); use them apart, or give --prm.step_delimiter")
        return next(iter(known.values()), ())
    for path, delimiters in known.items():
        if set(delimiters) != set(given):
            logger.warning(
                "%s was trained on %s, and is now given %s: its scores stand where they were not trained",
                path,
                shown(delimiters),
                shown(given),
            )
    return given


def shown(delimiters: Delimiters) -> str:
    """For messages."""
    if not delimiters:
        return "whole responses"
    told = " ".join(",".join(map(str, d)) for d in delimiters[:_TOLD])
    return f"steps that end with {told}{f' … ({len(delimiters)})' if len(delimiters) > _TOLD else ''}"


def to_steps(episodes: Sequence[Episode], delimiters: Delimiters, where: str, text: Text | None = None) -> list[Episode]:
    """The episodes in steps; that no delimiter is met is told.

    Args:
        where: what the episodes are of, for the message.
        text: as in `data.steps.in_steps`.
    """
    if not delimiters:
        return list(episodes)
    found = [in_steps(e, delimiters, text) for e in episodes]
    tell(sum(len(e.turns) for e in episodes), sum(len(e.turns) for e in found), delimiters, where)
    return found


def tell(turns: int, steps: int, delimiters: Delimiters, where: str) -> None:
    """Warn where a delimiter divides nothing."""
    if turns == steps:
        logger.warning(
            "none of the %d turns of %s is divided by %s: 1.0 steps a turn. Are these the ids of its tokenizer, which may merge a delimiter "
            "with the sign before it? (--prm.step_delimiter_text takes all such tokens)",
            turns,
            where,
            shown(delimiters),
        )


def step_loader(args: Any) -> Callable[..., PRMData]:
    """`load_data` for training: it divides responses as the flags, the sidecar or the PRM that training starts from say.

    What they come to is put into `args.prm.step_delimiter`.

    Raises:
        UserError: the flags and the sidecar say unlike things.
    """
    model = args.model.model_name_or_path
    given = given_delimiters(args.prm, model)
    if args.label.sidecar:
        made = as_delimiters(read_about(args.label.sidecar).get("step_delimiter", []))
        if given is not None and set(given) != set(made):
            raise UserError(f"--label.sidecar {args.label.sidecar} labels {shown(made)}, but the flags ask for {shown(given)}")
        given = made
    args.prm.step_delimiter = delimiters = settle(given, [(model, Record.load(model))])
    return functools.partial(_load, delimiters, model)


def _load(delimiters: Delimiters, model: str, paths: Sequence[str], **options: Any) -> PRMData:
    data = load_data(paths, **options)
    if delimiters:
        check_vocabulary(model, ",".join(paths), data.episodes)  # steps have no text of their own to check
        turns = sum(len(e.turns) for e in data.episodes)
        data.episodes = to_steps(data.episodes, delimiters, ",".join(paths))
        data.steps_per_turn = sum(len(e.turns) for e in data.episodes) / turns
    return data


def as_delimiters(ids: Iterable[Iterable[int]]) -> Delimiters:
    """Read back from JSON."""
    return tuple(sorted(tuple(sequence) for sequence in ids))
