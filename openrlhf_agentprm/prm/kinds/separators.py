"""Episodes with a separator behind each action, as step-wise reward models of other makers were trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from ...data.layout import Span, TurnPositions
from ..scoring import ScoreBatch


def marked(ids: Sequence[int], spans: Sequence[Span], separator_ids: Sequence[int], closing_ids: set[int]) -> tuple[list[int], list[Span]]:
    """Tokens with a separator behind each action, and spans whose last tokens are the separators' last.

    A step that says nothing but the end of its message is read where the step before it is, so that no separator follows another.

    >>> marked([1, 2, 3, 4, 9, 5, 6], [(2, 5), (6, 7)], [7, 8], {9})
    ([1, 2, 3, 4, 7, 8, 9, 5, 6, 7, 8], [(2, 6), (8, 11)])
    >>> marked([1, 2, 3, 9, 5], [(1, 3), (3, 4)], [7, 8], {9})
    ([1, 2, 3, 7, 8, 9, 5], [(1, 5), (1, 5)])
    """
    out: list[int] = []
    places: list[Span] = []
    done = 0
    for start, end in spans:
        out += ids[done:start]
        begins = len(out)
        cut = end
        while cut > start and ids[cut - 1] in closing_ids:
            cut -= 1
        if cut == start == done and places:
            places.append(places[-1])
            out += ids[cut:end]
            done = end
            continue
        out += ids[start:cut]
        if list(ids[max(start, cut - len(separator_ids)) : cut]) != list(separator_ids):
            out += separator_ids
        places.append((begins, len(out)))
        out += ids[cut:end]
        done = end
    return out + list(ids[done:]), places


def episodes_of(batch: ScoreBatch) -> tuple[list[list[int]], list[list[Span]]]:
    """Token ids and spans of a padded batch."""
    lengths = batch.attention_mask_BT.sum(1).tolist()
    tokens = [ids[:n] for ids, n in zip(batch.input_ids_BT.tolist(), lengths, strict=True)]
    p: TurnPositions = batch.positions
    rows = zip(p.v_BK.tolist(), p.q_BK.tolist(), p.mask_BK.tolist(), strict=True)
    return tokens, [[(v + 1, q + 1) for v, q, there in zip(*row, strict=True) if there] for row in rows]
