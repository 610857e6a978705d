"""Kind `implicit`: process rewards that a language model holds against the one it was trained from, learnt from outcomes alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ...agents.digest import policy_digest
from ...core.batches import ProcessScores
from ...core.errors import UserError
from ...core.implicit import implicit_loss, implicit_scores, turn_rewards
from ...data.episode import Episode
from ...data.layout import turn_ids
from ..dataset import Labels, PRMBatch, check_outcomes, collate
from ..record import Record
from ..scoring import ScoreBatch, length_batches
from ..vocabulary import check_same_vocabulary
from .language_model import (
    action_logprobs_on_call,
    check_language_model,
    load_language_model,
    score_logprobs,
    unpartitioned,
)

_MAX_TOKENS = 16_384  # padded tokens of a batch under the reference


class ImplicitPRM:
    """A language model and its reference as a PRM (registry entry `implicit`; arXiv 2412.01981, PRIME 2502.01456).

        r_t = β Σ_{i in turn t} (log π_φ(y_i | y_<i) − log π_ref(y_i | y_<i)),   S_t = Σ_{k≤t} r_k
        Q_t = σ(S_t), V_t = σ(S_{t−1})   or, with the record's output "linear", Q_t = S_t, V_t = S_{t−1}

    V_0 is ½ (or 0) whatever the first state is, so the record says that V was not trained.

    Args:
        model, reference: causal language models.
        record: β in its options, and the output.
    """

    def __init__(self, model: Any, reference: Any, record: Record) -> None:
        self.model = model
        self.reference = reference
        self.record = record

    @classmethod
    def load(cls, path: str, *, dtype: str = "fp32", attn_implementation: str = "sdpa", device: str | torch.device = "cpu") -> ImplicitPRM:
        """From a language model's folder with `agentprm.json`.

        Raises:
            UserError: it is no checkpoint of this kind, or its reference is gone or another model by now.
        """
        record = Record.load(path)
        model, reference = (
            load_language_model(folder, dtype=dtype, attn_implementation=attn_implementation).to(device).eval()
            for folder in (path, reference_of(path))
        )
        return cls(model, reference, record)

    @staticmethod
    def check(path: str, policy: str | None = None) -> None:
        check_language_model(path)
        check_language_model(reference_of(path))
        if policy is not None:
            check_same_vocabulary(path, policy)

    @staticmethod
    def start(path: str, *, dtype: str = "bf16", attn_implementation: str = "sdpa", **_: Any) -> Any:
        return load_language_model(path, dtype=dtype, attn_implementation=attn_implementation)

    on_call = staticmethod(action_logprobs_on_call)

    @staticmethod
    def objective(train: Sequence[Episode], args: Any, labels: Labels | None) -> OutcomeObjective:
        return OutcomeObjective(train, args)

    def online_objective(self, train: Sequence[Episode], args: Any) -> OutcomeObjective:
        """`objective` against the reference that is in memory already, asked where an episode is trained on."""
        return OutcomeObjective(train, args, Reference.of(self.reference))

    @staticmethod
    def problems(args: Any) -> list[str]:
        found = []
        if not 0 < args.loss.implicit_beta < float("inf"):
            found.append(f"--loss.implicit_beta is {args.loss.implicit_beta}; wanted a number above 0")
        start = args.model.model_name_or_path
        if start and Path(_reference(args)).resolve() == Path(args.ckpt.output_dir).resolve():
            found.append(f"--ckpt.output_dir {args.ckpt.output_dir} is the reference model, which scoring needs; write elsewhere")
        return found

    @staticmethod
    def reads(args: Any) -> Collection[str]:
        return ("label.shuffle_seed", "loss.implicit_*")

    @staticmethod
    def scale(args: Any) -> str:
        return _scale(args)

    @staticmethod
    def recorded(args: Any) -> dict[str, Any]:
        reference = _reference(args)
        options = {"reference": reference, "reference_digest": policy_digest(reference)}
        if Path(reference).is_dir():
            beside = os.path.relpath(Path(reference).resolve(), Path(args.ckpt.output_dir).resolve())
            options |= {"reference": str(Path(reference).resolve()), "reference_beside": beside}
        return {
            "method": "outcome",
            "values": "previous_q",
            "output": args.loss.implicit_output,
            "scale": _scale(args),
            "value_trained": False,
            "options": options,
        }

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU."""
        return self.score_tokens(batch)[0]

    @torch.no_grad()
    def score_tokens(self, batch: ScoreBatch) -> tuple[ProcessScores, torch.Tensor]:
        """`score`, and β (log π_φ − log π_ref) of the token that each position predicts: (B, T) float32 on the CPU, 0 outside actions."""
        size = self.model.get_input_embeddings().num_embeddings
        if int(batch.input_ids_BT.max()) >= size:
            raise UserError(
                f"the episodes hold token {int(batch.input_ids_BT.max())}, but the PRM knows {size}: it was made for another tokenizer"
            )
        turns_BT = turn_ids(batch.positions, batch.input_ids_BT.shape[1])
        ours_BT, theirs_BT = (
            score_logprobs(m, batch.input_ids_BT, batch.attention_mask_BT, turns_BT).cpu() for m in (self.model, self.reference)
        )
        mask_BK = batch.positions.mask_BK.cpu()
        ratio_BT, beta = ours_BT - theirs_BT, self.record.options["implicit_beta"]
        rewards_BK = turn_rewards(ratio_BT, turns_BT.cpu(), mask_BK, beta)
        return ProcessScores(*implicit_scores(rewards_BK, mask_BK, self.record.output)), beta * ratio_BT


@dataclass
class ImplicitBatch(PRMBatch):
    """With log π_ref at the tokens of actions."""

    reference_BT: torch.Tensor | None = None


class OutcomeObjective:
    """Cross-entropy of an episode's summed log-ratio against its outcome; an item is an episode.

    The reference answers once for every action token, before training: one float32 each is kept, and the model is let go.

    Args:
        train: episodes.
        args: nested flags of `cli.train_prm`.
        reference: in place of the one that the flags name; it is not asked before training.
    """

    def __init__(self, train: Sequence[Episode], args: Any, reference: Reference | None = None) -> None:
        check_outcomes(train, "the cross-entropy of an implicit PRM", "train another kind, with --loss.kind mse")
        self.train = train
        self.args = args
        self.lengths: Sequence[int] = [len(e.token_ids) for e in train]
        self.scale = _scale(args)
        if reference is None:
            reference = Reference(_reference(args), dtype=args.ds.param_dtype, attn_implementation=args.ds.attn_implementation)
            reference.fill(train)
        self.reference = reference

    def batch(self, items: Sequence[int]) -> ImplicitBatch:
        part = collate([self.train[i] for i in items])
        return ImplicitBatch(**vars(part), reference_BT=self.reference.logprobs(part))

    def counts(self, part: ImplicitBatch) -> torch.Tensor:
        return part.positions.mask_BK.any(1).sum().float()[None]

    def loss(self, model: Any, part: ImplicitBatch, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert part.reference_BT is not None
        rewards_BK = self._rewards(model, part, part.reference_BT)
        total = implicit_loss(rewards_BK, part.outcome_B, part.positions.mask_BK, num_episodes=counts[0])
        error_B = rewards_BK.detach().sum(1).sigmoid() - part.outcome_B
        return total, {"outcome_error": error_B.square().sum() / counts[0]}

    def scores(self, model: Any, part: PRMBatch) -> tuple[torch.Tensor, torch.Tensor]:
        rewards_BK = self._rewards(model, part, self.reference.logprobs(part))
        return implicit_scores(rewards_BK, part.positions.mask_BK, self.args.loss.implicit_output)

    def _rewards(self, model: Any, part: PRMBatch, reference_BT: torch.Tensor) -> torch.Tensor:
        turns_BT = turn_ids(part.positions, part.input_ids_BT.shape[1])
        ours_BT = model(part.input_ids_BT, part.attention_mask_BT, turns_BT)
        return turn_rewards(ours_BT - reference_BT, turns_BT, part.positions.mask_BK, self.args.loss.implicit_beta)


class Reference:
    """What the reference model says of the actions of episodes, each asked once.

    Args:
        path: folder or hub name.
    """

    def __init__(self, path: str, *, dtype: str, attn_implementation: str) -> None:
        self.path = path
        self.options = {"dtype": dtype, "attn_implementation": attn_implementation}
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        self._model: Any = None
        self._known: dict[bytes, torch.Tensor] = {}

    @classmethod
    def of(cls, model: Any) -> Reference:
        """Of a model that is loaded, and stays."""
        found = cls("", dtype="", attn_implementation="")
        found._model = model
        return found

    def fill(self, episodes: Sequence[Episode]) -> None:
        """Ask of all episodes, shared out over the processes of the group, and let the model go."""
        from tqdm import tqdm

        together = dist.is_available() and dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        mine = episodes[rank::world]
        bar = tqdm(total=len(mine), desc="reference", unit="ep", disable=rank > 0, mininterval=1.0)
        for rows in length_batches([len(e.token_ids) for e in mine], _MAX_TOKENS):
            self.logprobs(collate([mine[i] for i in rows]))
            bar.update(len(rows))
        bar.close()
        if together:
            parts: list[Any] = [None] * world
            dist.all_gather_object(parts, self._known)
            self._known = {key: values for part in parts for key, values in part.items()}
        self._model = None

    def logprobs(self, part: PRMBatch) -> torch.Tensor:
        """(B, T) float32 where `part` is, 0 outside actions. Episodes not seen before bring the model back, which then stays."""
        ids_BT, turns_BT = part.input_ids_BT, turn_ids(part.positions, part.input_ids_BT.shape[1])
        lengths = part.attention_mask_BT.sum(1).tolist()
        keys = [_key(ids_T[:n], turns_T[:n]) for ids_T, turns_T, n in zip(ids_BT.cpu(), turns_BT.cpu(), lengths, strict=True)]
        missing = [row for row, key in enumerate(keys) if key not in self._known]
        if missing:
            if self._model is None:
                with unpartitioned():
                    self._model = load_language_model(self.path, **self.options).to(self.device).eval()
            found_BT = score_logprobs(self._model, ids_BT[missing], part.attention_mask_BT[missing], turns_BT[missing]).cpu()
            inside_BT = turns_BT[missing].cpu() >= 0
            self._known |= {keys[row]: values[inside] for row, values, inside in zip(missing, found_BT, inside_BT, strict=True)}
        values = torch.cat([self._known[key] for key in keys])
        return torch.zeros(ids_BT.shape).masked_scatter(turns_BT.cpu() >= 0, values).to(ids_BT.device)


def _key(ids_T: torch.Tensor, turns_T: torch.Tensor) -> bytes:
    return hashlib.blake2b(ids_T.numpy().tobytes() + turns_T.numpy().tobytes(), digest_size=16).digest()


def _scale(args: Any) -> str:
    return "probability" if args.loss.implicit_output == "sigmoid" else "order"


def _reference(args: Any) -> str:
    """The reference of a training: the one that is named, that of the checkpoint which training goes on from, or the model it starts from."""
    start = args.model.model_name_or_path
    if args.loss.implicit_reference:
        return args.loss.implicit_reference
    return reference_of(start) if Record.load(start).kind == "implicit" else start


def reference_of(path: str) -> str:
    """The reference of a checkpoint: where the record says, seen from the checkpoint's own folder first.

    Raises:
        UserError: the record names none, or it is gone, or it is another model than the one trained against.
    """
    record = Record.load(path)
    options = record.options
    if record.kind != "implicit" or not options.get("reference"):
        raise UserError(f"{path!r} has no agentprm.json that names its reference model; train one with train_prm --prm.name implicit")
    for place in _places(path, options):
        if policy_digest(place) == options["reference_digest"]:
            return place
    tried = list(_places(path, options))
    what = f"is another model by now ({tried[0]})" if tried else f"is gone ({options['reference']})"
    raise UserError(
        f"the reference model of {path!r} {what}; scores are a ratio to the model that was trained against (digest "
        f"{options['reference_digest']}): put it back, or write where it is as options.reference in {Path(path, 'agentprm.json')}"
    )


def _places(path: str, options: dict[str, Any]) -> Iterator[str]:
    """Where the reference may be: folders that are there, or a hub's name."""
    local = "reference_beside" in options
    places = [Path(path, options["reference_beside"]), Path(options["reference"])] if local else []
    yield from (str(p.resolve()) for p in places if p.is_dir())
    if not local:
        yield options["reference"]
