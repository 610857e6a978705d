"""The same rollouts from the same seed: `--train.full_determinism_enable` of the host, with environments of ours and synchronous training.

The host shuffles prompts by a stream that nothing seeds; an engine samples all requests from one stream, in the order in which it happens to
serve them; and a batch holds its prompts in the order in which they happened to finish. Here the shuffle is seeded, every turn has a seed of its
own, and a batch is put into the order in which it was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..rollout.engine import stream_seed


def is_on(args: Any) -> bool:
    return bool(args.env.name and args.train.full_determinism_enable)


# --- in the process that draws prompts and sends them to the engines ---


def seed_shuffle(args: Any) -> None:
    """Seed the process that draws the prompts."""
    if is_on(args):
        import transformers

        transformers.set_seed(args.train.seed)


def seed_dispatch(generator: Any, sampling_params: Any) -> None:
    """Give the prompts that are about to be sent a seed that no earlier ones had."""
    if is_on(generator.args):
        generator.dispatches = getattr(generator, "dispatches", 0) + 1
        sampling_params.seed = stream_seed(generator.args.train.seed, f"dispatch {generator.dispatches}")


def in_order(generator: Any, labels: Sequence[str], experiences: list[Any]) -> list[Any]:
    """As the prompts were sent, not as they finished; those that replaced others come last."""
    if not is_on(generator.args):
        return experiences
    place = {label: number for number, label in enumerate(labels)}
    return sorted(experiences, key=lambda e: (place.get(e.labels[0], len(labels)), e.labels[0]))


# --- in a rollout actor ---


class TurnSeeds:
    """Seeds for the turns of episodes; None where the dispatch has none, and the engine's own stream is asked."""

    def __init__(self) -> None:
        self._samples: Counter[tuple[str, int]] = Counter()

    def episode(self, label: str, dispatch: int | None) -> Callable[[int, int], int | None]:
        """Of the next sample of a prompt: from the number of its attempt and that of a turn."""
        if dispatch is None:
            return lambda attempt, turn: None
        self._samples[label, dispatch] += 1
        name = f"{label}:{self._samples[label, dispatch]}"
        return lambda attempt, turn: stream_seed(dispatch, f"{name}:{attempt}:{turn}")
