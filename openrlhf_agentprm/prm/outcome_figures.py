"""What scores of held-out episodes tell of their outcomes, in offline and in online training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..core import metrics
from .record import ENDS_AS_OUTCOME


def outcome_figures(
    last: Sequence[float], first: Sequence[float], outcomes: Sequence[float], tasks: Sequence[str], scale: str
) -> dict[str, float]:
    """Squared error of the last turn's Q against the outcome, and AUC of the last turn, of the first, and within tasks.

    Args:
        last, first: Q of each episode's last and first turn.
        outcomes: in [0, 1]; a success is above one half.
        tasks: of each episode.
        scale: what a score is, one of `prm.record.SCALES`; of others than `ENDS_AS_OUTCOME` the distance to the outcome means nothing.

    Returns:
        brier_last (of `ENDS_AS_OUTCOME`), auc_last, auc_first, auc_last_within_task; NaN where the episodes have no such figure.
    """
    scores, labels = torch.tensor(last), torch.tensor(outcomes)
    near = {"brier_last": metrics.brier(scores, labels)} if scale in ENDS_AS_OUTCOME else {}
    return near | {
        "auc_last": metrics.auc(scores, labels > 0.5),
        "auc_first": metrics.auc(torch.tensor(first), labels > 0.5),
        "auc_last_within_task": metrics.auc_within(scores, labels > 0.5, tasks)[0],
    }
