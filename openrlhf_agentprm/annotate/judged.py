"""Labels by a judge: `autopsv`, a verifier's relative drop, and `consensus`, where two judges agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..core.errors import UserError
from ..core.verdicts import agreement, relative_drop, wrong_from_the_first
from ..data.sidecar import Sidecar, read_about
from ..data.store import EpisodeStore
from .given import NO_COST, Rows, check_flags, check_given, check_numbers, padded, targets_in
from .paths import paths_of
from .scored import Score, Scored


class autopsv:
    """Registry entry `autopsv`, offline: Q̂ = 1[(V_t − V_{t−1}) / V_{t−1} > threshold], V a verifier's confidence (arXiv 2405.16802)."""

    scale = "judgement"

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        prm: str | None = None,
        reward_model: str = "auto",
        score: Score = Scored,
        threshold: float = -0.5,
        from_first_error: bool = False,
    ) -> Sidecar:
        """See `core.verdicts.relative_drop`; the outcomes are not read.

        Args:
            prm: the verifier's checkpoint; an ORM in the paper. What stands before the first turn is its V(s_0); a PRM that never trained a V
                leaves the first turn without a label.
            reward_model: entry of the registry of reward models, or "auto": what the checkpoint says that it is.
            score: scores a store by a PRM.
            threshold: the relative change at which a turn is wrong.
            from_first_error: everything behind a wrong turn is wrong too.
        """
        check_given("autopsv", {"prm": prm}, "a verifier's checkpoint")
        check_numbers("autopsv", {"threshold": (threshold, -1, 0)})
        check_flags("autopsv", {"from_first_error": from_first_error})
        scored = score(store, str(prm), reward_model)
        rows = Rows()
        for episode, q_K, v_K in scored:
            right_K = relative_drop(q_K, float(v_K[0]) if scored.values_start else math.nan, threshold)
            rows.add(episode.episode_id, wrong_from_the_first(right_K) if from_first_error else right_K)
        return rows.sidecar(
            scored.cost, {}, f"no turn of {store.path} has a label: its episodes have no outcome, or one turn that has no V(s_0)"
        )


class consensus:
    """Registry entry `consensus`, offline: labels of one method, kept where a second judge agrees (arXiv 2501.07301)."""

    @staticmethod
    def scale(options: Mapping[str, Any]) -> str:
        """That of the labels that are filtered, unless they become verdicts."""
        return "judgement" if options.get("hard") else read_about(str(options["mc"])).get("scale", "probability")

    @staticmethod
    def annotate(
        store: EpisodeStore,
        *,
        mc: str | None = None,
        judge: str | None = None,
        prm: str | None = None,
        reward_model: str = "auto",
        score: Score = Scored,
        threshold: float = 0.0,
        judge_threshold: float = 0.5,
        hard: bool = False,
        whole: bool = False,
    ) -> Sidecar:
        """See `core.verdicts.agreement`. The paper sets Monte-Carlo estimation beside a language model that criticises the solution.

        Args:
            mc: folder of the labels that are filtered, such as `mc_soft`'s.
            judge: folder of the second judge's labels; or
            prm: a PRM's checkpoint, whose scores judge.
            reward_model: entry of the registry of reward models that `prm` is of, or "auto": what it says that it is.
            score: as in `autopsv`.
            threshold: a turn is right by `mc` above it; above 0 any success is enough, as in the paper.
            judge_threshold: a turn is right by the judge above it.
            hard: labels become 1 (right) and 0 (wrong).
            whole: both have to name the same first wrong turn of an episode, or its labels are dropped; turns behind it get none.
        """
        check_given("consensus", {"mc": mc}, "labels that are to be filtered")
        if (judge is None) == (prm is None):
            raise UserError("consensus: give one second judge, its labels as the option judge or a checkpoint as the option prm")
        check_numbers(
            "consensus", {"threshold": (threshold, -math.inf, math.inf), "judge_threshold": (judge_threshold, -math.inf, math.inf)}
        )
        check_flags("consensus", {"hard": hard, "whole": whole})
        first = targets_in(str(mc), store)
        scored = score(store, prm, reward_model) if prm else None
        rows, known, right, both = Rows(), 0, 0, 0
        for episode, verdicts_K in _by_scores(scored) if scored else _by_labels(str(judge), store):
            own_K = padded(first, episode, len(verdicts_K))
            known_K = ~(own_K.isnan() | verdicts_K.isnan())
            kept_K = agreement(own_K, verdicts_K, threshold, judge_threshold, whole=whole)
            known, both = known + int(known_K.sum()), both + int(kept_K.sum())
            right += int((kept_K & (own_K > threshold)).sum())
            rows.add(episode, torch.where(kept_K, (own_K > threshold).double() if hard else own_K, math.nan))
        figures = {"judged_by_both": known, "share_kept": both / max(1, known), "share_right_of_kept": right / max(1, both)}
        return rows.sidecar(
            scored.cost if scored else dict(NO_COST),
            figures,
            f"consensus: the judges agree on no turn of {store.path} ({known} turns have a label of both)",
        )


def _by_scores(scored: Scored) -> Iterator[tuple[str, torch.Tensor]]:
    return ((episode.episode_id, q_K) for episode, q_K, _ in scored)


def _by_labels(folder: str, store: EpisodeStore) -> Iterator[tuple[str, torch.Tensor]]:
    labels = targets_in(folder, store)
    return ((path.episode_id, padded(labels, path.episode_id, len(path.actions))) for path in paths_of(store))
