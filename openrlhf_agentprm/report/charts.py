"""Which charts a run gets, and how each is to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .artifacts import Artifacts, Evaluated, Trained
from .board import FREE
from .curves import Points, first_of, smooth
from .plots import COLOURS, Chart, Series, colour_of

_PPO = (  # tags in order of preference, title, hint, whether it is a share
    (
        ("train/turns/outcome_mean", "train/reward"),
        "Outcome of the training rollouts",
        "Mean outcome of the episodes that a step learns from.",
        True,
    ),
    (
        ("train/prm/promise_mean",),
        "Mean promise of the training rollouts",
        "If promise rises and the outcome does not, the policy pleases the PRM without solving tasks.",
        False,
    ),
    (
        ("train/prm/outcome_correlation",),
        "Last promise and outcome",
        "Correlation over a step's episodes; a fall means that the PRM no longer knows this policy's successes.",
        False,
    ),
    (
        ("train/turns/value_explained_variance",),
        "Explained variance of the values",
        "Share of the returns that the values foresaw: 1 is all, 0 no more than their mean.",
        False,
    ),
    (("train/turns/per_episode", "train/turns"), "Turns an episode", "Mean length of the training rollouts.", False),
    (("train/kl",), "KL from the reference policy", "How far the policy moved, in nats a token.", False),
    (("train/valid_actions",), "Valid actions", "Share of actions that the environment understood.", True),
)
_POLICY = 4  # the colour of the policy before PPO in the first chart
_DASHES = {"fewest turns": "--", "length regression": "--", "log-probability per turn": "-.", "random": ":"}


@dataclass(frozen=True)
class Key:
    """An entry of a legend, which stands in the page once for several charts."""

    label: str
    colour: int
    style: str = "-"


def prm_names(found: Artifacts) -> list[str]:
    """Every PRM by the name that evaluations give it, else by its stage's title; the order decides the colours."""
    names = [name for e in found.evaluated for name in e.prms]
    return list(dict.fromkeys([*names, *(prm_name(found, trained) for trained in found.prms)]))


def prm_name(found: Artifacts, trained: Trained) -> str:
    folder = found.run.checkpoint(trained.stage)
    return next((name for e in found.evaluated for name, path in e.prms.items() if path == folder), trained.stage.label)


def choice_charts(e: Evaluated, names: Sequence[str]) -> tuple[list[Chart], list[Key]]:
    """Success against N and against sampled tokens for every way to choose; the most turns, the fewest's opposite, stand in the table alone."""
    curves = {name: curve for name, curve in e.result["best_of_n"].items() if name != "most turns"}
    series, keys = [], []
    for name in sorted(curves, key=lambda name: (name not in FREE, name)):
        sizes = sorted(int(n) for n in curves[name] if curves[name][n].get("mean") is not None)
        prm = name in names
        colour, style = (colour_of(names, name), "-") if prm else (0, _DASHES.get(name, "-"))
        entries = [curves[name][str(n)] for n in sizes]
        known = prm and all(entry.get("low") is not None and entry.get("high") is not None for entry in entries)
        band = ([entry["low"] for entry in entries], [entry["high"] for entry in entries]) if known else None
        series.append(Series(sizes, [entry["mean"] for entry in entries], colour, style, "o" if prm else "", band=band))
        keys.append(Key({"random": "random choice"}.get(name, name), colour, style))
    ends = "; ".join(f"{key.label} {100 * s.y[-1]:.1f} %" for key, s in zip(keys, series, strict=True) if s.y)
    chart = Chart(
        "Best of N",
        "Success when one of N samples is chosen. Bands are 95 % intervals over tasks; the oracle is the upper bound.",
        f"Success against the number of samples. At the most samples: {ends}.",
        series,
        "samples N",
        percent=True,
        log2_x=True,
        ticks=sorted({x for s in series for x in s.x}),
    )
    return [chart, *_token_chart(e, series, ends)], keys


def _token_chart(e: Evaluated, series: Sequence[Series], ends: str) -> list[Chart]:
    """The same curves over what the samples cost, with greedy decoding where it is known."""
    tokens = e.result.get("tokens_per_task")
    if not tokens:
        return []
    moved = [replace(s, x=[tokens[str(int(n))] for n in s.x]) for s in series]
    greedy, hint = (
        e.result.get("greedy", {}),
        "The same over the tokens that the policy sampled for a task; scoring by the PRM samples none.",
    )
    if greedy.get("tokens_per_task"):
        moved.append(Series([greedy["tokens_per_task"]], [greedy["mean"]], 0, "", "D"))
        hint += f" The diamond is greedy decoding, {100 * greedy['mean']:.1f} %."
    told = f"Success against sampled tokens a task. At the most tokens: {ends}."
    ticks = [round(value) for value in tokens.values()]
    return [Chart("Success over tokens", hint, told, moved, "sampled tokens a task", percent=True, log2_x=True, ticks=ticks)]


def quality_charts(e: Evaluated, names: Sequence[str]) -> tuple[list[Chart], list[Key]]:
    """AUC by turn and by turns left, promise against success and calibration error by turn, reliability of the last turn's promise."""
    found = {name: quality for name, quality in e.result.get("prm_quality", {}).items() if quality["by_turn"]}
    if not found:
        return [], []
    auc, promise, reliability = [], [], []
    for name, quality in found.items():
        colour, rows = colour_of(names, name), quality["by_turn"]
        known = [row for row in rows if row["auc_within_task"] is not None]
        auc.append(Series([row["turn"] for row in known], [row["auc_within_task"] for row in known], colour, marker="o"))
        promise.append(Series([row["turn"] for row in rows], [row["mean_score"] for row in rows], colour, marker="o"))
        bins = quality["last"]["calibration"]
        most = max((count for _, _, count in bins), default=1)
        sizes = [12 + 110 * count / most for _, _, count in bins]
        reliability.append(Series([score for score, _, _ in bins], [label for _, label, _ in bins], colour, faint=True, sizes=sizes))
    rows = next(iter(found.values()))["by_turn"]
    promise.append(Series([row["turn"] for row in rows], [row["success"] for row in rows], 0, "--"))
    charts = [
        Chart(
            "AUC by turn",
            "AUC between samples of one task, still alive at turn t: how often a success is scored above a failure there. 0.5 is chance.",
            "AUC by turn: " + "; ".join(f"{name} {_listed(s.y)}" for name, s in zip(found, auc, strict=True)),
            auc,
            "turn t",
            integer_x=True,
            level=0.5,
            y_range=(min([0.45, *_values(auc, -0.03)]), max([0.75, *_values(auc, 0.03)])),
        ),
        Chart(
            "Promise and success by turn",
            "Mean promise at turn t (lines) and share of those episodes that will succeed (dashed); a calibrated PRM lies on it.",
            "Mean promise by turn: " + "; ".join(f"{name} {_listed(s.y)}" for name, s in zip(found, promise, strict=False)),
            promise,
            "turn t",
            integer_x=True,
        ),
        Chart(
            "Calibration at the last turn",
            "Episodes in bins of promise (x) and how many of them succeeded (y); larger dots hold more. On the diagonal is calibrated.",
            "Share of successes by bin of promise: "
            + "; ".join(f"{name} {_listed(s.y)}" for name, s in zip(found, reliability, strict=True)),
            reliability,
            "promise of the last turn",
            diagonal=True,
        ),
    ]
    charts += _calibration_charts(found, names)
    return [chart for chart in charts if any(len(line.y) for line in chart.series)], [  # no calibration of scores that are no probabilities
        *(Key(name, colour_of(names, name)) for name in found),
        Key("succeeded", 0, "--"),
    ]


def _calibration_charts(found: Mapping[str, Any], names: Sequence[str]) -> list[Chart]:
    """What needs figures by turns left, which evaluations of before do not have."""
    if not all(quality.get("by_turns_left") for quality in found.values()):
        return []

    def lines(rows: str, x: str, y: str) -> list[Series]:
        told = [(name, [row for row in quality[rows] if row[y] is not None]) for name, quality in found.items()]
        return [Series([row[x] for row in own], [row[y] for row in own], colour_of(names, name), marker="o") for name, own in told]

    def listed(series: Sequence[Series]) -> str:
        return "; ".join(f"{name} {_listed(s.y)}" for name, s in zip(found, series, strict=True))

    left, error = lines("by_turns_left", "turns_left", "auc_within_task"), lines("by_turn", "turn", "ece")
    return [
        Chart(
            "AUC by turns left",
            "AUC between samples of one task, so many turns before the last. Longer episodes are at later turns there: length shows.",
            f"AUC by turns left: {listed(left)}",
            left,
            "turns left",
            integer_x=True,
            level=0.5,
            y_range=(min([0.45, *_values(left, -0.03)]), max([0.75, *_values(left, 0.03)])),
        ),
        Chart(
            "Calibration error by turn",
            "Mean distance between promise and share of successes, over ten bins, among episodes that go on. 0 is calibrated.",
            f"Expected calibration error by turn: {listed(error)}",
            error,
            "turn t",
            integer_x=True,
        ),
    ]


def ppo_charts(runs: Sequence[Trained]) -> tuple[list[Chart], list[Key]]:
    """Every PPO run in the same charts."""
    titles = [trained.stage.label for trained in runs]
    keys = [Key(title, n % COLOURS + 1) for n, title in enumerate(titles)]
    charts = []
    for tags, title, hint, share in _PPO:
        charts += _training_chart(title, hint, [(key, first_of(t.scalars, tags)) for key, t in zip(keys, runs, strict=True)], share)
    for tag in sorted({tag for t in runs for tag in t.scalars if tag.startswith("eval/") and "reward" in tag or tag.endswith("pass1")}):
        name = tag.removeprefix("eval/")
        hint = "Measured during training, on the tasks of the run's evaluation set."
        charts += _training_chart(f"Evaluation: {name}", hint, [(key, t.scalars.get(tag, [])) for key, t in zip(keys, runs, strict=True)])
    return charts, keys


def learning_charts(found: Artifacts, names: Sequence[str]) -> tuple[list[Chart], list[Key]]:
    """Losses of SFT and of the PRMs, and the PRMs on held-out tasks after each epoch."""
    keys = [Key(prm_name(found, t), colour_of(names, prm_name(found, t))) for t in found.prms]
    charts: list[Chart] = []
    for trained in found.sft:
        points = first_of(trained.scalars, ("train/gpt_loss", "train/loss_mean"))
        hint = "Cross-entropy of the demonstrated actions' tokens, in nats."
        charts += _training_chart(f"SFT loss: {trained.stage.label}", hint, [(Key("", _POLICY), points)])
    losses = [(key, trained.scalars.get("loss", [])) for key, trained in zip(keys, found.prms, strict=True)]
    charts += _training_chart("PRM loss", "Squared error of promise and of progress against their labels.", losses)
    held_out = [(key, trained.scalars.get("eval_auc_last_within_task", [])) for key, trained in zip(keys, found.prms, strict=True)]
    hint = "AUC of the last turn between samples of one held-out task, after each epoch. 0.5 is chance."
    charts += _training_chart("PRM on held-out tasks", hint, held_out)
    return charts, keys if found.prms else []


def _training_chart(title: str, hint: str, lines: Iterable[tuple[Key, Points]], share: bool = False) -> list[Chart]:
    """A chart over steps; many points are shown faintly under their moving mean. None without any point."""
    series: list[Series] = []
    told = []
    for key, points in lines:
        if not points:
            continue
        x, y = [step for step, _ in points], [value for _, value in points]
        window = max(1, len(points) // 20) if len(points) > 40 else 3 if len(points) > 8 else 1
        smoothed = [value for _, value in smooth(points, window)]
        if window > 1:
            series.append(Series(x, y, key.colour, faint=True))
        series.append(Series(x, smoothed, key.colour, marker="o" if len(points) <= 8 else ""))
        told.append(f"{key.label} from {smoothed[0]:.3g} to {smoothed[-1]:.3g}".strip())
    if not series:
        return []
    return [Chart(title, hint, f"{title} over steps: {'; '.join(told)}.", series, "step", percent=share, integer_x=True)]


def _values(series: Sequence[Series], margin: float) -> list[float]:
    return [y + margin for one in series for y in one.y]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
