"""Scoring: all turns of an episode in one causal pass.

A turn's score depends only on what comes before its end, so one pass over the whole episode gives what scoring every prefix on its own
gives, at the cost of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..core.advantages import previous_values
from ..core.batches import ProcessScores
from ..core.errors import UserError
from ..data.layout import Span, TurnPositions, turn_positions
from .model import OUTPUTS, Record, check_checkpoint, load_prm, read_out, read_out_on_call, start_from

if TYPE_CHECKING:
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
        options: dtype, device, attn_implementation; those that the entry's `load` does not take are left out.
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

    def __init__(self, model: torch.nn.Module, record: Record) -> None:
        self.model = model
        self.record = record

    @classmethod
    def load(cls, path: str, *, dtype: str = "fp32", attn_implementation: str = "sdpa", device: str | torch.device = "cpu") -> ScalarPRM:
        model = load_prm(path, dtype=dtype, attn_implementation=attn_implementation)
        return cls(model.to(device), Record.load(path))

    check = staticmethod(check_checkpoint)
    start = staticmethod(start_from)
    on_call = staticmethod(read_out_on_call)

    @staticmethod
    def objective(train: Sequence[Episode], args: Any, labels: Labels | None) -> Objective:
        from .objective import TurnRegression

        return TurnRegression(train, args, labels)

    @staticmethod
    def problems(args: Any) -> list[str]:
        found, start = [], args.model.model_name_or_path
        if start and (before := Record.load(start)).method != "unknown" and before.output != OUTPUTS[args.loss.kind]:
            found.append(f"--loss.kind {args.loss.kind} trains a {OUTPUTS[args.loss.kind]} output, but {start} has a {before.output} one")
        if args.loss.value_coef <= 0 and (args.label.name == "td_qv" or args.label.values == "state"):
            found.append(
                f"--loss.value_coef {args.loss.value_coef:g} trains no V, which --label.name {args.label.name} with --label.values "
                f"{args.label.values} reads"
            )
        return found

    @staticmethod
    def recorded(args: Any) -> dict[str, Any]:
        trained = args.loss.value_coef > 0 and args.label.name != "outcome_last"
        return {"values": args.label.values, "output": OUTPUTS[args.loss.kind], "value_trained": trained}

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU; V as the checkpoint's record says."""
        vocabulary = self.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if int(batch.input_ids_BT.max()) >= vocabulary:
            raise UserError(
                f"the episodes hold token {int(batch.input_ids_BT.max())}, but the PRM knows {vocabulary}: it was made for another tokenizer"
            )
        device = next(self.model.parameters()).device
        q_BK, v_BK = read_out(self.model, batch.input_ids_BT.to(device), batch.attention_mask_BT.to(device), batch.positions)
        if self.record.output == "sigmoid":
            q_BK, v_BK = q_BK.sigmoid(), v_BK.sigmoid()
        return values_as_recorded(q_BK.cpu(), v_BK.cpu(), batch.positions.mask_BK, self.record)


def values_as_recorded(q_BK: torch.Tensor, v_BK: torch.Tensor, mask_BK: torch.Tensor, record: Record) -> ProcessScores:
    """V(s_t) = Q of the turn before, with V(s_0) read at the end of the prompt ("previous_q"); or V as read ("state")."""
    q_BK = torch.where(mask_BK, q_BK, 0.0)
    v_BK = torch.where(mask_BK, v_BK, 0.0)
    if record.values == "previous_q":
        v_BK = previous_values(q_BK, v_BK[:, 0], mask_BK)
    return ProcessScores(q_BK, v_BK)


def score_all(
    prm: RewardModel,
    token_ids: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
    *,
    max_tokens: int = 16_384,
    names: Sequence[str] = (),
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(q_K, v_K) of each episode, batched by length so that little is padding.

    Args:
        max_tokens: padded tokens a batch.
        names: of the episodes, for the messages of what fails.
    """
    result: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(token_ids)
    for rows in length_batches([len(ids) for ids in token_ids], max_tokens):
        told = [names[i] for i in rows] if names else ()
        scores = prm.score(make_batch([token_ids[i] for i in rows], [spans[i] for i in rows], told))
        for row, i in enumerate(rows):
            turns = len(spans[i])
            result[i] = (scores.q_BK[row, :turns].clone(), scores.v_BK[row, :turns].clone())
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
