"""Post-hoc rationalisation (arXiv 2502.10325): a model writes the thought before an action that was taken, and the episode is told again in ReAct."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..agents.chat import ChatFormat
from ..data.episode import Episode, Status
from .engine import Engine, Sampling, stream_seed
from .retell import retell

TEMPLATE = """$instruction

$history
You see now:
$observation

The next action is: $action

In one or two short sentences, say what in the task and in what you see speaks for this action. Write the reasoning alone, as it would be thought \
before the action is chosen, and do not say that the action was given."""
FIELDS = ("instruction", "history", "observation", "action")
_UNDER_WAY = 1024  # thoughts


@dataclass(frozen=True)
class Writer:
    """How thoughts are asked for.

    Args:
        chat: of the model that writes them.
        told: makes the tokens of the new episodes; its action format is "react".
        parse: reads an action from a turn's text, as the old episodes were played.
        template: of a question, with the fields `FIELDS` as `$name`; an earlier turn of `$history` is what was seen and done.
        sampling: temperature and top-p of thoughts.
        max_tokens: of a thought.
        max_len: context in tokens.
        seed: each thought has a seed of its own from it.
    """

    chat: ChatFormat
    told: ChatFormat
    parse: Callable[[str], str]
    sampling: Sampling
    template: str = TEMPLATE
    max_tokens: int = 64
    max_len: int = 2048
    seed: int = 0

    def question(self, episode: Episode, turn: int) -> list[int] | None:
        """Its tokens, with as many of the last turns as the context holds; None where it does not hold the question alone."""
        done = [f"You saw: {t.observation}\nYou did: {self.parse(t.action)}" for t in episode.turns[:turn]]
        for first in range(turn + 1):
            text = string.Template(self.template).safe_substitute(
                instruction=episode.instruction,
                history="\n".join(done[first:]),
                observation=episode.turns[turn].observation,
                action=self.parse(episode.turns[turn].action),
            )
            tokens = self.chat.first("", text)
            if len(tokens) + self.max_tokens <= self.max_len:
                return tokens
        return None

    def text(self, action: str, thought: str) -> str:
        return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


@dataclass
class Told:
    """What was written."""

    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    thoughts: int = 0
    without_thought: int = 0
    tokens: int = 0


def clean(text: str) -> str:
    """A thought on one line, without the words of the format.

    >>> clean(" Thought: the door\\n is shut. Action: open it")
    'the door is shut.'
    """
    thought = " ".join(text.split()).removeprefix("Thought:")
    return thought.partition("Action:")[0].strip()


def rationalise(
    episodes: Iterable[Episode], engine: Engine, writer: Writer, sampling_of: Callable[[Episode], dict[str, Any]], told: Told
) -> Iterator[Episode]:
    """Episodes told again with thoughts, as they become ready.

    Left out and counted are those of which an action cannot be written behind `Action:`, in one line and in the tokenizer's vocabulary, and those
    that outgrow the context.

    Args:
        sampling_of: the sampling settings that a new episode is to have.
        told: filled as it goes.
    """
    waiting = iter(episodes)
    open_: dict[str, tuple[Episode, list[str | None]]] = {}
    more = True
    while more or open_:
        while more and engine.unfinished < _UNDER_WAY:
            episode = next(waiting, None)
            if episode is None:
                more = False
            elif why := _unfit(episode, writer):
                told.left_out[why] += 1
            else:
                open_[episode.episode_id] = (episode, _ask(episode, engine, writer))
        for sampled in engine.step() if engine.unfinished else ():
            name, _, turn = sampled.request_id.rpartition("-")
            open_[name][1][int(turn)] = clean(writer.chat.action_text(sampled.token_ids))
            told.tokens += len(sampled.token_ids)
        for name in [name for name, (_, thoughts) in open_.items() if None not in thoughts]:
            episode, thoughts = open_.pop(name)
            yield from _tell(episode, [t or "" for t in thoughts], writer, sampling_of(episode), told)


def _unfit(episode: Episode, writer: Writer) -> str | None:
    """Why an episode cannot be told again: an action is not what is read behind `Action:` once it is tokens."""
    actions = [writer.parse(turn.action) for turn in episode.turns]
    if not actions:
        return "no action"
    read = [writer.told.parse(writer.told.action_text(writer.told.encode_action(writer.text(a, "")))) for a in actions]
    return None if read == actions else "an action that cannot be written behind 'Action:'"


def _ask(episode: Episode, engine: Engine, writer: Writer) -> list[str | None]:
    """Ask for all thoughts of an episode; what is known of them: no thought where the question has no room."""
    thoughts: list[str | None] = []
    for number in range(len(episode.turns)):
        question = writer.question(episode, number)
        thoughts.append(None if question else "")
        if question:
            name = f"{episode.episode_id}-{number}"
            sampling = Sampling(writer.sampling.temperature, writer.sampling.top_p, seed=stream_seed(writer.seed, name))
            engine.submit(name, question, sampling, writer.max_tokens, writer.chat.stop_token_ids)
    return thoughts


def _tell(episode: Episode, thoughts: list[str], writer: Writer, sampling: dict[str, Any], told: Told) -> Iterator[Episode]:
    texts = [writer.text(writer.parse(turn.action), thought) for turn, thought in zip(episode.turns, thoughts, strict=True)]
    new = retell(episode, sampling, writer.told, writer.max_len, texts)
    if new.status is Status.CONTEXT_OVERFLOW:
        told.left_out["longer than the context"] += 1
        return
    told.kept += 1
    told.thoughts += sum(map(bool, thoughts))
    told.without_thought += sum(not t for t in thoughts)
    yield new
