"""Scoring: all turns of an episode in one causal pass.

A turn's score depends only on what comes before its end, so one pass over the whole episode gives what scoring every prefix on its own
gives, at the cost of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..core.advantages import previous_values
from ..core.batches import ProcessScores
from ..core.errors import UserError
from ..data.layout import Span, TurnPositions, turn_positions
from .model import check_checkpoint, load_prm, start_from
from .read_out import read_out, read_out_on_call
from .record import OUTPUTS, Record

if TYPE_CHECKING:
    from typing import Self

    from ..data.episode import Episode
    from .dataset import Labels
    from .objective import Objective


@dataclass
class ScoreBatch:
    """Right-padded token ids with the places of their turns."""

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    positions: TurnPositions
    names: Sequence[str] = ()  # of the episodes, for messages


def make_batch(token_ids: Sequence[Sequence[int]], spans: Sequence[Sequence[Span]], names: Sequence[str] = ()) -> ScoreBatch:
    width = max(1, max((len(ids) for ids in token_ids), default=1))
    input_ids = torch.zeros(len(token_ids), width, dtype=torch.long)
    attention = torch.zeros(len(token_ids), width, dtype=torch.long)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        attention[row, : len(ids)] = 1
    return ScoreBatch(input_ids, attention, turn_positions(spans), names)


class RewardModel(Protocol):
    """What an entry of the registry `reward_models` gives. Its class has `load(path)`, and may take dtype, device and attn_implementation."""

    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn in one pass, (B, K) float32 on the CPU."""


def load_reward_model(name: str, path: str, **options: Any) -> RewardModel:
    """A registered reward model from its checkpoint.

    Args:
        name: registry entry, or "auto": what the checkpoint says that it is.
        options: dtype, device, attn_implementation, reasoner (makes the engine of those that generate); what the entry's `load` does not take
            is left out.
    """
    from .kinds import load_kind

    load = load_kind(name, path).load
    takes = inspect.signature(load).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    return load(path, **{k: v for k, v in options.items() if every or k in takes})


class ScalarPRM:
    """A PRM with one score a token (registry entry `scalar`).

    Args:
        model: from `load_prm`.
        record: how V is read.
    """

    labels: int | None = 1
    """Scores a token; None: as many as the checkpoint has."""
    reader = staticmethod(read_out)

    def __init__(self, model: torch.nn.Module, record: Record) -> None:
        self.model = model
        self.record = record

    @classmethod
    def load(cls, path: str, *, dtype: str = "fp32", attn_implementation: str = "sdpa", device: str | torch.device = "cpu") -> Self:
        model = load_prm(path, dtype=dtype, attn_implementation=attn_implementation, labels=cls.labels)
        return cls(model.to(device), Record.load(path))

    supports: frozenset[str] = frozenset({"packing", "replay"})
    start = staticmethod(start_from)
    on_call = staticmethod(read_out_on_call)

    @classmethod
    def check(cls, path: str, policy: str | None = None) -> None:
        check_checkpoint(path, policy, labels=cls.labels)

    @staticmethod
    def objective(train: Sequence[Episode], args: Any, labels: Labels | None) -> Objective:
        from .kinds.losses import LOSSES

        return LOSSES[args.loss.kind].objective(train, args, labels)

    @staticmethod
    def problems(args: Any) -> list[str]:
        from .kinds.losses import LOSSES

        return LOSSES[args.loss.kind].problems(args)

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        from .kinds.losses import LOSSES

        return LOSSES[args.loss.kind].reads

    @staticmethod
    def recorded(args: Any) -> dict[str, Any]:
        from .kinds.losses import LOSSES

        return {"output": OUTPUTS[args.loss.kind], **LOSSES[args.loss.kind].recorded(args)}

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU; V as the checkpoint's record says."""
        q_BK, v_BK = self.read(batch)
        return values_as_recorded(q_BK, v_BK, batch.positions.mask_BK, self.record)

    def read(self, batch: ScoreBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head, or each head, gives at the ends and the beginnings of turns, through the output; float32 on the CPU.

        Raises:
            UserError: tokens that the model does not know.
        """
        vocabulary = self.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if int(batch.input_ids_BT.max()) >= vocabulary:
            raise UserError(
                f"the episodes hold token {int(batch.input_ids_BT.max())}, but the PRM knows {vocabulary}: it was made for another tokenizer"
            )
        device = next(self.model.parameters()).device
        q_BK, v_BK = self.reader(self.model, batch.input_ids_BT.to(device), batch.attention_mask_BT.to(device), batch.positions)
        if self.record.output == "sigmoid":
            q_BK, v_BK = q_BK.sigmoid(), v_BK.sigmoid()
        return q_BK.cpu(), v_BK.cpu()


def is_plain(kind: Any) -> bool:
    """Whether a kind's scores are one head's, read as `ScalarPRM` reads them; then transformers, vLLM and one pass over a tree give them too."""
    inherits = all(getattr(kind, name, None) is getattr(ScalarPRM, name) for name in ("score", "read", "reader"))
    return isinstance(kind, type) and issubclass(kind, ScalarPRM) and kind.labels == 1 and inherits


def reasons(kind: Any) -> bool:
    """Whether a kind reasons before it scores, which an engine does faster."""
    return "reasoner" in inspect.signature(kind.load).parameters


def values_as_recorded(q_BK: torch.Tensor, v_BK: torch.Tensor, mask_BK: torch.Tensor, record: Record) -> ProcessScores:
    """V(s_t) = Q of the turn before, with V(s_0) read at the end of the prompt ("previous_q") or 0 ("previous_q_from_0"); or V as read ("state")."""
    q_BK = torch.where(mask_BK, q_BK, 0.0)
    v_BK = torch.where(mask_BK, v_BK, 0.0)
    if record.values.startswith("previous_q"):
        first_B = v_BK[:, 0] if record.values == "previous_q" else torch.zeros_like(v_BK[:, 0])
        v_BK = previous_values(q_BK, first_B, mask_BK)
    return ProcessScores(q_BK, v_BK)


def score_all(
    prm: RewardModel,
    token_ids: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
    *,
    max_tokens: int = 16_384,
    names: Sequence[str] = (),
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(q_K, v_K) of each episode, batched by length so that little is padding; what has the same tokens and turns is scored once.

    Args:
        max_tokens: padded tokens a batch.
        names: of the episodes, for the messages of what fails.
    """
    result: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(token_ids)
    equal: dict[tuple[Any, ...], list[int]] = {}
    for i, (ids, its_spans) in enumerate(zip(token_ids, spans, strict=True)):
        equal.setdefault((tuple(ids), tuple(map(tuple, its_spans))), []).append(i)
    owners = list(equal.values())
    for rows in length_batches([len(token_ids[same[0]]) for same in owners], max_tokens):
        firsts = [owners[row][0] for row in rows]
        told = [names[i] for i in firsts] if names else ()
        scores = prm.score(make_batch([token_ids[i] for i in firsts], [spans[i] for i in firsts], told))
        for place, row in enumerate(rows):
            for i in owners[row]:
                turns = len(spans[i])
                result[i] = (scores.q_BK[place, :turns].clone(), scores.v_BK[place, :turns].clone())
    return [entry for entry in result if entry is not None]


def length_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most `max_tokens` padded tokens, shortest first; a longer item is a batch of its own."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[index] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
