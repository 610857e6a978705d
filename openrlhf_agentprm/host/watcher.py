"""Watches a PPO run for a policy that games its PRM, and acts on the alarm.

The figures are those of `core.monitors`, the rule that of `core.alarm`. They go where the host logs (`train/monitor/…`, `eval/monitor/…`) and,
with figures of the host's that belong to the picture, into `monitor.jsonl` in `--ckpt.output_dir`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..core import monitors as figures
from ..core.alarm import Point, Rule, gap, judge, origin_of
from ..core.batches import TurnBatch
from ..core.estimators.paid import paid_by_turn
from ..core.scan import last_valid
from ..data.files import write_whole
from .advantage_flags import all_options, mute
from .online_flags import is_online
from .samples import BROKEN

FILE = "monitor.jsonl"
_OF_HOST = {  # names in a row of the file, by the names under which a step logs them
    "prm/outcome_correlation": "last_promise_correlation",
    "valid_actions": "valid_actions",
    "kl": "kl",
    "turns/entropy": "entropy",
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
        step: of that checkpoint. Rows behind it in `monitor.jsonl` are of steps that are trained again, or of another run in the same folder.
    """

    def __init__(self, args: Any, state: dict[str, Any] | None = None, step: int = 0) -> None:
        self.args = args
        self.rule = Rule(args.prm.alarm_window, args.prm.alarm_rise, args.prm.alarm_z)
        self.state: dict[str, Any] = state or {"series": {}, "first": {}, "reference": {}, "alarm": None, "best": None}
        self.at_best = False
        self._seen: dict[str, float] = {}
        self.learns_from_next = False  # the batch that is seen next becomes the PRM's own data
        own = getattr(args.agentprm, "score_reference", {})
        self._reference = self.state["reference"] or own if is_online(args) else own or self.state["reference"]
        self._settle()
        self._forget_later_rows(step)

    @property
    def ended(self) -> bool:
        return self.state["alarm"] is not None and self.args.prm.early_stop in ("best", "stop")

    @property
    def muted(self) -> bool:
        """Whether the PRM has no more say in the advantages."""
        return self.state["alarm"] is not None and self.args.prm.early_stop == "outcome"

    def _settle(self) -> None:
        if self.muted:
            mute(self.args)

    def wants(self, step: int) -> bool:
        """Whether the held-out series lacks this step."""
        last = self.state["series"].get("held_out", {}).get("last", [])
        return not last or last[-1]["step"] < step

    def see_batch(self, batch: TurnBatch, tokens_BT: torch.Tensor, ending_B: torch.Tensor) -> None:
        """A training batch, before its advantages are computed."""
        kept_B = ~torch.isin(ending_B, BROKEN) & batch.mask_BK.any(1)
        self._seen = {}
        if batch.q_BK is not None and bool(kept_B.any()):
            self._seen = of_episodes(self.args, batch, tokens_BT, kept_B)
            first = self.state["first"] or self._seen
            self.state["first"] = dict(first)
            self._seen["turns_drift"] = figures.drift(self._seen["turns"], first, "turns")
            self._seen |= self._scores(batch, kept_B)
        self.learns_from_next = False
        if self.muted:
            for name in ("q_BK", "v_BK", "prover_q_BK", "prover_v_BK", "process_logratio_BT"):
                if (scores := getattr(batch, name)) is not None:
                    setattr(batch, name, torch.zeros_like(scores))

    def see_step(self, step: int, status: dict[str, Any]) -> dict[str, float]:
        """The step that was trained on the batch seen last: what is to be logged of it."""
        if not self._seen:
            return {}
        found = self._seen | self._judged("training", step, self._seen)
        told = {name: float(status[key]) for key, name in _OF_HOST.items() if key in status}
        told |= {key: float(value) for key, value in status.items() if key.startswith("prm_update/")}
        self._write({"kind": "training", "step": step} | found | told)
        self._ring("training", step, found)
        return {f"monitor/{name}": value for name, value in found.items() if name not in ("success", "episodes", "turns", "turns_std")}

    def see_evaluation(self, step: int, logs: dict[str, float]) -> None:
        """Held-out episodes, by what `evaluation` found; what follows from it is added to the logs."""
        found = {name.removeprefix("monitor/"): value for name, value in logs.items() if name.startswith("monitor/")}
        if not found:
            return
        first = self.state.setdefault("first_held_out", dict(found))
        found["turns_drift"] = figures.drift(found["turns"], first, "turns")
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
        kept["last"] = [*[p for p in kept["last"] if p["step"] != step], asdict(point)][-self.rule.window :]
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
        run_logger().warning(
            "the policy seems to game its PRM (step %d, %s): the PRM's reward rose by %.2f of its spreads, success by %+.3f; %s",
            step,
            "training batches" if series == "training" else "held-out tasks",
            found["reward_rise"],
            found["success_rise"],
            _DONE[action],
        )

    def _scores(self, batch: TurnBatch, kept_B: torch.Tensor) -> dict[str, float]:
        """How far the scores are from those on the PRM's own data, or else from those of the first batch."""
        scores = scores_by_name(batch, kept_B)
        if not self._reference:
            self._reference = self.state["reference"] = {name: figures.quantile_points(x_N) for name, x_N in scores.items()}
            run_logger().info("the PRM's record has no distribution of its scores; they are compared with those of the first batch")
        found = drifts(scores, self._reference)
        if self.learns_from_next:
            self._reference = self.state["reference"] = {name: figures.quantile_points(x_N) for name, x_N in scores.items()}
        return found

    def _forget_later_rows(self, step: int) -> None:
        file = Path(self.args.ckpt.output_dir) / FILE
        if file.is_file():
            rows = [line for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line + "\n" for line in rows if step and self._knows(json.loads(line), step)]
            write_whole(file, "".join(kept))

    def _knows(self, row: dict[str, Any], step: int) -> bool:
        """Whether a row was written before the checkpoint of this step, whose evaluation comes behind it."""
        evaluated = row["kind"] == "held_out" or row.get("series") == "held_out"
        return row["step"] < step or (row["step"] == step and not (evaluated and self.wants(step)))

    def _write(self, row: dict[str, Any]) -> None:
        folder = Path(self.args.ckpt.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def of_episodes(args: Any, batch: TurnBatch, tokens_BT: torch.Tensor, kept_B: torch.Tensor) -> dict[str, float]:
    """`core.monitors.batch_figures` of the episodes that came to an end, and how far an ensemble's members differ on their turns."""
    assert batch.outcome_B is not None
    paid_BK = paid(args, batch)[kept_B]
    mask_BK, turn_ids_BT = batch.mask_BK[kept_B], batch.turn_ids_BT[kept_B]
    keys_BK = figures.action_keys(tokens_BT[kept_B], turn_ids_BT, mask_BK.shape[1])
    found = figures.batch_figures(paid_BK, mask_BK, batch.outcome_B[kept_B], keys_BK, int((turn_ids_BT >= 0).sum()))
    if batch.disagreement_BK is not None:
        found["disagreement"] = float(batch.disagreement_BK[kept_B][mask_BK].mean())
    return found


def scores_by_name(batch: TurnBatch, kept_B: torch.Tensor) -> dict[str, torch.Tensor]:
    """Promise and progress of all turns, as a PRM's record keeps their distributions."""
    assert batch.q_BK is not None and batch.v_BK is not None
    mask_BK = batch.mask_BK & kept_B[:, None]
    return {"promise": batch.q_BK[mask_BK], "progress": (batch.q_BK - batch.v_BK)[mask_BK]}


def drifts(scores: dict[str, torch.Tensor], reference: dict[str, Any]) -> dict[str, float]:
    """How far scores are from those on the PRM's own data."""
    return {f"{name}_drift": figures.score_drift(x_N, reference[name]) for name, x_N in scores.items()}


def paid(args: Any, batch: TurnBatch) -> torch.Tensor:
    """Process rewards by turn as training pays them (`core.estimators.paid`), (B, K); the last turn's promise where it pays none."""
    p_BK = paid_by_turn(args.algo.advantage.estimator, all_options(args), batch) if all_options(args) else None
    if p_BK is not None:
        return p_BK
    assert batch.q_BK is not None
    return torch.where(last_valid(batch.mask_BK), batch.q_BK, 0.0)


def run_logger() -> Any:
    """The host's, which prints into its log."""
    from openrlhf.utils.logging_utils import init_logger

    return init_logger(__name__)
