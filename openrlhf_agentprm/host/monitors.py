"""Watches a PPO run for a policy that games its PRM, and acts on the alarm.

The figures are those of `core.monitors`, the rule that of `core.alarm`. They go where the host logs (`train/monitor/…`, `eval/monitor/…`) and,
with figures of the host's that belong to the picture, into `monitor.jsonl` in `--ckpt.output_dir`. The patched trainer calls what stands
at the end of this file; without `--prm.monitor_every` all of it does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..core import monitors as figures
from ..core.alarm import Point, Rule, gap, judge, origin_of
from ..core.batches import TurnBatch
from .samples import BROKEN

FILE = "monitor.jsonl"
_STATE = "agentprm_monitor"
_OF_HOST = {  # names in a row of the file, by the names under which a step logs them
    "turns/outcome_mean": "success",
    "turns/per_episode": "turns",
    "prm/outcome_correlation": "last_promise_correlation",
    "valid_actions": "valid_actions",
    "kl": "kl",
    "entropy_loss": "entropy",
}
_DONE = {
    "none": "training goes on",
    "stop": "training ends",
    "best": "training ends with the best held-out checkpoint",
    "outcome": "from the next step on the PRM pays nothing",
}


class Watcher:
    """One run's monitors.

    Args:
        args: nested flags of the run.
        state: of a checkpoint, to go on from; it is kept in the host's client states.
    """

    def __init__(self, args: Any, state: dict[str, Any] | None = None) -> None:
        self.args = args
        self.rule = Rule(args.prm.alarm_window, args.prm.alarm_rise, args.prm.alarm_z)
        self.state: dict[str, Any] = state or {"series": {}, "first": {}, "reference": {}, "alarm": None, "best": None}
        self.at_best = False
        self._seen: dict[str, float] = {}
        self._reference = getattr(args.agentprm, "score_reference", {}) or self.state["reference"]
        self._settle()

    @property
    def ended(self) -> bool:
        return self.state["alarm"] is not None and self.args.prm.early_stop in ("best", "stop")

    @property
    def muted(self) -> bool:
        """Whether the PRM has no more say in the advantages."""
        return self.state["alarm"] is not None and self.args.prm.early_stop == "outcome"

    def _settle(self) -> None:
        if self.muted:
            self.args.algo.advantage.process_weight = 0.0

    def see_batch(self, batch: TurnBatch, tokens_BT: torch.Tensor, ending_B: torch.Tensor, disagreement_BK: torch.Tensor | None) -> None:
        """A training batch, before its advantages are computed."""
        kept_B = ~torch.isin(ending_B, BROKEN) & batch.mask_BK.any(1)
        self._seen = {}
        if batch.q_BK is not None and bool(kept_B.any()):
            self._seen = of_episodes(self.args, batch, tokens_BT, kept_B)
            first = self.state["first"] or self._seen
            self.state["first"] = dict(first)
            self._seen["turns_drift"] = figures.drift(self._seen["turns"], first, "turns")
            self._seen |= self._scores(batch, kept_B)
            if disagreement_BK is not None:
                self._seen["disagreement"] = float(disagreement_BK[batch.mask_BK & kept_B[:, None]].mean())
        if self.muted:
            batch.q_BK = batch.v_BK = None if batch.q_BK is None else torch.zeros_like(batch.q_BK)

    def see_step(self, step: int, status: dict[str, Any]) -> dict[str, float]:
        """The step that was trained on the batch seen last: what is to be logged of it."""
        if not self._seen:
            return {}
        found = self._seen | self._judged("training", step, self._seen)
        told = {name: float(status[key]) for key, name in _OF_HOST.items() if key in status}
        self._write({"kind": "training", "step": step} | found | told)
        self._ring("training", step, found)
        return {f"monitor/{name}": value for name, value in found.items() if name not in ("success", "episodes", "turns", "turns_std")}

    def see_evaluation(self, step: int, logs: dict[str, float]) -> None:
        """Held-out episodes, by what `evaluation` found; what follows from it is added to the logs."""
        found = {name.removeprefix("monitor/"): value for name, value in logs.items() if name.startswith("monitor/")}
        if not found:
            return
        found |= self._judged("held_out", step, found)
        logs.update({f"monitor/{name}": value for name, value in found.items()})
        self._write({"kind": "held_out", "step": step} | found)
        self._ring("held_out", step, found)

    def _judged(self, series: str, step: int, found: dict[str, float]) -> dict[str, float]:
        """The gap since the series began, and the rule's figures over its window."""
        point = Point(step, found["episodes"], found["prm_reward"], found["prm_reward_std"], found["success"])
        kept = self.state["series"].setdefault(series, {"first": asdict(point), "varied": None, "last": []})
        if kept["varied"] is None and point.spread > 0:
            kept["varied"] = asdict(point)
        kept["last"] = [*kept["last"], asdict(point)][-self.rule.window :]
        origin = origin_of(Point(**kept["first"]), Point(**kept["varied"]) if kept["varied"] else None)
        told = {"gap": gap(point, origin), "alarm": 0.0}
        verdict = judge([Point(**p) for p in kept["last"]], origin, self.rule)
        if verdict is not None:
            told |= {"gap_slope": verdict.gap_slope, "reward_rise": verdict.reward_rise, "success_rise": verdict.success_rise}
            told |= {"evidence": verdict.evidence, "alarm": float(verdict.rings)}
        return told

    def _ring(self, series: str, step: int, found: dict[str, float]) -> None:
        """Act on the first alarm of the run."""
        if not found["alarm"] or self.state["alarm"] is not None:
            return
        names = ("reward_rise", "success_rise", "evidence", "gap")
        alarm = {"series": series, "step": step} | {name: found[name] for name in names}
        self.state["alarm"] = alarm
        action = self.args.prm.early_stop
        self._write({"kind": "alarm", "action": action} | alarm)
        self._settle()
        _logger().warning(
            "the policy seems to game its PRM (step %d, %s): the PRM's reward rose by %.2f of its spreads, success by %+.3f; %s",
            step,
            "training batches" if series == "training" else "held-out tasks",
            found["reward_rise"],
            found["success_rise"],
            _DONE[action],
        )

    def _scores(self, batch: TurnBatch, kept_B: torch.Tensor) -> dict[str, float]:
        """How far the scores are from those on the PRM's own data, or else from those of the first batch."""
        assert batch.q_BK is not None and batch.v_BK is not None
        mask_BK = batch.mask_BK & kept_B[:, None]
        scores = {"promise": batch.q_BK[mask_BK], "progress": (batch.q_BK - batch.v_BK)[mask_BK]}
        if not self._reference:
            self._reference = self.state["reference"] = {name: figures.quantile_points(x_N) for name, x_N in scores.items()}
            _logger().info("the PRM's record has no distribution of its scores; they are compared with those of the first batch")
        return {f"{name}_drift": figures.score_drift(x_N, self._reference[name]) for name, x_N in scores.items()}

    def _write(self, row: dict[str, Any]) -> None:
        folder = Path(self.args.ckpt.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def of_episodes(args: Any, batch: TurnBatch, tokens_BT: torch.Tensor, kept_B: torch.Tensor) -> dict[str, float]:
    """`core.monitors.batch_figures` of the episodes that came to an end."""
    assert batch.outcome_B is not None
    paid_BK = paid(args, batch)[kept_B]
    mask_BK, turn_ids_BT = batch.mask_BK[kept_B], batch.turn_ids_BT[kept_B]
    keys_BK = figures.action_keys(tokens_BT[kept_B], turn_ids_BT, mask_BK.shape[1])
    return figures.batch_figures(paid_BK, mask_BK, batch.outcome_B[kept_B], keys_BK, int((turn_ids_BT >= 0).sum()))


def paid(args: Any, batch: TurnBatch) -> torch.Tensor:
    """Process rewards by turn as training pays them, before their weight, (B, K); the last turn's promise where it pays none."""
    assert batch.q_BK is not None and batch.v_BK is not None
    a = args.algo.advantage
    kind = "progress" if a.estimator == "progress" else a.process_reward
    if kind == "none":
        last_BK = batch.mask_BK & (batch.mask_BK.flip(1).cumsum(1).flip(1) == 1)
        return torch.where(last_BK, batch.q_BK, 0.0)
    return torch.where(batch.mask_BK, batch.q_BK if kind == "promise" else batch.q_BK - batch.v_BK, 0.0)


def evaluation(args: Any, group: Any, samples: Sequence[Any]) -> dict[str, float]:
    """What held-out episodes tell, scored by the PRM's workers, under the names of the evaluation's logs; empty where nothing is watched."""
    if not args.prm.monitor_every or group is None or not samples or samples[0].turn_numbers is None:
        return {}
    from .experience import scores_of, turn_batch

    samples = [s for s in samples if not bool(torch.isin(s.ending, BROKEN).any()) and bool((s.turn_numbers > 0).any())]
    if not samples:
        return {}
    for number, sample in enumerate(samples):
        sample.index = [number]
        sample.kl = torch.zeros(sample.turn_numbers.shape)
        sample.prm_scores = None
    for sample, (q_BK, v_BK, *_) in zip(samples, scores_of(args, group, samples), strict=True):
        sample.prm_scores = (q_BK, v_BK)
    batch = turn_batch(args, samples)
    tokens_BT = torch.nn.utils.rnn.pad_sequence([s.sequences[0, 1:] for s in samples], batch_first=True)
    found = of_episodes(args, batch, tokens_BT, torch.ones(len(samples), dtype=torch.bool))
    valid = [s.info["valid_actions"].float() for s in samples if "valid_actions" in s.info]
    if valid:
        found["valid_actions"] = float(torch.cat(valid).mean())
    return {f"monitor/{name}": value for name, value in found.items()}


# --- called by the patched trainer ---


def start(trainer: Any, checkpoint_states: dict[str, Any] | None) -> None:
    """Begin to watch, or go on from a checkpoint."""
    if trainer.args.prm.monitor_every:
        trainer.experience_maker.watcher = Watcher(trainer.args, (checkpoint_states or {}).get(_STATE))


def watcher_of(trainer: Any) -> Watcher | None:
    return getattr(trainer.experience_maker, "watcher", None)


def watched(trainer: Any, step: int, status: dict[str, Any]) -> dict[str, float]:
    """What a step logs besides."""
    watcher = watcher_of(trainer)
    return watcher.see_step(step, status) if watcher else {}


def keep(trainer: Any, client_states: dict[str, Any]) -> None:
    """Put the monitors' state where checkpoints keep theirs: the object itself, so that what an evaluation adds to it is in there too."""
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
    """Evaluate the policy that training starts from; it is the best one so far, where the best is to be gone back to."""
    if not (evaluates_first(trainer.args, step) and trainer.eval_dataloader):
        return
    own = {"temperature": trainer.args.eval.temperature, "n_samples_per_prompt": trainer.args.eval.n_samples_per_prompt}
    keep_first(trainer, trainer.evaluate(0, **(trainer.generate_kwargs | own)))


def keep_first(trainer: Any, logs: dict[str, float]) -> None:
    """Save what training starts from as the best so far; a run that is resumed from it begins anew."""
    if trainer.args.prm.early_stop == "best":
        states: dict[str, Any] = {"episode": 0, "global_step": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}}
        keep(trainer, states)
        trainer.save_best_checkpoint(logs, 0, states)


def note_best(trainer: Any, tag: str) -> None:
    """The tag of the best checkpoint, which is about to be saved."""
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
        _logger().info("the policy is that of %s", tag)
    watcher.at_best = True
    return True


def _logger() -> Any:
    from openrlhf.utils.logging_utils import init_logger

    return init_logger(__name__)
