"""A PRM that is trained between policy steps: what of a rollout it learns from, when, and what is kept of it.

    before:  rollout → update → scores by the updated PRM → advantages → policy step    (PRIME, arXiv 2502.01456, double forward)
    after:   rollout → scores by the PRM as it was → advantages → policy step, and the update beside it

The workers do what they are sent in the order in which it was sent, so neither mode waits here: the first sends the update before the scoring,
the second behind it. Nothing is done without `--prm.update_every`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..data.episode import Episode, Status, Turn
from ..data.layout import spans_from_turn_numbers
from ..prm.dataset import check_outcomes
from .online_flags import OF_LABELS, is_online
from .samples import BROKEN, Ending

STATE = "state.pt"
_KEPT = "agentprm_online"


class Waiting(list[Episode]):
    """Episodes of a checkpoint, which the host logs when it is loaded."""

    def __repr__(self) -> str:
        return f"<{len(self)} episodes>"


class Online:
    """The trainer's side of one run's updates.

    `rollouts` counts those seen, `waiting` holds the episodes since the last update, `stopped` tells that `--prm.patience` is over; all go with
    the host's checkpoints.
    """

    def __init__(self, args: Any, kept: dict[str, Any] | None = None) -> None:
        self.args = args
        self.rollouts: int = kept["rollouts"] if kept else 0
        self.stopped: bool = kept["stopped"] if kept else False
        self.waiting = Waiting(kept["waiting"] if kept else ())
        self.refs: list[Any] = []

    def kept(self) -> dict[str, Any]:
        return {"rollouts": self.rollouts, "stopped": self.stopped, "waiting": Waiting(self.waiting)}

    def see(self, samples_list: Sequence[Any]) -> bool:
        """A new rollout; whether the PRM is to be updated now.

        Raises:
            UserError: an outcome outside [0, 1] for a PRM that learns by cross-entropy.
        """
        self.rollouts += 1
        episodes = episodes_of(self.args, samples_list, self.rollouts)
        if self.args.agentprm.online.cross_entropy:
            check_outcomes(
                episodes, "--prm.update_every with a PRM that learns by cross-entropy", "rescale the rewards, or --reward.clip_range 0 1"
            )
        self.waiting += episodes
        return self.rollouts % self.args.prm.update_every == 0

    def send(self, group: Any) -> None:
        """Have every worker train on what is waiting."""
        import ray

        self.refs = group.async_run_method("update", ray.put(self.waiting))
        self.waiting = Waiting()

    def figures(self) -> dict[str, float]:
        """What the update that was sent last has told, once; empty if there was none."""
        import ray

        if not self.refs:
            return {}
        found, self.refs = ray.get(self.refs)[0], []
        self.stopped = bool(found["stopped"])
        return {f"prm_update/{name}": value for name, value in found.items()}


def online_of(maker: Any) -> Online | None:
    """The maker's, made with its first use; None where the PRM is not trained."""
    if not is_online(maker.args) or maker.prm_model_group is None:
        return None
    if not hasattr(maker, "online"):
        maker.online = Online(maker.args)
    online: Online = maker.online
    return online


def note_rollout(maker: Any, samples_list: Sequence[Any]) -> Online | None:
    """Keep a rollout's episodes for the next update; the run's updates, if one is to be made now. A PRM that has no more say, or whose best
    weights have been put back for good, is not trained on."""
    online, watcher = online_of(maker), getattr(maker, "watcher", None)
    if online is None:
        return None
    now = online.see(samples_list)
    if online.stopped or (watcher is not None and watcher.muted):
        online.waiting = Waiting()
        return None
    if now and watcher is not None:
        watcher.learns_from_next = True
    return online if now else None


def episodes_of(args: Any, samples_list: Sequence[Any], rollout: int = 0) -> list[Episode]:
    """The rollout's episodes that have an outcome, with what an objective reads of them.

    Placeholders of broken environments and overflows of the context have none. The outcome is the environment's, clipped as for advantages and
    without the host's length penalties. Samples of one prompt are of one task.
    """
    found: list[Episode] = []
    for samples in samples_list:
        for row, spans in enumerate(spans_from_turn_numbers(samples.turn_numbers)):
            ending = Ending(int(samples.ending[row]))
            if not spans or ending in BROKEN:
                continue
            outcome = float(samples.rewards[row])
            if args.reward.clip_range:
                low, high = args.reward.clip_range
                outcome = min(max(outcome, low), high)
            prompt = f"{samples.prompts[row]}\n{samples.labels[row]}"
            status = Status.SUCCESS if outcome > 0.5 else Status.FAILURE
            found.append(
                Episode(
                    env="", task_id=hashlib.sha256(prompt.encode()).hexdigest()[:16], split="train", seed=0, sample=len(found), policy="",
                    policy_digest="", sampling={}, status=Status.TRUNCATED if ending is Ending.TRUNCATED else status, outcome=outcome,
                    terminated=ending is not Ending.TRUNCATED, truncated=ending is Ending.TRUNCATED,
                    token_ids=samples.sequences[row, : spans[-1][1]].tolist(), iteration=rollout, episode_id=f"{rollout}-{len(found)}",
                    turns=[Turn("", "", start, end, float(samples.turn_rewards[row, start - 1])) for start, end in spans],
                )
            )  # fmt: skip
    return found


# --- checkpoints ---


def _folder(args: Any) -> Path:
    return Path(args.ckpt.path).absolute() / "_prm"


def keep(trainer: Any, client_states: dict[str, Any]) -> None:
    """Put the trainer's side into the host's states; where these are about to be saved, the workers save theirs first."""
    online = online_of(trainer.experience_maker)
    if online is None:
        return
    client_states[_KEPT] = online.kept()
    step = client_states.get("global_step", 0)
    if step and step % trainer.args.ckpt.save_steps == 0:
        save(trainer, f"global_step{step}")


def save(trainer: Any, tag: str) -> None:
    """The workers' state under the tag of the actor's checkpoint."""
    import ray

    args, group = trainer.args, trainer.experience_maker.prm_model_group
    if online_of(trainer.experience_maker) is not None and not args.ckpt.disable_ds:
        ray.get(group.async_run_method("save_online", str(_folder(args) / tag)))


def forget_older(folder: Path) -> None:
    """Remove the states of tags that the host has given up, beside the one in `folder`; none where the host's are out of sight."""
    if not (folder.parent.parent / "_actor").is_dir():
        return
    for old in folder.parent.iterdir():
        if old != folder and not (folder.parent.parent / "_actor" / old.name).is_dir():
            shutil.rmtree(old, ignore_errors=True)


def resume(trainer: Any, checkpoint_states: dict[str, Any] | None) -> None:
    """Go on from the checkpoint that the actor goes on from.

    Raises:
        UserError: it was made with another say in whether the PRM is trained.
    """
    maker, states = trainer.experience_maker, checkpoint_states or {}
    online, kept = online_of(maker), states.get(_KEPT)
    if kept is not None and online is None:
        raise UserError(
            "the checkpoint is of a run that trained its PRM; give --prm.update_every again, or start anew from another --ckpt.path"
        )
    if online is None or not states.get("global_step"):
        return
    if kept is None:
        raise UserError(
            "the checkpoint is of a run that did not train its PRM; leave out --prm.update_every, or start anew from another --ckpt.path"
        )
    maker.online = Online(trainer.args, kept)
    tag = Path(trainer.args.ckpt.path, "_actor", "latest").read_text(encoding="utf-8").strip()
    go_to(trainer, tag)


def go_to(trainer: Any, tag: str) -> None:
    """Have every worker go on from the state under this tag."""
    import ray

    group = trainer.experience_maker.prm_model_group
    if online_of(trainer.experience_maker) is not None and not trainer.args.ckpt.disable_ds:
        ray.get(group.async_run_method("load_online", str(_folder(trainer.args) / tag)))


# --- the finished PRM ---


def save_finished(online: Any, args: Any, folder: str) -> None:
    """The trained PRM as a checkpoint: weights, tokenizer, and a record that tells of both trainings."""
    from ..agents.chat import load_tokenizer
    from ..prm.kinds import reads
    from ..prm.model import save_prm
    from ..prm.record import Record

    start, settings = args.prm.model_name_or_path, online.settings
    record: Record = online.prm.record
    flags = settings.flags
    told = {"start": str(start), "mode": args.prm.update_mode, "every": args.prm.update_every, "lr": settings.lr, **online.done}
    options, method, trained = dict(record.options), record.method, record.value_trained and flags.loss.value_coef > 0
    if reads(flags, "label.name"):
        method, told["label"] = flags.label.name, flags.label.name
        trained = trained and method != "outcome_last"
    for name in (n for n in OF_LABELS if n != "label.name" and reads(flags, n)):
        group, option = name.split(".")
        options[option] = getattr(getattr(flags, group), option)
    options["online"] = told
    if "reference_beside" in options:
        from ..prm.kinds.implicit import reference_of

        place = str(Path(reference_of(start)).resolve())
        options |= {"reference": place, "reference_beside": os.path.relpath(place, Path(folder).resolve())}
    model = online.model
    model.__dict__.pop("forward", None)  # the training's own call
    save_prm(model, load_tokenizer(start), folder, replace(record, method=method, value_trained=trained, options=options, reference={}))
