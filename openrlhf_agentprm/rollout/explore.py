"""Exploration while collecting: episodes that begin on the way of a successful one, and instructions that only the sampler sees."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.argument_types import temperature
from ..core.errors import UserError
from ..data.episode import Episode, Status
from .builder import Assignment
from .engine import Sampling
from .prefix import prefix_of


def add_explore_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `Exploration`, and temperature by turn."""
    add = parser.add_argument_group("exploration, noted in the episodes' sampling settings").add_argument
    add(
        "--collect.reset_store",
        default=None,
        help="store on whose successful episodes some episodes begin, each going on from one of their states",
    )
    add("--collect.reset_share", type=float, default=0.5, help="share of the episodes that do (0.5 in arXiv 2502.10325)")
    add(
        "--collect.reset_back",
        type=int,
        default=1,
        help="turns before a successful episode's end at which they begin, in iteration 1 and before",
    )
    add("--collect.reset_back_growth", type=int, default=0, help="by how many turns earlier they begin in each iteration behind that")
    add(
        "--collect.steer_text",
        default=None,
        help="instruction that is added to the prompt while some episodes are sampled, and is not stored",
    )
    add("--collect.steer_share", type=float, default=0.5, help="share of the episodes that it is added to")
    add(
        "--collect.turn_temperatures",
        type=temperature,
        nargs="*",
        default=[],
        help="temperature of the first turn, the second, …; the last one stays",
    )


def problems_of_exploration(collect: Any) -> list[str]:
    """What is wrong with the flags.

    Args:
        collect: nested `args.collect`.
    """
    found = [
        f"--collect.{name}_share is {share}; wanted a share of the episodes from 0 to 1"
        for name, share in (("reset", collect.reset_share), ("steer", collect.steer_share))
        if not 0 <= share <= 1
    ]
    given = {
        "reset_store": (collect.reset_share != 0.5, collect.reset_back != 1, collect.reset_back_growth != 0),
        "steer_text": (collect.steer_share != 0.5,),
    }
    told = {"reset_store": "--collect.reset_*", "steer_text": "--collect.steer_share"}
    found += [f"{told[name]} is given without --collect.{name}" for name, more in given.items() if any(more) and not getattr(collect, name)]
    if collect.reset_back < 1 or collect.reset_back_growth < 0:
        found.append(
            f"--collect.reset_back {collect.reset_back} and --collect.reset_back_growth {collect.reset_back_growth}; wanted 1 and 0, or more"
        )
    if collect.turn_temperatures and collect.temperature != 1.0:
        found.append("--collect.temperature and --collect.turn_temperatures both say how hot actions are sampled; give one of them")
    if collect.reset_store and Path(collect.reset_store).resolve() == Path(collect.output).resolve():
        found.append("--collect.reset_store is --collect.output, whose episodes change while it is played; give a store of its own")
    if collect.demonstrator:
        names = [name for name in ("reset_store", "steer_text", "turn_temperatures") if getattr(collect, name)]
        found += [f"--collect.{name} is given, but a demonstrator plays, which samples nothing" for name in names]
    return found


def sampling_of(collect: Any) -> Sampling:
    by_turn = tuple(collect.turn_temperatures)
    return Sampling(by_turn[0] if by_turn else collect.temperature, collect.top_p, by_turn=by_turn)


@dataclass
class Exploration:
    """Which episodes of a collection are played otherwise; whether one is, and how, follows from its identity.

    A reset replays the actions of a successful episode up to so many turns before its end, and the policy goes on. What is stored are the policy's
    own turns: the tokens before them are the prompt, so that no return is given to actions that another policy took. It takes the place of an
    episode from the start, of whatever task. Successful episodes that are no longer than the distance are not begun in, nor those that were resets
    themselves, which do not hold the actions before them; where none is left, every episode begins at its start.

    A steered episode is sampled behind another first prompt and stored behind the nominal one: its action tokens are those that were sampled,
    and what the environment said is the same. Of their log-probabilities under the nominal prompt nothing is known, so none are stored.

    Args:
        sources: successful episodes.
        reset_share: of episodes that begin on the way of one.
        back: turns before its end at which they do.
        steer_text, steer_share: the instruction, and the share of the other episodes that see it.
    """

    sources: Sequence[Episode] = ()
    reset_share: float = 0.0
    back: int = 1
    steer_text: str = ""
    steer_share: float = 0.0

    @classmethod
    def of(cls, collect: Any, env: str, split: str, setting: Mapping[str, Any]) -> Exploration:
        """
        Args:
            collect: nested `args.collect`.
            env, split, setting: what is played, as the episodes' sampling settings have it.

        Raises:
            UserError: the store holds no successful episode, or those of another environment, split or format.
        """
        from ..data.store import EpisodeStore

        back = collect.reset_back + collect.reset_back_growth * max(0, collect.iteration - 1)
        steer_share = collect.steer_share if collect.steer_text else 0.0
        if not collect.reset_store:
            return cls(steer_text=collect.steer_text or "", steer_share=steer_share)
        won = [e for e in EpisodeStore(collect.reset_store).episodes() if e.status is Status.SUCCESS and "reset" not in e.sampling]
        wanted = {"env": env, "split": split, **{name: setting[name] for name in ("env_args", "format")}}
        there = lambda e: {"env": e.env, "split": e.split, **{name: e.sampling.get(name) for name in ("env_args", "format")}}  # noqa: E731
        problems = [
            f"--collect.reset_store {collect.reset_store} has episodes with {name} {there(e)[name]!r}, and {value!r} is played"
            for name, value in wanted.items()
            for e in won[:1]
            if there(e)[name] != value
        ]
        sources = sorted((e for e in won if len(e.turns) > back and there(e) == wanted), key=lambda e: e.episode_id)
        if not won:
            problems.append(f"--collect.reset_store {collect.reset_store} holds no successful episode that was played from its start")
        if problems:
            raise UserError(problems)
        return cls(sources, collect.reset_share, back, collect.steer_text or "", steer_share)

    def vary(self, assignment: Assignment) -> Assignment:
        """The assignment as it is to be played."""
        a = assignment
        if self.sources and _draw(a, "reset") < self.reset_share:
            source = self.sources[int(_draw(a, "source") * len(self.sources))]
            start = len(source.turns) - self.back
            told = {"reset": {"episode": source.episode_id, "turns": start, "in_place_of": a.task_id}}
            sampling = {**a.sampling, **told}
            return replace(
                a, task_id=source.task_id, seed=source.seed, sampling=sampling, prefix=prefix_of(source, start), own_turns_only=True
            )
        if self.steer_text and _draw(a, "steer") < self.steer_share:
            return replace(a, sampling={**a.sampling, "steer": self.steer_text}, steer=self.steer_text)
        return a


def _draw(assignment: Assignment, what: str) -> float:
    """A number in [0, 1) that the episode's nominal identity decides."""
    digest = hashlib.sha256(f"{what}:{assignment.episode_id}".encode()).digest()
    return int.from_bytes(digest[:7], "little") / 2**56
