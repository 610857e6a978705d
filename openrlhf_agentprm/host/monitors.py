"""What the patched trainer calls: what outlives a batch goes with its checkpoints, and a run is watched and ends where its alarm says so.

Without `--prm.monitor_every` nothing is watched, without `--prm.update_every` the PRM is not trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import online
from .experience import recall, remember
from .held_out import evaluation as evaluation
from .watcher import Watcher, run_logger

_STATE = "agentprm_monitor"


def start(trainer: Any, checkpoint_states: dict[str, Any] | None) -> None:
    """Begin, or go on from a checkpoint."""
    recall(trainer, checkpoint_states)
    online.resume(trainer, checkpoint_states)
    if trainer.args.prm.monitor_every:
        states = checkpoint_states if checkpoint_states is not None else {}
        _forget_lost_best(trainer.args, states)
        trainer.experience_maker.watcher = Watcher(trainer.args, states.get(_STATE), states.get("global_step", 0))
        trainer.experience_maker.resumed_from = states


def _forget_lost_best(args: Any, states: dict[str, Any]) -> None:
    """A kill while the host puts a better checkpoint in the best one's place leaves neither: the next evaluation is then the best so far."""
    policy, best = Path(args.ckpt.path, "_actor"), (states.get(_STATE) or {}).get("best")
    if best and policy.is_dir() and not (policy / best).is_dir():
        run_logger().warning("the best checkpoint so far, %s, is gone; the next evaluation's is the best", best)
        states[_STATE]["best"] = None
        states.pop("best_eval_metric_value", None)


def watcher_of(trainer: Any) -> Watcher | None:
    return getattr(trainer.experience_maker, "watcher", None)


def watched(trainer: Any, step: int, status: dict[str, Any]) -> dict[str, float]:
    """What a step logs besides."""
    watcher, updates = watcher_of(trainer), online.online_of(trainer.experience_maker)
    found = updates.figures() if updates else {}
    return found | (watcher.see_step(step, status | found) if watcher else {})


def keep(trainer: Any, client_states: dict[str, Any]) -> None:
    """Put what is kept where checkpoints keep theirs; the monitors' state itself, so that what an evaluation adds to it is in there too."""
    remember(trainer, client_states)
    online.keep(trainer, client_states)
    if watcher := watcher_of(trainer):
        client_states[_STATE] = watcher.state


def evaluated(trainer: Any, step: int, logs: dict[str, float]) -> None:
    """A held-out evaluation, before it is logged."""
    if watcher := watcher_of(trainer):
        watcher.see_evaluation(step, logs)


def evaluates_first(args: Any, step: int) -> bool:
    """Whether the policy that training starts from is evaluated too: the first point of the held-out series."""
    return bool(args.prm.monitor_every and args.eval.dataset) and step == 0


def evaluate_first(trainer: Any, step: int) -> None:
    """Evaluate the policy that training starts from, or goes on from where the evaluation of that step was not kept with it.

    The policy of step 0 is the best one so far, where the best is to be gone back to; that of another step may be, as it would have been.
    """
    watcher = watcher_of(trainer)
    if watcher is None or not trainer.eval_dataloader or step % trainer.args.prm.monitor_every or not watcher.wants(step):
        return
    own = {"temperature": trainer.args.eval.temperature, "n_samples_per_prompt": trainer.args.eval.n_samples_per_prompt}
    logs = trainer.evaluate(step, **(trainer.generate_kwargs | own))
    if step == 0:
        keep_first(trainer, logs)
    else:
        states = dict(trainer.experience_maker.resumed_from)
        keep(trainer, states)
        trainer.save_best_checkpoint(logs, step, states)


def keep_first(trainer: Any, logs: dict[str, float]) -> None:
    """Save what training starts from as the best so far; a run that is resumed from it begins anew."""
    if trainer.args.prm.early_stop == "best":
        states: dict[str, Any] = {"episode": 0, "global_step": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}}
        keep(trainer, states)
        trainer.save_best_checkpoint(logs, 0, states)


def note_best(trainer: Any, tag: str) -> None:
    """The tag of the best checkpoint, which is about to be saved."""
    online.save(trainer, tag)
    if watcher := watcher_of(trainer):
        watcher.state["best"] = tag


def ended(trainer: Any) -> bool:
    """Whether the alarm has ended the training; the actor then has the best weights, if these are to be kept."""
    watcher = watcher_of(trainer)
    if watcher is None or not watcher.ended:
        return False
    tag = watcher.state["best"]
    if trainer.args.prm.early_stop == "best" and tag and not watcher.at_best:
        import ray

        ray.get(trainer.actor_model_group.async_run_method(method_name="load_tagged", tag=tag))
        online.go_to(trainer, tag)
        run_logger().info("the policy is that of %s", tag)
    watcher.at_best = True
    return True
