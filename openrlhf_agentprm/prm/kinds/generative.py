"""Kind `generative`: a language model reasons about a turn, then says yes or no, and the score is how sure it is of yes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ...agents.chat import load_tokenizer
from ...core.advantages import previous_values
from ...core.batches import ProcessScores
from ...core.errors import UserError, did_you_mean
from ...data.layout import Span
from ..scoring import ScoreBatch, length_batches
from ..vocabulary import check_same_vocabulary, read_config
from .language_model import check_language_model, load_language_model, next_token_logits

FILE = "generative.json"
COMBINE = ("mean", "majority")
_MAX_TOKENS = 16_384  # padded tokens of a batch under the verdict
TEMPLATE = """\
{{ instruction }}
{% if history %}
What has been done and seen since:
{{ history }}
{% endif %}
The next action: {{ action }}

Does this action bring the task nearer to its end? Think first, then answer Yes or No."""


@dataclass
class Judging:
    """Contents of `generative.json`.

    Args:
        template: jinja2, with `instruction` (all text before the first action), `history` (actions and observations since) and `action`.
        verdict: text behind the reasoning, after which yes or no is said.
        yes, no: ways to say either, each one token.
        samples: k reasonings of every turn.
        combine: "mean" of the k scores, or "majority" of k verdicts: 1, 0, or ½ where as many say yes as no.
        temperature: of the reasoning; 0 is greedy.
        max_tokens: of a reasoning; 0: the verdict at once.
        seed: of the reasoning.
    """

    template: str = TEMPLATE
    verdict: str = "\nVerdict: "
    yes: list[str] = field(default_factory=lambda: ["Yes", "yes", " Yes", " yes", "YES"])
    no: list[str] = field(default_factory=lambda: ["No", "no", " No", " no", "NO"])
    samples: int = 1
    combine: str = "mean"
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int = 0

    def save(self, folder: str | Path) -> None:
        (Path(folder) / FILE).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Judging:
        """
        Raises:
            UserError: there is no such file, or all that is wrong with it.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            raise UserError(
                f"there is no {file}; a generative PRM is a language model's folder with that file (see docs/reward-models/generative.md)"
            )
        try:
            given = json.loads(file.read_text(encoding="utf-8"))
            problems = [f"unknown key {n!r}{did_you_mean(n, cls.__dataclass_fields__)}" for n in given if n not in cls.__dataclass_fields__]
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is no JSON object: {error}") from error
        if not isinstance(given, dict):
            raise UserError(f"{file} is no JSON object: it holds {json.dumps(given)[:60]}")
        about = cls(**{name: value for name, value in given.items() if name in cls.__dataclass_fields__})
        if problems := problems + about.problems():
            raise UserError([f"{file}: {problem}" for problem in problems])
        return about

    def problems(self) -> list[str]:
        found = [f'"{n}" is {getattr(self, n)!r}; wanted a text' for n in ("template", "verdict") if not isinstance(getattr(self, n), str)]
        for name in ("yes", "no"):
            words = getattr(self, name)
            if not (isinstance(words, list) and words and all(isinstance(w, str) and w for w in words)):
                found.append(f'"{name}" is {words!r}; wanted a list of words')
        for name, least in (("samples", 1), ("max_tokens", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                found.append(f'"{name}" is {value!r}; wanted a whole number from {least}')
        if self.combine not in COMBINE:
            found.append(f'"combine" is {self.combine!r}{did_you_mean(str(self.combine), COMBINE)} (allowed: {", ".join(COMBINE)})')
        heat = self.temperature
        if not isinstance(heat, int | float) or not 0 <= heat < math.inf:
            found.append(f'"temperature" is {heat!r}; wanted a number from 0')
        elif self.samples != 1 and (heat == 0 or self.max_tokens == 0):
            found.append(f'"samples" is {self.samples}, but {"greedy" if heat == 0 else "no"} reasoning is the same each time; take 1')
        return found


class Reasoner(Protocol):
    """Something that goes on from prompts: an engine, or the model itself."""

    def __call__(self, prompts: Sequence[Sequence[int]], about: Judging, stop_token_ids: Sequence[int]) -> list[list[list[int]]]:
        """`about.samples` continuations of each prompt, of at most `about.max_tokens` tokens; a stop token is the last where it came."""


class GenerativePRM:
    """A judge in words (registry entry `generative`; GenPRM, arXiv 2504.00891).

        z_n ~ π(· | prompt of the turn),  n = 1..k
        p_n = Σ_yes e^{l_w} / (Σ_yes e^{l_w} + Σ_no e^{l_w}),   l the logits behind z_n and the verdict's text
        Q_t = mean p_n (the paper's majority of k), or the majority of p_n > ½

    V(s_t) is the score of the turn before, ½ for the first: nobody judges states.

    Args:
        model: a causal language model, which gives the verdicts.
        tokenizer: the policy's tokens are read with it, so both have one vocabulary.
        about: how it is asked.
        reasoner: where reasoning is sampled.
    """

    def __init__(self, model: Any, tokenizer: Any, about: Judging, reasoner: Reasoner) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.about = about
        self.reasoner = reasoner
        self.yes, self.no = (_tokens_of(tokenizer, words) for words in (about.yes, about.no))
        self._verdict = tokenizer.encode(about.verdict, add_special_tokens=False)
        self._render = _compiled(about.template)

    @classmethod
    def load(
        cls,
        path: str,
        *,
        dtype: str = "fp32",
        attn_implementation: str = "sdpa",
        device: str | torch.device = "cpu",
        reasoner: Callable[[str], Reasoner | None] | None = None,
    ) -> GenerativePRM:
        """From a language model's folder with `generative.json`.

        Args:
            reasoner: makes an engine for the folder; without one, or where it makes none, the model reasons by itself, a prompt at a time.
        """
        about = Judging.load(path)
        tokenizer = load_tokenizer(path)
        model = load_language_model(path, dtype=dtype, attn_implementation=attn_implementation).to(device).eval()
        engine = reasoner(path) if reasoner and about.max_tokens else None
        return cls(model, tokenizer, about, engine or ModelReasoner(model))

    @staticmethod
    def check(path: str, policy: str | None = None) -> None:
        about, tokenizer = Judging.load(path), load_tokenizer(path)
        check_language_model(path)
        _compiled(about.template)
        _tokens_of(tokenizer, about.yes)
        _tokens_of(tokenizer, about.no)
        if policy is not None:
            check_same_vocabulary(path, policy)

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU."""
        mask_BK = batch.positions.mask_BK.cpu()
        prompts = []
        starts, ends = (x.tolist() for x in (batch.positions.v_BK + 1, batch.positions.q_BK + 1))
        for row, (ids, mask_K) in enumerate(zip(batch.input_ids_BT.tolist(), mask_BK, strict=True)):
            spans = [(starts[row][k], ends[row][k]) for k in mask_K.nonzero().flatten().tolist()]
            prompts += [self.prompt(ids, spans[: k + 1]) for k in range(len(spans))]
        q_BK = torch.zeros(mask_BK.shape).masked_scatter(mask_BK, self.judge(prompts))
        return ProcessScores(q_BK, previous_values(q_BK, torch.full((len(q_BK),), 0.5), mask_BK))

    def prompt(self, token_ids: Sequence[int], spans: Sequence[Span]) -> list[int]:
        """What the judge is asked about the last of the turns."""
        first, (start, end) = spans[0][0], spans[-1]
        instruction, history, action = (
            self.tokenizer.decode(list(part), skip_special_tokens=True).strip()
            for part in (token_ids[:first], token_ids[first:start], token_ids[start:end])
        )
        text = self._render(instruction=instruction, history=history, action=action)
        if getattr(self.tokenizer, "chat_template", None) is None:
            return self.tokenizer.encode(text, add_special_tokens=False)
        whole = self.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        return self.tokenizer.encode(whole, add_special_tokens=False)

    def judge(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Q of each prompt, (N,) float32."""
        if not prompts:
            return torch.zeros(0)
        self._check_room(prompts)
        stop = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        thoughts = self.reasoner(prompts, self.about, stop) if self.about.max_tokens else [[[]] for _ in prompts]
        asked = []
        for prompt, samples in zip(prompts, thoughts, strict=True):
            asked += [[*prompt, *(t[:-1] if t and t[-1] in stop else t), *self._verdict] for t in samples]
        sure_NS = self.verdicts(asked).view(len(prompts), self.about.samples)
        if self.about.combine == "mean":
            return sure_NS.mean(1)
        votes_N = (sure_NS > 0.5).float().mean(1)
        return torch.where(votes_N == 0.5, 0.5, (votes_N > 0.5).float())

    def verdicts(self, sequences: Sequence[list[int]]) -> torch.Tensor:
        """P(yes) behind each sequence, among the ways to say yes or no."""
        found = torch.zeros(len(sequences))
        for rows in length_batches([len(s) for s in sequences], _MAX_TOKENS):
            logits = next_token_logits(self.model, [sequences[i] for i in rows])[:, self.yes + self.no]
            found[rows] = logits.softmax(-1)[:, : len(self.yes)].sum(-1)
        return found

    def _check_room(self, prompts: Sequence[list[int]]) -> None:
        longest = max(map(len, prompts)) + self.about.max_tokens + len(self._verdict)
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and longest > room:
            raise UserError(
                f"a turn with its reasoning may take {longest} tokens, but the judge has {room} positions; lower max_tokens in {FILE}"
            )


class ModelReasoner:
    """The model's own sampling, a prompt at a time: each prompt has a seed of its own, so that a batch's make-up changes nothing."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, prompts: Sequence[Sequence[int]], about: Judging, stop_token_ids: Sequence[int]) -> list[list[list[int]]]:
        return [self._samples(list(prompt), about, list(stop_token_ids)) for prompt in prompts]

    def _samples(self, prompt: list[int], about: Judging, stop: list[int]) -> list[list[int]]:
        device = next(self.model.parameters()).device
        ids = torch.tensor([prompt], device=device)
        sampling = (
            {"do_sample": True, "temperature": about.temperature, "top_k": 0, "top_p": 1.0} if about.temperature else {"do_sample": False}
        )
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int.from_bytes(hashlib.sha256(f"{about.seed}:{prompt}".encode()).digest()[:6], "little"))
            found = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_return_sequences=about.samples,
                max_new_tokens=about.max_tokens,
                eos_token_id=stop or None,
                pad_token_id=stop[0] if stop else 0,
                **sampling,
            )
        return [_up_to_stop(row, stop) for row in found[:, len(prompt) :].tolist()]


def _up_to_stop(tokens: list[int], stop: Sequence[int]) -> list[int]:
    """Without the padding behind the first stop token."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]


def _compiled(template: str) -> Callable[..., str]:
    """The template, run where it can reach nothing but its three texts.

    Raises:
        UserError: it is no jinja2, or names something else.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        found = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(template)
        found.render(instruction="i", history="h", action="a")
    except (jinja2.TemplateError, TypeError) as error:
        raise UserError(f"{FILE}: the template cannot be rendered with instruction, history and action: {error}") from error
    return found.render


def _tokens_of(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The words that are one token each.

    Raises:
        UserError: none is.
    """
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    found = dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id)
    if not found:
        raise UserError(f"{FILE}: none of {words!r} is one token of the judge's tokenizer; give words that are")
    return list(found)


def context_of(path: str) -> int:
    """Positions of a judge, for an engine that wants to know."""
    return getattr(read_config(path).get_text_config(), "max_position_embeddings", None) or 4096
